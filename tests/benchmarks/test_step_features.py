"""Features of whole videos by the second: pooling, windows of sound, and what bad files get."""

from __future__ import annotations

import math
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mcn_lightning.batch import cut_clips
from mcn_lightning.benchmarks.localization.features import audio_windows, open_features, pool_seconds, seconds_of
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.howto100m import VideoLayout
from mcn_lightning.errors import InputError

WIDTH, BANDS = 4, 3


@pytest.mark.parametrize(
    ("rows", "rate", "seconds"), [(7, 1.0, 7), (7, 1.5, 5), (6, 1.5, 4), (5400, 1.5, 3600), (1, 2.0, 1), (21, 0.7, 30)]
)
def test_seconds(rows, rate, seconds):
    assert seconds_of(rows, rate) == seconds


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "seconds"), [(1, 1), (1, 5), (7, 7), (10, 7), (7, 10), (3, 2), (45, 30), (100, 1), (97, 31)]
)
def test_pooling_is_the_maximum_of_each_bin(rows, seconds, dtype):
    features = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = features.clone()
    pooled = pool_seconds(features, seconds)
    assert pooled.shape == (seconds, WIDTH) and pooled.dtype == torch.float32 and torch.equal(features, kept)
    for second in range(seconds):
        first, stop = second * rows // seconds, math.ceil((second + 1) * rows / seconds)
        assert torch.equal(pooled[second], features[first:stop].amax(0).float())
    assert torch.equal(pooled, F.adaptive_max_pool1d(features.float().T[None], seconds)[0].T)


def windows(columns, seconds, **options):
    start, length = audio_windows(columns, seconds, **options)
    assert start.dtype == length.dtype == torch.int64 and start.shape == length.shape == (seconds,)
    return list(zip(start.tolist(), (start + length).tolist(), strict=True))


def test_windows_of_sound_are_centred_on_the_second_and_stay_in_the_video():
    found = windows(2000, 20)
    assert found[:6] == [(0, 798)] * 5 + [(98, 898)]  # 25 ms before a time lies the frame that it falls in
    assert found[10] == (598, 1398)
    assert found[15:] == [(1098, 1898), (1198, 1998), (1198, 1998), (1198, 1998), (1198, 1998)]


