"""Joining the clips of several videos to one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcn_lightning.batch import MODALITIES, BadVideo, ClipBatch
from mcn_lightning.memory import join


def collate(items: Sequence[ClipBatch | BadVideo]) -> ClipBatch:
    """Join the clips of several videos into one batch.

    Args:
        items: the clips of each video, or why it could not be used.

    Returns:
        A batch of all clips, the unusable videos under ``skipped``; of length 0 where no video could be used.
    """
    good = [item for item in items if isinstance(item, ClipBatch)]
    skipped = tuple(item for item in items if isinstance(item, BadVideo))
    if not good:
        return ClipBatch(ids=(), skipped=skipped)
    return ClipBatch(
        ids=tuple(name for item in good for name in item.ids),
        items=tuple(name for item in good for name in item.items),
        video=_join([item.video for item in good]),
        audio=_join([item.audio for item in good]),
        frames=_join([item.frames for item in good]),
        frame_start=_join_starts(good),
        num_frames=good[0].num_frames,
        pad_value=good[0].pad_value,
        audio_frames=_join([item.audio_frames for item in good]),
        words=_join([item.words for item in good]),
        labels=_join_labels(good),
        present=_join([item.present for item in good]),
        clips_per_video=good[0].clips_per_video,
        video_widths=good[0].video_widths,
        skipped=skipped,
        about=tuple(one for item in good for one in item.about),
    )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join the clips of several videos; None where any video lacks the column."""
    present = [part for part in parts if part is not None]
    return join(present) if len(present) == len(parts) else None


def _join_labels(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the topics of several videos; -1 for the clips of a video without captions among others that have topics."""
    labels = [item.labels for item in items]
    if any(label is not None for label in labels):
        column = MODALITIES.index("text")
        labels = [
            torch.full((len(item),), -1)
            if label is None and item.present is not None and not item.present[:, column].any()
            else label
            for label, item in zip(labels, items, strict=True)
        ]
    return _join(labels)


def _join_starts(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the rows with which clips begin, now that the frames of all videos stand one after the other."""
    starts, size = [], 0
    for item in items:
        if item.frames is None or item.frame_start is None:
            return None
        starts.append(item.frame_start + size)
        size += len(item.frames)
    return join(starts)
