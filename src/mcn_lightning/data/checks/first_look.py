"""A look at some videos of a data set before an hour is lost: do rates, units and levels fit together?"""

from __future__ import annotations

import logging

import numpy as np

from mcn_lightning.data.checks.consistency import find_wrong_rate, wrong_in_most
from mcn_lightning.data.videos import Videos, video_lengths
from mcn_lightning.errors import InputError

logger = logging.getLogger(__name__)

VIDEOS = 32
"""Videos whose durations are compared: only the heads of their files are read."""
READ = 8
"""Videos of which features are read."""


def inspect_sample(source: Videos, allowed: float, where: str) -> None:
    """Check some videos, evenly spread over a split: lengths of their parts, and the features of a few.

    Args:
        source: the videos of the split.
        allowed: seconds by which the parts of a video may differ.
        where: what the message begins with.

    Raises:
        InputError: if a rate or a unit is wrong in nearly all of them, or features are no features.
    """
    lengths, faults = [], dict[str, list[tuple[str, str | None]]]()
    # spread over the list, which is often sorted by category or length
    chosen = np.unique(np.linspace(0, len(source) - 1, VIDEOS).astype(int)).tolist()
    read = set(chosen[:: max(1, len(chosen) // READ)])
    for index in chosen:
        try:
            video = source.open(index)
            lengths.append(video_lengths(source.id(index), video))
            if index in read:
                for name, fault in video.faults():
                    faults.setdefault(name, []).append((f"{source.id(index)}{name}", fault))
        except (InputError, IndexError, OverflowError, ValueError, RuntimeError):
            continue  # an unusable video, which is told where it is read
    if (wrong := find_wrong_rate(lengths, allowed)) is not None:
        raise InputError(f"{where}: {wrong}; where all is right, raise data.clips.overrun (now {allowed:g} s)")
    for stream in faults.values():
        if (wrong := wrong_in_most(stream)) is not None:
            raise InputError(f"{where}: {wrong}")
        for name, fault in stream:
            if fault is not None:
                logger.warning("%s: %s: %s", where, name, fault)
