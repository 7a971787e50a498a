"""The transcript of a video: its annotated steps in order, and the background between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mcn_lightning.benchmarks.localization.annotations import Segment

BACKGROUND = -1
"""Step index of seconds without an annotated step."""


@dataclass(frozen=True)
class Entry:
    """One entry of a transcript: a step, or background, with its annotated seconds."""

    step: int
    start: float
    end: float


def transcript(segments: Sequence[Segment], seconds: int, background: bool) -> list[Entry]:
    """Return the annotated segments in order, with background in gaps of at least one second.

    Args:
        segments: with step, start and end in seconds, in order of their start.
        seconds: length of the video.
        background: whether to add entries for the gaps.
    """
    entries, last = [], 0.0
    for segment in segments:
        if background and segment.start - last >= 1.0:
            entries.append(Entry(BACKGROUND, last, segment.start))
        entries.append(Entry(segment.step, segment.start, segment.end))
        # the latest end so far: a long segment may cover later ones
        last = max(last, segment.end)
    if background and seconds - last >= 1.0:
        entries.append(Entry(BACKGROUND, last, float(seconds)))
    return entries


def second_labels(segments: Sequence[Segment], seconds: int) -> np.ndarray:
    """Return the step annotated at the middle of each second, ``(T,)``. Of several, the one that started last wins."""
    labels = np.full(seconds, BACKGROUND)
    middle = np.arange(seconds) + 0.5
    for segment in segments:
        labels[(segment.start <= middle) & (middle < segment.end)] = segment.step
    return labels
