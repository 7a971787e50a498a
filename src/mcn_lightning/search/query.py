"""What is looked for: words, a sound, a picture, a clip, or several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mcn_lightning.errors import InputError, check_rules

if TYPE_CHECKING:
    from mcn_lightning.search.index import Index


@dataclass(frozen=True)
class Query:
    """What is looked for; see ``Index.search``."""

    text: str | None = None
    audio: Any = None
    rate: float | None = None
    video: Any = None
    start: float = 0.0
    end: float | None = None
    like: str | None = None
    words: str | None = None
    vector: Tensor | None = None

    @property
    def modalities(self) -> list[str]:
        """Modalities whose embeddings are summed; that of a clip or a vector is not known."""
        if self.like is not None or self.vector is not None:
            return []
        return [name for name in ("video", "audio", "text") if getattr(self, name) is not None]

    def check(self) -> None:
        """Refuse an empty query, and seconds of a file without a file.

        Raises:
            InputError: naming what is empty.
        """
        given = (self.text, self.audio, self.video, self.like, self.words, self.vector)
        check_rules(
            (
                all(each is None for each in given),
                "expected a query, found none; give a sentence, --audio, --video, --like or --words",
            ),
            (
                self.text is not None and not self.text.strip(),
                "expected a sentence, found an empty one; write what you look for",
            ),
            (
                self.words is not None and not self.words.strip(),
                "--words: expected words to look for, found none; write some",
            ),
            (
                (self.start != 0 or self.end is not None) and self.audio is None and self.video is None,
                "--start, --end: expected --audio or --video with them, found neither; for the seconds of clips, "
                "use --where",
            ),
        )

    def embed(self, index: Index, names: Sequence[str]) -> Tensor | None:
        """Return the sum of the embeddings of its parts, ``(D,)``; ``None`` for words alone.

        Args:
            index: whose model embeds, and which has the clip.
            names: embeddings of the gallery; those of a clip are compared with themselves.

        Raises:
            InputError: if a part cannot be embedded.
        """
        parts: list[Tensor] = []
        if self.text is not None:
            parts.append(index.model.embed_text(self.text)[0])
        if self.audio is not None:
            parts.append(index.model.embed_audio(self.audio, self.rate, self.start, self.end))
        if self.video is not None:
            parts.append(index.model.embed_video(self.video, self.start, self.end))
        if self.like is not None:
            parts.append(index.vectors.rows(names, [index.clips.row_of(self.like)])[0])
            if not parts[-1].any():
                lacking = " and ".join(names)
                raise InputError(f"--like {self.like}: expected a clip with {lacking}, found none; choose --modality")
        if self.vector is not None:
            if tuple(self.vector.shape) != (index.vectors.width,):
                found = tuple(self.vector.shape)
                raise InputError(f"vector: expected an embedding ({index.vectors.width},), found the shape {found}")
            parts.append(self.vector.float())
        return torch.stack([part.cpu() for part in parts]).sum(dim=0) if parts else None
