"""Log-mel spectrograms: reading them, the frames of each clip, and their augmentation in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.data.files.arrays import all_finite, read_array, refuse_non_finite
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, ShareBelowOne

SAMPLE_RATE = 16_000  # of the sound that the spectrograms were made from, in Hz
HOP = 160  # samples between two frames: 10 ms
N_FFT = 400  # samples of one frame
FRAME_RATE = SAMPLE_RATE / HOP  # frames a second


@dataclass(frozen=True)
class AudioConfig(Options, option="--data.audio"):
    """How spectrograms are stored, cut and augmented.

    Args:
        suffix: what follows the video id in the file name, before ``.npz`` or ``.npy``.
        bands: mel bands of the stored spectrogram.
        num_frames: frames of 10 ms that every clip is cut or padded to.
        time_shift: training only: the audio window moves by a random time, uniform up to this many seconds either way.
        time_stretch: training only: the clip is played faster or slower by a random share, uniform up to this one.
        band_shift: training only: the bands move up or down by a random number up to this; the edge band is repeated.
        mask_bands: training only: one random block of up to this many bands is set to the clip's mean.
        mask_frames: training only: one random block of up to this many frames is set to the clip's mean.
        pad_value: dB written after the end of a short clip; the released code writes 0.
        clamp_start: take a window that begins in the first 12.5 ms from the first frame on. The released code slices
            from the wrong end there and gets silence (False).
    """

    suffix: str = "_spec"
    bands: PositiveInt = 40
    num_frames: PositiveInt = 1000
    time_shift: NonNegativeFloat = 0.0
    time_stretch: ShareBelowOne = 0.0
    band_shift: NonNegativeInt = 0
    mask_bands: NonNegativeInt = 0
    mask_frames: NonNegativeInt = 0
    pad_value: float = 0.0
    clamp_start: bool = True

    @property
    def augments(self) -> bool:
        """Whether training changes the spectrograms, beyond moving the window."""
        return bool(self.time_stretch or self.band_shift or self.mask_bands or self.mask_frames)

    def __post_init__(self) -> None:
        super().__post_init__()
        most = {"band_shift": self.bands - 1, "mask_bands": self.bands, "mask_frames": self.num_frames}
        for name, limit in most.items():
            if getattr(self, name) > limit:
                raise InputError(f"--data.audio.{name}: expected at most {limit}, found {getattr(self, name)}")
        if not math.isfinite(self.pad_value):
            raise InputError(f"--data.audio.pad_value: expected dB, for instance -80, found {self.pad_value}")


def read_spectrogram(path: Path, bands: int) -> Tensor:
    """Read the spectrogram file of one video.

    Args:
        path: an ``.npz`` file with the array ``arr_0``, or an ``.npy`` file.
        bands: mel bands expected.

    Returns:
        ``(bands, frames)`` in the stored precision, memory-mapped where possible.

    Raises:
        InputError: if the file is missing, damaged, empty or of another shape.
    """
    frames = read_array(path, "arr_0")
    if frames.ndim != 2 or frames.shape[0] != bands:
        raise InputError(f"{path}: expected arr_0 of shape ({bands}, frames), found {tuple(frames.shape)}")
    return frames


def frames_at(seconds: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the spectrogram frames that times fall in, ``floor((int(t * 16000) - 200) / 160)``: -2 or -1 at first."""
    return ((np.array(seconds) * SAMPLE_RATE).astype(np.int64) - N_FFT // 2) // HOP


def seconds_of_frames(frames: int) -> float:
    """Return the seconds that a number of spectrogram frames spans, ``(160 n + 200) / 16000``."""
    return (frames * HOP + N_FFT // 2) / SAMPLE_RATE


def window_span(start: float, num_frames: int) -> tuple[float, float]:
    """Return the span whose spectrogram has ``num_frames`` frames from ``start`` on, where there are so many.

    ``frames_at`` is negative in the first 12.5 ms, so that a window from 0 to 10 s would lack two of its 1,000 frames:
    as in the released code it begins at the first frame.

    Args:
        start: in seconds.
        num_frames: frames to read.
    """
    begin = max(start, N_FFT / 2 / SAMPLE_RATE)
    return begin, begin + seconds_of_frames(num_frames + 1)


def clip_frames(
    columns: int, clips: Sequence[tuple[float, float]], num_frames: int, clamp_start: bool = True
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Find the spectrogram frames that several clips of one video use, each frame once.

    Args:
        columns: frames of the video.
        clips: start and end of each of the B clips, in seconds.
        num_frames: T, the frames that a clip has at most.
        clamp_start: False slices from the wrong end where ``frames_at`` is negative, as the released code does.

    Returns:
        Runs of frames (first, stop) in ascending order; the place in all runs together where each clip begins; and the
        frames of each clip.
    """
    found = frames_at(clips)
    if not clamp_start:
        found[found < 0] += columns  # where Python's slices begin
    found = found.clip(0, columns)
    found[:, 1] = found[:, 1].clip(found[:, 0], found[:, 0] + num_frames)
    spans = list(zip(*found.T.tolist(), strict=True))
    runs: list[tuple[int, int]] = []
    places, size, last = {}, 0, -1
    for first, stop in sorted(set(spans)):
        if first > last:  # a run of its own
            runs.append((first, stop))
            places[first], size, last = size, size + stop - first, stop
            continue
        places[first] = size - (last - first)
        if stop > last:
            runs[-1] = (runs[-1][0], stop)
            size, last = size + stop - last, stop
    return runs, [places[first] for first, _ in spans], [stop - first for first, stop in spans]


def copy_runs(frames: Tensor, runs: Sequence[tuple[int, int]], out: Tensor) -> Tensor:
    """Copy runs of frames, one after the other.

    Args:
        frames: spectrogram of a video, time-major, ``(columns, M)``.
        runs: first and stop of each run.
        out: where to write, ``(F, M)``.
    """
    source, target, row = frames.numpy(), out.numpy(), 0
    for first, stop in runs:
        target[row : row + stop - first] = source[first:stop]
        row += stop - first
    return out


def refuse_bad_frames(
    cut: Tensor, place: Sequence[int], length: Sequence[int], clips: Sequence[tuple[float, float]]
) -> None:
    """Refuse clips with NaN or infinity in their frames.

    Args:
        cut: frames of the clips, ``(F, M)``.
        place: row with which each clip begins.
        length: frames of each clip.
        clips: start and end of each clip in seconds.

    Raises:
        InputError: naming the first such clip.
    """
    if len(cut) and not all_finite(cut):
        for first, count, (start, end) in zip(place, length, clips, strict=True):
            refuse_non_finite(cut[first : first + count], start, end)


def augment_audio(cut: Tensor, lengths: Tensor, config: AudioConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Stretch, shift and mask the clips of a training video, as far as the options ask for it.

    Speed perturbation (Ko et al., "Audio augmentation for speech recognition", 2015) on the spectrogram, a shift of the
    bands, and one masked block of bands and one of frames (SpecAugment, Park et al. 2019).

    Args:
        cut: spectrograms, ``(B, M, T)``.
        lengths: frames of each that are not padding, ``(B,)`` int64.
        config: how far each may go.
        rng: random generator.

    Returns:
        ``(B, M, T)`` float32 and the frames that are not padding ``(B,)``; the inputs where nothing is asked for.
    """
    if not config.augments:
        return cut, lengths
    cut = cut.float().contiguous()
    changed, frames = torch.full_like(cut, config.pad_value), lengths.clone()
    for number, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        clip = _shift_bands(_stretch(cut[number, :, :length], config.time_stretch, rng), config.band_shift, rng)
        clip = clip[:, : cut.shape[2]]
        mean = clip.mean()
        frames[number] = clip.shape[1]
        own = changed[number, :, : clip.shape[1]]
        own[:] = clip
        first, width = _random_block(rng, own.shape[0], config.mask_bands)
        own[first : first + width] = mean
        first, width = _random_block(rng, own.shape[1], config.mask_frames)
        own[:, first : first + width] = mean
    return changed, frames


def _stretch(clip: Tensor, most: float, rng: np.random.Generator) -> Tensor:
    """Play a clip ``(M, frames)`` faster or slower by up to ``most`` of its length, by linear interpolation."""
    if not most:
        return clip
    size = max(1, round(clip.shape[1] * rng.uniform(1 - most, 1 + most)))
    return F.interpolate(clip[None], size=size, mode="linear", align_corners=False)[0]


def _shift_bands(clip: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Move the bands of a clip ``(M, frames)`` up or down by up to ``most``, repeating the edge band."""
    if not most:
        return clip
    by = int(rng.integers(-most, most + 1))
    return clip[(torch.arange(len(clip)) - by).clamp(0, len(clip) - 1)]


def _random_block(rng: np.random.Generator, length: int, widest: int) -> tuple[int, int]:
    """Sample the start and the width (0 to ``widest``) of a block within ``length``."""
    width = int(rng.integers(0, min(widest, length) + 1))
    return int(rng.integers(0, length - width + 1)), width
