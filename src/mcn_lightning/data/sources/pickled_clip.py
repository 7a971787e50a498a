"""One clip of a benchmark pickle as a video of one clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.spectrograms import AudioConfig, copy_runs
from mcn_lightning.data.sources.clip_records import ClipRecord
from mcn_lightning.data.videos import NewTensor, Sound, join_streams


class PickledClip:
    """One clip of a pickle, opened; see ``StoredVideo``.

    Args:
        record: what it holds.
        config: how spectrograms are cut; ``None`` for no audio.
        several: each of its captions is a query in evaluation; otherwise the first one is.
        allow_missing: what the clip lacks is not there, and not zeros.
        with_text: captions are read.
    """

    lengths: tuple[Length, ...] = ()  # a clip's own features, pooled
    timed = False  # its clip is all of it, and has no seconds

    def __init__(
        self,
        record: ClipRecord,
        config: AudioConfig | None,
        several: bool = False,
        allow_missing: bool = False,
        with_text: bool = True,
    ) -> None:
        self.with_text, self.several = with_text, several
        self.record = record
        self.config = config
        self.allow_missing = allow_missing

    @property
    def duration(self) -> float:
        """Infinite: nothing bounds the caption. Without a caption, that of the one window that stands for it."""
        return 1.0 if self.captions is None else float("inf")

    @property
    def captions(self) -> Captions | None:
        """One caption over the whole clip. Of several, training samples one, and each is a query in evaluation."""
        texts = self.record.texts
        if self.allow_missing and self.with_text and not texts:
            return None
        choices = (self.record.choices,) if self.record.choices not in ((), texts[:1]) else None
        queries = (texts,) if self.several and len(texts) > 1 else None
        label = None if self.record.label is None else np.array([self.record.label])
        return Captions(np.zeros(1), np.ones(1), texts[:1] or ("",), label, choices, queries=queries)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream, and what is wrong with its numbers; see ``StoredVideo``."""
        frames = None if self.record.audio is None else self.record.audio.T
        found = content_faults(self.record.streams, frames)
        return [(f" stream {number}", fault) for number, fault in enumerate(found)]

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the features of B times this clip, ``(B, C)``."""
        if not self.record.streams or (self.allow_missing and not self.record.seen):
            return None
        return join_streams([stream.expand(len(clips), -1) for stream in self.record.streams], new)

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram, cut at ``num_frames``, for B times this clip; no frame of it where it is silent."""
        if self.config is None or (self.allow_missing and self.record.audio is None):
            return None
        frames = self.record.audio
        source = torch.empty(0, self.config.bands) if frames is None else frames.T
        size = min(len(source), self.config.num_frames)
        out = new("frames", (size, self.config.bands), source.dtype, max_rows=self.config.num_frames)
        starts = torch.zeros(len(spans), dtype=torch.int64)
        return Sound(copy_runs(source, [(0, size)], out), starts, torch.full((len(spans),), size))