@pytest.mark.parametrize("seconds", [1, 2, 7, 8, 9, 30])
def test_windows_follow_the_released_rule(seconds):
    for second, found in enumerate(windows(10**6, seconds)):
        start, end = second - 4, second + 4
        if second > seconds - 4:
            start, end = seconds - 8, seconds
        if second < 4:
            start, end = 0, 8
        if seconds < 8:  # the released code would leave the video
            start, end = 0, seconds
        frames = [max((int(time * 16000) - 200) // 160, 0) for time in (start, end)]
        assert found == tuple(frames)


def test_windows_that_leave_the_spectrogram_are_cut():
    found = windows(1000, 30)
    assert found[9] == (498, 1000) and found[14] == (998, 1000)
    assert found[15:] == [(1000, 1000)] * 15
    assert windows(1000, 30, num_frames=256)[9] == (498, 754)
    assert (
        windows(1000, 10, window=4.0)
        == [(0, 398)] * 3 + [(100 * s - 2, 100 * s + 398) for s in range(1, 6)] + [(598, 998)] * 2
    )
    assert windows(0, 3) == [(0, 0)] * 3
    frames = torch.arange(1000.0)[:, None].repeat(1, BANDS)
    start, length = audio_windows(1000, 30)
    cut = cut_clips(frames, start, length, 1024, -80.0)
    assert cut.shape == (30, BANDS, 1024)
    assert cut[9, 0, :502].tolist() == frames[498:, 0].tolist() and (cut[9, :, 502:] == -80).all()
    assert (cut[15:] == -80).all()


def layout(folder, **options):
    streams = (VisualStream("_2d", 1.0, WIDTH), VisualStream("_3d", 1.5, WIDTH))
    return VideoLayout(folder, folder, streams, AudioConfig(bands=BANDS), **options)


def write(folder, seconds=6, dtype=np.float16):
    rng = np.random.default_rng(0)
    flat, motion = rng.normal(size=(seconds, WIDTH)), rng.normal(size=(seconds * 3 // 2, WIDTH))
    sound = rng.normal(size=(BANDS, seconds * 100 + 50))
    np.save(folder / "abc_2d.npy", flat.astype(dtype))
    np.savez(folder / "abc_3d.npz", features=motion.astype(dtype))
    np.savez(folder / "abc.npz", arr_0=sound.astype(dtype))
    return [array.astype(dtype) for array in (flat, motion, sound)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_files_of_every_layout(tmp_path, dtype):
    flat, motion, sound = write(tmp_path, dtype=dtype)
    np.savez_compressed(tmp_path / "abc_2d.npz", features=flat + 1)  # the .npy file goes first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = open_features(layout(tmp_path), "abc")
    assert found.seconds == 6 and len(found.rows) == 2 and found.frames is not None
    for tensor, array in zip((*found.rows, found.frames), (flat, motion, sound), strict=True):
        assert np.array_equal(tensor.numpy(), array) and tensor.numpy().dtype == np.dtype(dtype).newbyteorder("=")
    np.savez(tmp_path / "abc_spec.npz", arr_0=sound + 1)  # goes before abc.npz
    again = open_features(layout(tmp_path, modalities=("audio",)), "abc")
    assert again.rows == () and again.seconds == 7 and np.array_equal(again.frames.numpy(), sound + 1)
    np.save(tmp_path / "abc_2d.npy", np.asfortranarray(flat))
    only = open_features(layout(tmp_path, modalities=("video", "text")), "abc")
    assert only.frames is None and np.array_equal(only.rows[0].numpy(), flat)


def test_rows_are_memory_mapped_and_the_file_is_never_written(tmp_path):
    write(tmp_path)
    before = (tmp_path / "abc_2d.npy").read_bytes()
    found = open_features(layout(tmp_path), "abc")
    maps = open("/proc/self/maps").read() if os.path.exists("/proc/self/maps") else "abc_2d.npy abc_3d.npz"
    assert "abc_2d.npy" in maps and "abc_3d.npz" in maps
    found.rows[0].zero_()
    assert (tmp_path / "abc_2d.npy").read_bytes() == before


SHAPE = "expected features of shape (rows, 4), found "
DAMAGED = "expected a whole .npy file, found a damaged one "
NAN = np.array([[0, 1, 2, 3], [0, np.nan, np.inf, 3]], dtype=np.float32)
BAD = {
    "width": ("abc_2d.npy", np.ones((5, 3)), SHAPE + "(5, 3)"),
    "one dimension": ("abc_2d.npy", np.ones(4), SHAPE + "(4,)"),
    "no rows": ("abc_2d.npy", np.ones((0, 4)), "expected at least one row in 'features', found an empty array (0, 4)"),
    "whole numbers": (
        "abc_2d.npy",
        np.ones((5, 4), dtype=int),
        "expected 'features' to hold floating-point numbers, found int64",
    ),
    "complex numbers": (
        "abc_2d.npy",
        np.ones((5, 4), dtype=complex),
        "to hold floating-point numbers, found complex128",
    ),
    "objects": (
        "abc_2d.npy",
        np.array([[0, 1, None, 3]]),
        "expected a whole .npy file, found an array of Python objects",
    ),
    "objects in 3d": ("abc_3d.npz", {"features": np.array([[None]])}, "found an array of Python objects"),
    "a pickle": ("abc_2d.npy", pickle.dumps([1, 2]), DAMAGED + "(the magic string is not correct"),
    "nothing": ("abc_2d.npy", b"", DAMAGED + "(EOF"),
    "cut short": ("abc_2d.npy", "cut", DAMAGED + "("),
    "nan": ("abc_2d.npy", NAN, "expected finite numbers, found 2 NaN or infinite, the first in row 1"),
    "nan in 3d": ("abc_3d.npz", {"features": NAN}, "expected finite numbers, found 2 NaN or infinite, the first in"),
    "width in 3d": ("abc_3d.npz", {"features": NAN.T}, "expected features of shape (rows, 4), found (4, 2)"),
    "name in 3d": ("abc_3d.npz", {"arr_0": NAN}, "expected the array 'features', found ['arr_0']"),
    "no 2d": ("abc_2d.npy", None, "expected a feature file with rows of 4 numbers, found no file, nor abc_2d.npz"),
    "no 3d": ("abc_3d.npz", None, "expected a feature file with rows of 4 numbers, found no file, nor abc_3d.npz"),
    "no sound": (
        "abc.npz",
        None,
        "expected a feature file with the array 'arr_0', found no file, nor abc_spec.npy or abc.npz or",
    ),
    "bands": ("abc.npz", {"arr_0": NAN}, "expected arr_0 of shape (3, frames), found (2, 4)"),
    "no frames": ("abc.npz", {"arr_0": np.ones((3, 0))}, "expected at least one row in 'arr_0', found an empty array"),
    "nan in sound": ("abc.npz", {"arr_0": np.r_[NAN, NAN[:1]]}, "found 2 NaN or infinite, the first in column 1"),
    "no archive": ("abc.npz", b"spectrogram", "expected a whole .npz file with 'arr_0', found a damaged one"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, kind):
    name, content, part = BAD[kind]
    write(tmp_path)
    path = tmp_path / name
    if isinstance(content, str):
        path.write_bytes(path.read_bytes()[:-5])
    elif content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    with pytest.raises(InputError) as caught:
        open_features(layout(tmp_path), "abc")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name[:3])) and part in message and "\n" not in message
    if content is not None:
        assert message.startswith(f"{path}: ")
