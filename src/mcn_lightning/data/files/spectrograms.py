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

from mcn_lightning.data.files.arrays import all_finite, check_clip_finite, read_array
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
        suffix: part of the file name between the video id and ``.npz`` or ``.npy``.
        bands: mel bands of the stored spectrogram.
        num_frames: frames of 10 ms that every clip is cut or padded to.
        time_shift: training only: largest random shift of the audio window, in seconds, in both directions.
        time_stretch: training only: largest random change of the clip's speed, as a share of its length.
        band_shift: training only: largest random shift of the bands, up or down. The edge band is repeated.
        mask_bands: training only: one random block of at most this many bands is set to the clip's mean.
        mask_frames: training only: one random block of at most this many frames is set to the clip's mean.
        pad_value: dB written after the end of a short clip. The released code writes 0.
        clamp_start: read a window that begins in the first 12.5 ms from the first frame on. With False it is sliced
            from the wrong end and gives silence, as in the released code.
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
        """Whether training changes the spectrograms. Moving the window does not count."""
        return bool(self.time_stretch or self.band_shift or self.mask_bands or self.mask_frames)

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {"band_shift": self.bands - 1, "mask_bands": self.bands, "mask_frames": self.num_frames}
        for name, limit in limits.items():
            if getattr(self, name) > limit:
                raise InputError(f"--data.audio.{name}: expected at most {limit}, found {getattr(self, name)}")
        if not math.isfinite(self.pad_value):
            raise InputError(f"--data.audio.pad_value: expected dB, for instance -80, found {self.pad_value}")


def read_spectrogram(path: Path, bands: int) -> Tensor:
    """Read the spectrogram of a video, ``(bands, frames)``, from the array ``arr_0``; see ``read_array``."""
    return read_array(path, "arr_0", (bands, "frames"))


def frames_at(seconds: Sequence[Sequence[float]]) -> np.ndarray:
    """Return the spectrogram frame of each time: ``floor((int(t * 16000) - 200) / 160)``.

    It is negative in the first 12.5 ms.
    """
    # librosa's time_to_frames with n_fft: the time of a frame is that of its centre
    return ((np.array(seconds) * SAMPLE_RATE).astype(np.int64) - N_FFT // 2) // HOP


def seconds_of_frames(frames: int) -> float:
    """Return the seconds that a number of spectrogram frames spans, ``(160 n + 200) / 16000``."""
    return (frames * HOP + N_FFT // 2) / SAMPLE_RATE


def window_span(start: float, num_frames: int) -> tuple[float, float]:
    """Return start and end, in seconds, of the span with ``num_frames`` spectrogram frames from ``start`` on.

    Args:
        start: in seconds.
        num_frames: frames to read.
    """
    # frames_at is negative before this time, and a window from 0 to 10 s would lack two of its 1,000 frames; as in the
    # released code, it begins at the first frame
    begin = max(start, N_FFT / 2 / SAMPLE_RATE)
    return begin, begin + seconds_of_frames(num_frames + 1)


def clip_frames(
    columns: int, clips: Sequence[tuple[float, float]], num_frames: int, clamp_start: bool = True
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Find the spectrogram frames that several clips of one video use, each frame once.

    Args:
        columns: frames of the video.
        clips: start and end of each of the B clips, in seconds.
        num_frames: T, the largest number of frames of a clip.
        clamp_start: False slices from the wrong end where ``frames_at`` is negative, as the released code does.

    Returns:
        Three lists: runs of frames (first, stop) in ascending order, the row of the concatenated runs where each clip
        begins, and the number of frames of each clip.
    """
    found = frames_at(clips)
    if not clamp_start:
        found[found < 0] += columns  # as Python's slices do
    found = found.clip(0, columns)
    found[:, 1] = found[:, 1].clip(found[:, 0], found[:, 0] + num_frames)
    spans = list(zip(*found.T.tolist(), strict=True))
    runs: list[tuple[int, int]] = []
    rows, size, last = {}, 0, -1
    # sorted by their start, so that a run can only grow at its end
    for first, stop in sorted(set(spans)):
        # touching spans are one run too, which saves a copy
        if first > last:  # a run of its own
            runs.append((first, stop))
            rows[first], size, last = size, size + stop - first, stop
            continue
        rows[first] = size - (last - first)
        if stop > last:
            runs[-1] = (runs[-1][0], stop)
            size, last = size + stop - last, stop
    return runs, [rows[first] for first, _ in spans], [stop - first for first, stop in spans]


def copy_runs(frames: Tensor, runs: Sequence[tuple[int, int]], out: Tensor) -> Tensor:
    """Copy runs of frames into one tensor.

    Args:
        frames: spectrogram of a video, time-major, ``(columns, M)``.
        runs: first and stop of each run.
        out: where to write, ``(F, M)``.
    """
    source, target, row = frames.numpy(), out.numpy(), 0  # NumPy's slices cost less than torch's
    for first, stop in runs:
        target[row : row + stop - first] = source[first:stop]
        row += stop - first
    return out


def check_frames_finite(
    frames: Tensor, rows: Sequence[int], lengths: Sequence[int], clips: Sequence[tuple[float, float]]
) -> None:
    """Refuse clips with NaN or infinity in their frames.

    Args:
        frames: frames of the clips, ``(F, M)``.
        rows: first row of each clip.
        lengths: number of frames of each clip.
        clips: start and end of each clip in seconds.

    Raises:
        InputError: naming the first such clip.
    """
    if len(frames) and not all_finite(frames):
        for first, count, (start, end) in zip(rows, lengths, clips, strict=True):
            check_clip_finite(frames[first : first + count], start, end)


def augment_audio(cut: Tensor, lengths: Tensor, config: AudioConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Stretch, shift and mask the clips of a training video, as set in the options.

    Speed perturbation (Ko et al., "Audio augmentation for speech recognition", 2015) is applied to the spectrogram. The
    bands are shifted. One block of bands and one of frames are masked (SpecAugment, Park et al., 2019).

    Args:
        cut: spectrograms, ``(B, M, T)``.
        lengths: number of frames of each that are not padding, ``(B,)`` int64.
        config: limits of each change.
        rng: random generator.

    Returns:
        ``(B, M, T)`` float32, and the number of frames that are not padding ``(B,)``. Without augmentation, the inputs.
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


def _stretch(clip: Tensor, limit: float, rng: np.random.Generator) -> Tensor:
    """Change the speed of a clip ``(M, frames)`` by at most the share ``limit``, with linear interpolation."""
    if not limit:
        return clip
    size = max(1, round(clip.shape[1] * rng.uniform(1 - limit, 1 + limit)))
    return F.interpolate(clip[None], size=size, mode="linear", align_corners=False)[0]


def _shift_bands(clip: Tensor, limit: int, rng: np.random.Generator) -> Tensor:
    """Move the bands of a clip ``(M, frames)`` up or down by at most ``limit``, and repeat the edge band."""
    if not limit:
        return clip
    shift = int(rng.integers(-limit, limit + 1))
    return clip[(torch.arange(len(clip)) - shift).clamp(0, len(clip) - 1)]


def _random_block(rng: np.random.Generator, length: int, max_width: int) -> tuple[int, int]:
    """Sample the start and the width (0 to ``max_width``) of a block within ``length``."""
    width = int(rng.integers(0, min(max_width, length) + 1))
    return int(rng.integers(0, length - width + 1)), width
