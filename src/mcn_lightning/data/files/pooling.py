"""Visual features: the rows of each stream of a video, and their maximum over the seconds of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mcn_lightning.data.files.arrays import all_finite, check_clip_finite, read_array
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class VisualStream(Options, option="--data.streams"):
    """One kind of visual feature that is stored for every video.

    Args:
        suffix: part of the file name between the video id and ``.npz`` or ``.npy``.
        rate: rows a second.
        width: numbers in a row.
    """

    suffix: str = "_2d"
    rate: PositiveFloat = 1.0
    width: PositiveInt = 2048


DEFAULT_STREAMS = (VisualStream("_2d", 1.0, 2048), VisualStream("_3d", 1.5, 2048))


def read_rows(path: Path, width: int) -> Tensor:
    """Read the visual features of a video, ``(rows, width)``, from the array ``features``; see ``read_array``."""
    return read_array(path, "features", ("rows", width))


def empty_rows(stream: VisualStream) -> Tensor:
    """Return ``(0, width)`` for a missing stream."""
    return torch.zeros(0, stream.width, dtype=torch.float16)  # float16 does not promote the type of other streams


def max_rows(rows: Tensor, clips: Sequence[tuple[float, float]], rate: float) -> Tensor:
    """Take the maximum over the rows of each clip of one video, each distinct clip once.

    Args:
        rows: features of a video, ``(rows, C)``.
        clips: start and end of each of the B clips, in seconds.
        rate: rows a second.

    Returns:
        ``(B, C)`` in the stored precision: the maximum over the rows ``int(start * rate)`` to ``int(end * rate)``
        inclusive. It is zero where no row is in the window.

    Raises:
        InputError: if a used row holds NaN or infinity. Minus infinity is refused only if it is the maximum.
    """
    # sampling with replacement gives the same clip several times
    distinct = {clip: number for number, clip in enumerate(dict.fromkeys(clips))}
    highest = rows.new_zeros(len(distinct), rows.shape[1])
    for (start, end), number in distinct.items():
        # inclusive, as released: the second in which a caption ends still shows it
        window = rows[int(start * rate) : int(end * rate) + 1]
        if len(window) == 0:
            continue
        # torch's float16 maximum is several times faster than NumPy's
        torch.amax(window, dim=0, out=highest[number])
    if not all_finite(highest):  # far fewer numbers than the rows, which are checked only to find the clip
        for start, end in distinct:
            check_clip_finite(rows[int(start * rate) : int(end * rate) + 1], start, end)
    return highest if len(distinct) == len(clips) else highest[[distinct[clip] for clip in clips]]
