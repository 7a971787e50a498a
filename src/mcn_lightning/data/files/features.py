"""Reading stored features, and pooling them over the seconds of a clip.

A video is far longer than a clip, so the arrays are memory-mapped where the file allows it (NumPy's own ``savez`` does
not compress): only the rows that a clip uses are read. The reductions run in torch, whose float16 maximum is several
times faster than NumPy's.
"""

from __future__ import annotations

import math
import mmap
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.batch import AbsentError
from mcn_lightning.errors import InputError

SAMPLE_RATE = 16_000  # of the sound that the spectrograms were made from, in Hz
HOP = 160  # samples between two frames: 10 ms
N_FFT = 400  # samples of one frame
FRAME_RATE = SAMPLE_RATE / HOP  # frames a second

_DAMAGED = (OSError, EOFError, ValueError, TypeError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _check(good: bool | np.bool_, option: str, value: object, advice: str) -> None:
    if not good:
        raise ValueError(f"--data.{option} is {value}: {advice}")


@dataclass(frozen=True)
class VisualStream:
    """One kind of visual feature that is stored for every video.

    Args:
        suffix: what follows the video id in the file name, before ``.npz`` or ``.npy``.
        rate: rows a second.
        width: numbers in a row.
    """

    suffix: str = "_2d"
    rate: float = 1.0
    width: int = 2048

    def __post_init__(self) -> None:
        _check(self.rate > 0, "streams.rate", self.rate, "give the rows stored for each second, for instance 1.0")
        _check(self.width > 0, "streams.width", self.width, "give the width of the stored rows, for instance 2048")


DEFAULT_STREAMS = (VisualStream("_2d", 1.0, 2048), VisualStream("_3d", 1.5, 2048))


@dataclass(frozen=True)
class AudioConfig:
    """How spectrograms are stored, cut and augmented.

    Args:
        suffix: what follows the video id in the file name, before ``.npz`` or ``.npy``.
        bands: mel bands of the stored spectrogram.
        num_frames: frames of 10 ms that every clip is cut or padded to.
        time_shift: training only: the audio window moves by a uniform draw of up to this many seconds either way.
        time_stretch: training only: the clip is played faster or slower by a uniform draw of up to this share.
        band_shift: training only: the bands move up or down by a draw of up to this many; the edge band is repeated.
        mask_bands: training only: one random block of up to this many bands is set to the clip's mean.
        mask_frames: training only: one random block of up to this many frames is set to the clip's mean.
        pad_value: dB written after the end of a short clip; the released code writes 0.
        clamp_start: take a window that begins in the first 12.5 ms from the first frame on. The released code slices
            from the wrong end there and gets silence (False).
    """

    suffix: str = "_spec"
    bands: int = 40
    num_frames: int = 1000
    time_shift: float = 0.0
    time_stretch: float = 0.0
    band_shift: int = 0
    mask_bands: int = 0
    mask_frames: int = 0
    pad_value: float = 0.0
    clamp_start: bool = True

    @property
    def augments(self) -> bool:
        """Whether training changes the spectrograms, beyond moving the window."""
        return bool(self.time_stretch or self.band_shift or self.mask_bands or self.mask_frames)

    def __post_init__(self) -> None:
        _check(self.bands > 0, "audio.bands", self.bands, "give the mel bands that are stored, for instance 40")
        _check(self.num_frames > 0, "audio.num_frames", self.num_frames, "give frames of 10 ms, for instance 1000")
        _check(self.time_shift >= 0, "audio.time_shift", self.time_shift, "give seconds, 0 for no shift")
        stretch = 0 <= self.time_stretch < 1
        _check(stretch, "audio.time_stretch", self.time_stretch, "give a share below 1, 0 for none")
        shift = 0 <= self.band_shift < self.bands
        _check(shift, "audio.band_shift", self.band_shift, f"give 0 for none and less than {self.bands}")
        bands = 0 <= self.mask_bands <= self.bands
        _check(bands, "audio.mask_bands", self.mask_bands, f"give 0 for no mask and at most {self.bands}")
        frames = 0 <= self.mask_frames <= self.num_frames
        _check(frames, "audio.mask_frames", self.mask_frames, f"give 0 for no mask and at most {self.num_frames}")
        _check(np.isfinite(self.pad_value), "audio.pad_value", self.pad_value, "give dB, for instance 0 or -80")


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


def nothing_of(stream: VisualStream) -> Tensor:
    """Return the rows of a stream that is missing: none, ``(0, width)`` float16, which widens no other."""
    return torch.zeros(0, stream.width, dtype=torch.float16)


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


def feature_file(stem: Path) -> Path:
    """Return the file of features that a path without its ending means: ``.npz`` where there is one, else ``.npy``.

    Args:
        stem: the path; one that ends in ``.npz`` or ``.npy`` already is returned as it is.
    """
    if stem.suffix in (".npz", ".npy"):
        return stem
    stored = stem.with_name(f"{stem.name}.npz")
    single = stem.with_name(f"{stem.name}.npy")
    return single if not stored.is_file() and single.is_file() else stored


def read_array(path: Path, key: str) -> Tensor:
    """Read one floating-point array of an ``.npz`` file, or the one of an ``.npy`` file, never unpickling anything.

    Args:
        path: the file.
        key: name of the array in an ``.npz`` file.

    Returns:
        The array as a tensor of its stored shape and precision.

    Raises:
        InputError: if the file is missing or damaged, has no such array, or the array is empty or not of numbers.
    """
    single = path.suffix == ".npy"
    try:
        array = _map_single(path) if single else _map_array(path, key)
    except FileNotFoundError:
        other = "" if single else f", nor {path.stem}.npy"
        raise AbsentError(f"{path}: expected a feature file with the array '{key}', found no file{other}") from None
    except KeyError as error:
        raise InputError(f"{path}: expected the array '{key}', found {error.args[0]}") from None
    except _DAMAGED as error:
        what = " ".join(str(error).split())
        whole = "a whole .npy file" if single else f"a whole .npz file with '{key}'"
        found = f"a damaged one ({what})"
        if "Python objects" in what or "Object arrays" in what:  # NumPy's words for what only a pickle can hold
            found = "an array of Python objects, which may run code: save numbers, np.asarray(rows, dtype='float32')"
        raise InputError(f"{path}: expected {whole}, found {found}") from None
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:  # torch knows no long double
        raise InputError(f"{path}: expected '{key}' to hold floating-point numbers, found {array.dtype}")
    if array.size == 0:
        raise InputError(f"{path}: expected at least one row in '{key}', found an empty array {array.shape}")
    return torch.from_numpy(array)


def _map_single(path: Path) -> np.ndarray:
    """Memory-map the array of an ``.npy`` file."""
    with open(path, "rb") as file:  # NumPy would otherwise read a zip archive or try a pickle
        np.lib.format.read_magic(file)
    # copy-on-write: torch wants an array that may be written to
    array = np.load(path, mmap_mode="c" if path.stat().st_size else None, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _map_array(path: Path, key: str) -> np.ndarray:
    """Memory-map one array of an ``.npz`` file, or read it where it is compressed or oddly laid out."""
    with zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            raise KeyError([name.removesuffix(".npy") for name in archive.namelist()])
        entry = archive.getinfo(f"{key}.npy")
        if entry.compress_type == zipfile.ZIP_STORED:
            with open(path, "rb") as file:
                file.seek(entry.header_offset)
                head = file.read(30)  # the fixed part of a zip member's header ends with the lengths of two fields
                file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
                begin = file.tell()
                shape, fortran, dtype = _read_header(file)
                whole_array = file.tell() - begin + dtype.itemsize * math.prod(shape) == entry.file_size
                if whole_array and not fortran and dtype.kind == "f" and dtype.isnative and min(shape, default=1) > 0:
                    # copy-on-write: torch wants an array that may be written to
                    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                    return np.ndarray(shape, dtype, buffer=whole, offset=file.tell())
        with archive.open(entry) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"NumPy format version {version}")


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
            _refuse_non_finite(rows[int(start * rate) : int(end * rate) + 1], start, end)
    return highest if len(distinct) == len(clips) else highest[[distinct[clip] for clip in clips]]


def all_finite(values: Tensor) -> bool:
    """Tell whether no number is NaN or infinite, by its bits: ten times faster than asking each number."""
    size = values.element_size()
    bits = values.numpy().view(f"i{size}")
    infinity = torch.tensor(float("inf"), dtype=values.dtype).numpy().view(f"i{size}")
    # as signed integers, what is not finite lies above all else; as unsigned ones, so does what is not and is negative
    return bool(bits.max() < infinity and bits.view(f"u{size}").max() < infinity.view(f"u{size}") + (1 << 8 * size - 1))


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
            _refuse_non_finite(cut[first : first + count], start, end)


def augment_audio(cut: Tensor, lengths: Tensor, config: AudioConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Stretch, shift and mask the clips of a training video, as far as the options ask for it.

    Speed perturbation (Ko et al., "Audio augmentation for speech recognition", 2015) on the spectrogram, a shift of the
    bands, and one masked block of bands and one of frames (SpecAugment, Park et al. 2019).

    Args:
        cut: spectrograms, ``(B, M, T)``.
        lengths: frames of each that are not padding, ``(B,)`` int64.
        config: how far each may go.
        rng: where the draws come from.

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
        first, width = _draw_block(rng, own.shape[0], config.mask_bands)
        own[first : first + width] = mean
        first, width = _draw_block(rng, own.shape[1], config.mask_frames)
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


def _draw_block(rng: np.random.Generator, length: int, widest: int) -> tuple[int, int]:
    """Draw the start and the width (0 to ``widest``) of a block within ``length``."""
    width = int(rng.integers(0, min(widest, length) + 1))
    return int(rng.integers(0, length - width + 1)), width


def _refuse_non_finite(window: Tensor, start: float, end: float) -> None:
    bad = int((~torch.isfinite(window)).sum())
    if bad:  # a sum of large finite numbers may overflow without one
        raise InputError(f"expected finite numbers in the clip {start:.2f} to {end:.2f} s, found {bad} NaN or infinite")
