"""One clip of a benchmark pickle as a video of one clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.spectrograms import copy_runs
from mcn_lightning.data.sources.clip_records import ClipFields, ClipRecord
from mcn_lightning.data.videos import NewTensor, Sound, join_streams


class PickledClip:
    """One clip of a pickle, opened; see ``StoredVideo``.

    Args:
        record: its contents.
        fields: what is read. With ``allow_missing``, a missing field stays missing and does not become zeros.
        all_captions: whether each caption is a query in evaluation; otherwise the first one is.
    """

    lengths: tuple[Length, ...] = ()  # pooled features have no length
    timed = False  # the clip is the whole file, whose seconds are not known

    def __init__(self, record: ClipRecord, fields: ClipFields, all_captions: bool = False) -> None:
        self.record, self.fields, self.all_captions = record, fields, all_captions

    @property
    def duration(self) -> float:
        """Infinite with a caption, which has no bounds. Without one, the length of the only window."""
        return 1.0 if self.captions is None else float("inf")

    @property
    def captions(self) -> Captions | None:
        """One caption over the whole clip. Of several, training samples one, and each is a query in evaluation."""
        texts = self.record.texts
        if self.fields.allow_missing and self.fields.text and not texts:
            return None
        # the same single text is no choice: then training needs no random number for it
        choices = (self.record.choices,) if self.record.choices not in ((), texts[:1]) else None
        queries = (texts,) if self.all_captions and len(texts) > 1 else None
        label = None if self.record.label is None else np.array([self.record.label])
        # any seconds: the clip is read whole
        return Captions(np.zeros(1), np.ones(1), texts[:1] or ("",), label, choices, queries=queries)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream and what is wrong with its numbers; see ``StoredVideo``."""
        frames = None if self.record.audio is None else self.record.audio.T
        found = content_faults(self.record.streams, frames)
        return [(f" stream {number}", fault) for number, fault in enumerate(found)]

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the features of this clip B times, ``(B, C)``."""
        if not self.record.streams or (self.fields.allow_missing and not self.record.seen):
            return None
        return join_streams([stream.expand(len(clips), -1) for stream in self.record.streams], new)

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram of this clip B times, cut at ``num_frames``. A silent clip has no frames."""
        frames, config = self.record.audio, self.fields.audio
        if config is None or (self.fields.allow_missing and frames is None):
            return None
        source = torch.empty(0, config.bands) if frames is None else frames.T
        size = min(len(source), config.num_frames)
        out = new("frames", (size, config.bands), source.dtype, max_rows=config.num_frames)
        starts = torch.zeros(len(spans), dtype=torch.int64)
        return Sound(copy_runs(source, [(0, size)], out), starts, torch.full((len(spans),), size))
