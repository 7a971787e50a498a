"""Features of whole videos, second by second, for step localization.

T stands for the whole seconds of a video, R for the stored rows of a stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.benchmarks.localization.lines import require
from mcn_lightning.data.files.arrays import all_finite
from mcn_lightning.data.files.pooling import read_rows
from mcn_lightning.data.files.spectrograms import FRAME_RATE, frames_at, read_spectrogram
from mcn_lightning.data.sources.howto100m import VideoLayout
from mcn_lightning.errors import InputError

TOLERANCE = 5  # seconds by which the streams of a video may differ


@dataclass(frozen=True)
class VideoFeatures:
    """The stored features of one video.

    Args:
        rows: of each visual stream, ``(R, width)`` in the stored precision; empty if video is not read.
        frames: spectrogram in dB, ``(M, columns)`` in the stored precision; ``None`` if audio is not read.
        seconds: T, from the first stream, of which CrossTask's evaluation stores one row for each second. Without
            streams it is from the spectrogram.
    """

    rows: tuple[Tensor, ...]
    frames: Tensor | None
    seconds: int


def open_features(layout: VideoLayout, video: str, finite: bool = True) -> VideoFeatures:
    """Open the features of one video, memory-mapped where possible, and check that all numbers are finite.

    Args:
        layout: folders, streams, and which modalities are read. Below ``features`` there is ``<id><suffix>.npy`` with
            one array, or ``<id><suffix>.npz`` with the array ``features``. Below ``audio_root`` there is
            ``<id><suffix>.npz`` or ``<id>.npz`` with the array ``arr_0``, or one of these as ``.npy``.
        video: id of the video.
        finite: whether all numbers are read and checked.

    Raises:
        InputError: if a file is missing, damaged, empty, of the wrong shape or type, or holds NaN or infinity.
    """
    rows, frames, seconds = [], None, 0
    if "video" in layout.modalities:
        for stream in layout.streams:
            rows.append(_read_stream(layout.features / f"{video}{stream.suffix}", stream.width, finite))
        lasts = [seconds_of(len(stored), stream.rate) for stored, stream in zip(rows, layout.streams, strict=True)]
        seconds = lasts[0]
        found = ", ".join(f"{stream.suffix} {last} s" for stream, last in zip(layout.streams, lasts, strict=True))
        what, advice = "streams that last as long as one another", "check --data.streams and the files"
        require(max(lasts) - min(lasts) <= TOLERANCE, layout.features / video, what, found, advice)
    if "audio" in layout.modalities:
        # with the suffix first: without it, the name could be that of another kind of features
        stems = [f"{video}{suffix}" for suffix in (layout.audio.suffix, "")]
        choices = [layout.audio_root / f"{stem}{ending}" for stem in stems for ending in (".npz", ".npy")]
        path = _first_file(choices, "the array 'arr_0'")
        frames = read_spectrogram(path, layout.audio.bands)
        if finite:
            _refuse_non_finite(path, frames.T, "column")
        # the visual features count the seconds where there are both
        seconds = seconds or seconds_of(frames.shape[1], FRAME_RATE)
    return VideoFeatures(tuple(rows), frames, seconds)


def _read_stream(stem: Path, width: int, finite: bool) -> Tensor:
    choices = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".npy", ".npz")]
    path = _first_file(choices, f"rows of {width} numbers")
    rows = read_rows(path, width)
    if finite:
        _refuse_non_finite(path, rows, "row")
    return rows


def _first_file(choices: list[Path], what: str) -> Path:
    for path in choices:
        if path.is_file():
            return path
    others = " or ".join(path.name for path in choices[1:])
    raise InputError(f"{choices[0]}: expected a feature file with {what}, found no file, nor {others}")


def _refuse_non_finite(path: Path, rows: Tensor, name: str) -> None:
    if not all_finite(rows):
        bad = ~torch.isfinite(rows)
        first = int(bad.any(1).int().argmax())
        count = int(bad.sum())
        raise InputError(f"{path}: expected finite numbers, found {count} NaN or infinite, the first in {name} {first}")


def seconds_of(rows: int, rate: float) -> int:
    """Return T, the duration of ``rows`` at ``rate`` rows a second, rounded up to whole seconds."""
    # 1e-9: a quotient just above a whole number by rounding must not count as one second more
    return math.ceil(rows / rate - 1e-9)


def pool_seconds(rows: Tensor, seconds: int) -> Tensor:
    """Take the maximum over the rows of each second. With fewer rows than seconds, rows are repeated.

    This is adaptive max pooling, as in the released CrossTask evaluation for every stream. Bin i covers the rows
    ``floor(i R / T)`` to ``ceil((i + 1) R / T)``, the end excluded. Torch's own function works along columns and is ten
    times slower.

    Args:
        rows: ``(R, C)``, R at least 1, finite.
        seconds: T, at least 1.

    Returns:
        ``(T, C)`` float32, not normalised.
    """
    bins = torch.arange(seconds, device=rows.device)
    first = bins * len(rows) // seconds
    last = -(-(bins + 1) * len(rows) // seconds) - 1
    highest = rows[first]
    # one maximum for each position in a bin: bins differ in length by one row at most
    for step in range(1, int((last - first).max()) + 1):
        torch.maximum(highest, rows[torch.minimum(first + step, last)], out=highest)
    return highest.float()


def audio_windows(columns: int, seconds: int, window: float = 8.0, num_frames: int = 1024) -> tuple[Tensor, Tensor]:
    """Return the spectrogram frames of a window around each second.

    The window of second i lasts from i - 4 to i + 4, shifted to lie inside the video. The first ones are 0 to 8 and the
    last ones T - 8 to T, as in the released CrossTask evaluation. A shorter video is one window.

    Args:
        columns: frames of the spectrogram.
        seconds: T.
        window: length in seconds.
        num_frames: most frames of a window.

    Returns:
        The first frame of each window and its number of frames, both ``(T,)`` int64, as ``cut_clips`` takes them. A
        window after the end of the spectrogram has 0 frames, which is silence.
    """
    start = np.clip(np.arange(seconds) - window / 2, 0, max(seconds - window, 0))
    end = np.minimum(start + window, seconds)
    frames = frames_at(np.stack([start, end], axis=1).tolist()).clip(0, columns)
    length = (frames[:, 1] - frames[:, 0]).clip(0, num_frames)
    return torch.from_numpy(frames[:, 0].copy()), torch.from_numpy(length)
