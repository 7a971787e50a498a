"""Visual features: the rows of each stream of a video, and their maximum over the seconds of a clip.

The reductions run in torch, whose float16 maximum is several times faster than NumPy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcn_lightning.data.files.arrays import all_finite, read_array, refuse_non_finite
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class VisualStream(Options, option="--data.streams"):
    """One kind of visual feature that is stored for every video.

    Args:
        suffix: what follows the video id in the file name, before ``.npz`` or ``.npy``.
        rate: rows a second.
        width: numbers in a row.
    """

    suffix: str = "_2d"
    rate: PositiveFloat = 1.0
    width: PositiveInt = 2048


DEFAULT_STREAMS = (VisualStream("_2d", 1.0, 2048), VisualStream("_3d", 1.5, 2048))


def read_rows(path: Path, width: int) -> Tensor:
    """Read the visual feature file of one video.

    Args:
        path: an ``.npz`` file with the array ``features``, or an ``.npy`` file.
        width: numbers expected in a row.

    Returns:
        ``(rows, width)`` in the stored precision, memory-mapped where possible.

    Raises:
        InputError: if the file is missing, damaged, empty or of another shape.
    """
    rows = read_array(path, "features")
    if rows.ndim != 2 or rows.shape[1] != width:
        raise InputError(f"{path}: expected features of shape (rows, {width}), found {tuple(rows.shape)}")
    return rows


def empty_rows(stream: VisualStream) -> Tensor:
    """Return no rows for a missing stream: ``(0, width)`` float16, which does not promote the type of others."""
    return torch.zeros(0, stream.width, dtype=torch.float16)


def max_rows(rows: Tensor, clips: Sequence[tuple[float, float]], rate: float) -> Tensor:
    """Take the maximum over the rows of each clip of one video, each distinct clip once.

    Args:
        rows: features of a video, ``(rows, C)``.
        clips: start and end of each of the B clips, in seconds.
        rate: rows a second.

    Returns:
        ``(B, C)`` in the stored precision: the maximum over the rows ``int(start * rate)`` to ``int(end * rate)``
        inclusive; zeros where no row is in the window.

    Raises:
        InputError: if a used row holds NaN or infinity (of minus infinity, only where it is the maximum).
    """
    distinct = {clip: number for number, clip in enumerate(dict.fromkeys(clips))}
    highest = rows.new_zeros(len(distinct), rows.shape[1])
    for (start, end), number in distinct.items():
        window = rows[int(start * rate) : int(end * rate) + 1]
        if len(window) == 0:
            continue
        torch.amax(window, dim=0, out=highest[number])
    if not all_finite(highest):
        for start, end in distinct:
            refuse_non_finite(rows[int(start * rate) : int(end * rate) + 1], start, end)
    return highest if len(distinct) == len(clips) else highest[[distinct[clip] for clip in clips]]
