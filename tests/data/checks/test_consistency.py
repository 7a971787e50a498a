"""Rates, hops, units and levels: what a data set is refused for before training, and what it is not refused for."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil

import numpy as np
import pytest
import torch

from data.sharding import STREAMS, narrated, opened, packed
from mcn_lightning.batch import BadVideo
from mcn_lightning.data.checks.consistency import (
    Length,
    VideoLengths,
    dead_features,
    find_wrong_rate,
    not_decibels,
    odd_streams,
    usual,
    usual_up_to,
)
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.errors import InputError

RATES = {"_2d": 1.0, "_3d": 1.5, "_spec": 100.0}
SECONDS = (41.3, 60.0, 97.8, 233.1, 412.6)


def lengths(number, seconds, speed=None, captions: float | None = 0.97, names=tuple(RATES)):
    """Parts of a video, of which some have ``speed`` times as many rows a second as the options say."""
    found = []
    for place, name in enumerate(names):
        count = math.ceil(seconds * RATES[name] * (speed or {}).get(name, 1.0))
        option = f"data.streams[{place}].rate" if name != "_spec" else ""
        found.append(Length(name, f"v{number}{name}.npz", count, RATES[name], option))
    end = None if captions is None else captions * seconds * (speed or {}).get("captions", 1.0)
    return VideoLengths(f"v{number}", tuple(found), end)


def sample(speed=None, captions: float | None = 0.97, names=tuple(RATES)):
    return [lengths(number, seconds, speed, captions, names) for number, seconds in enumerate(SECONDS)]


FACTORS = (0.5, 2.0, 30.0, 1 / 30, 1.25, 0.8, 1.5)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("captions", [0.97, 0.6, None])
@pytest.mark.parametrize("name", RATES)
def test_a_stream_at_another_rate_is_named_with_the_right_one(name, captions, factor):
    found = find_wrong_rate(sample({name: factor}, captions), 5.0)
    assert found.startswith(f"v0{name}.npz: expected about ") and " in 5 of 5 videos" in found
    looks, advice = re.search(r"looks like ([\d.]+) \w+ a second and not \S+ (.*)$", found).groups()
    # of a thirtieth a few rows are left
    assert float(looks) == pytest.approx(RATES[name] * factor, rel=0.1 if factor == 1 / 30 else 0.005)
    place = list(RATES).index(name)
    hop = "make the spectrograms with a hop of 10 ms (160 samples at 16 kHz)"
    assert advice == (hop if name == "_spec" else f"set data.streams[{place}].rate to {looks}")


@pytest.mark.parametrize("factor", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("names", [("_2d",), ("_2d", "_spec")])
def test_two_parts_are_enough(names, factor):
    found = find_wrong_rate(sample({"_2d": factor}, 0.97, names), 5.0)
    assert f"it looks like {factor:g} rows a second and not 1: set data.streams[0].rate to {factor:g}" in found


def test_captions_tell_which_of_two_streams_is_wrong():
    for name in ("_2d", "_spec"):
        assert find_wrong_rate(sample({name: 2.0}, 0.97, ("_2d", "_spec")), 5.0).startswith(f"v0{name}.npz")
    both = find_wrong_rate(sample({"_2d": 2.0, "_3d": 2.0}), 5.0)
    assert both.startswith("v0_2d.npz: expected about") and "set data.streams[0].rate to 2" in both


@pytest.mark.parametrize("names", [("_2d",), ("_spec",), tuple(RATES)])
def test_captions_in_milliseconds_are_told(names):
    found = find_wrong_rate(sample({"captions": 1000.0}, 0.97, names), 5.0)
    assert found.startswith("captions of v0: expected their end within the ")
    assert found.endswith("they look like milliseconds: divide start and end by 1000")


@pytest.mark.parametrize(
    "videos",
    [
        sample(),
        sample(None, None),
        sample(None, 0.5),  # captions that end early: two streams agree
        sample({"_spec": 1.0}, 1.01),  # a little later than the features
        [lengths(number, seconds, None, share, ("_2d",)) for number, (seconds, share) in
         enumerate(zip(SECONDS, (0.2, 0.9, 0.5, 0.7, 0.95), strict=True))],
        [lengths(number, seconds, {"_spec": (seconds - 4.5) / seconds}) for number, seconds in enumerate(SECONDS)],
        # one odd video among good ones
        [*sample()[1:], lengths(0, 60.0, {"_2d": 2.0})],
        [*sample()[1:], lengths(0, 60.0, {"captions": 1000.0})],
        # streams that differ by another factor in each video are bad videos
        [lengths(number, 60.0, {"_spec": 0.2 + 0.15 * number}) for number in range(5)],
        [lengths(number, 3.0, {"_2d": 0.4}) for number in range(5)],  # too short to tell
        [],
    ],
)  # fmt: skip
def test_nothing_is_said_of_data_that_may_be_right(videos):
    assert find_wrong_rate(videos, 5.0) is None


def test_one_video_whose_streams_cannot_be_of_one_video():
    assert odd_streams(lengths(0, 60.0), 5.0) is None
    assert odd_streams(lengths(0, 60.0, {"_spec": 0.7}), 5.0) is None  # sound that ends early
    found = odd_streams(lengths(0, 60.0, {"_3d": 2.0}), 5.0)
    assert found == (
        "v0_3d.npz: expected about 60.0 s, as _2d lasts, found 120.0 s (180 rows at 1.5 a second): it looks like "
        "3 rows a second and not 1.5: set data.streams[1].rate to 3"
    )
    assert odd_streams(lengths(0, 60.0, {"_3d": 2.0}), 60.0) is None


def test_usual_rates():
    assert [usual(rate) for rate in (1.51, 0.99, 24.7, 99.4, 62.0, 43.0)] == [1.5, 1.0, 25.0, 100.0, 62.5, 43.066]
    assert usual(1.13) == 1.13 and usual(7.003e-2) == 0.07
    assert [usual_up_to(rate) for rate in (1.03, 1.61, 30.9, 0.52, 17.7)] == [1.0, 1.5, 30.0, 0.5, 16.0]


def test_features_that_say_nothing():
    assert "zeros alone" in dead_features(torch.zeros(5, 4))
    assert "5 equal rows" in dead_features(torch.ones(5, 4))
    assert dead_features(torch.eye(4)) is None and dead_features(torch.ones(1, 4)) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_spectrograms_that_are_no_decibels(dtype):
    power = torch.rand(40, 300, generator=torch.Generator().manual_seed(0)).to(dtype) ** 4
    found = not_decibels(power)
    assert "look like linear power: take 10 * log10 of it relative to the maximum" in found
    decibels = (10 * (power.float() / power.max().float()).clamp_min(1e-8).log10()).to(dtype)
    assert not_decibels(decibels) is None and not_decibels(decibels + 20) is None
    assert "the same number -80 in every frame" in not_decibels(torch.full((40, 9), -80.0, dtype=dtype))
    assert "the same number 0" in not_decibels(torch.zeros(40, 9, dtype=dtype))


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def change_spectrograms(root, change, only=""):
    for path in (root / "features").rglob(f"*{only}_spec.npz"):
        np.savez(path, arr_0=change(np.load(path)["arr_0"]))


@pytest.mark.parametrize("factor", [0.5, 2.0, 30.0])
@pytest.mark.parametrize("place", [0, 1])
def test_a_wrong_rate_is_refused_before_training_and_before_packing(tiny, tmp_path, place, factor):
    streams = list(STREAMS)
    right = streams[place].rate
    streams[place] = VisualStream(streams[place].suffix, right * factor, 8)
    name = streams[place].suffix
    expected = rf"--data\.train_csv train\.csv: .*{name}\.npz: .*: set data\.streams\[{place}\]\.rate to {right:g};"
    with pytest.raises(InputError, match=expected):
        opened(tiny, streams=streams)
    with pytest.raises(InputError, match=expected):
        packed(tiny, tmp_path / "shards", streams=streams)


def test_shards_of_another_rate_are_refused(tiny, tmp_path, monkeypatch):
    """Older versions packed them."""
    monkeypatch.setattr("mcn_lightning.data.splits.inspect_sample", lambda *_: None)
    monkeypatch.setattr("mcn_lightning.data.shards.writer.check_lengths", lambda *_: None)
    streams = (VisualStream("_2d", 0.5, 8), STREAMS[1])
    packed(tiny, tmp_path / "shards", streams=streams)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"0_2d: expected about 30\.0 s, .*set data\.streams\[0\]\.rate to 1;"):
        opened(tiny, streams=streams, shards=str(tmp_path / "shards"))


def test_another_hop_is_refused(copy):
    change_spectrograms(copy, lambda frames: frames[:, ::2])
    with pytest.raises(InputError, match="looks like 50 frames a second and not 100: make the spectrograms with"):
        opened(copy)


def test_milliseconds_are_refused(copy):
    entries = json.loads((copy / "captions.json").read_text())
    for entry in entries.values():
        for name in ("start", "end"):
            entry[name] = [1000 * time for time in entry[name]]
    (copy / "captions.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="look like milliseconds: divide start and end by 1000"):
        opened(copy)


def test_one_odd_video_is_a_bad_video(copy):
    change_spectrograms(copy, lambda frames: frames[:, ::3], "00002")
    data = opened(copy)
    bad = data.datasets["train"][(0, 2)]
    assert isinstance(bad, BadVideo) and "00002_spec.npz: expected about 30.0 s, as _" in bad.reason
    assert len(data.datasets["train"][(0, 1)]) == 6
    wide = opened(copy, clips=ClipConfig(n_pair=6, min_time=8.0, overrun=30.0))
    assert len(wide.datasets["train"][(0, 2)]) == 6


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda frames: 10 ** (frames.astype(np.float32) / 10), "look like linear power"),
        (lambda frames: np.full_like(frames, -80), "the same number -80 in every frame"),
    ],
)
@pytest.mark.parametrize("stored", ["files", "shards", "kept frames"])
def test_spectrograms_without_decibels_are_refused_where_all_are_so(copy, tmp_path, monkeypatch, change, part, stored):
    change_spectrograms(copy, change)
    if stored == "files":
        with pytest.raises(InputError, match=part):
            opened(copy)
        return
    monkeypatch.setattr("mcn_lightning.data.splits.inspect_sample", lambda *_: None)
    packed(copy, tmp_path / "shards", keep_frames=stored != "shards")
    monkeypatch.undo()
    with pytest.raises(InputError, match=part):
        opened(copy, shards=str(tmp_path / "shards"))


def test_a_silent_video_is_named_and_used(copy, caplog):
    change_spectrograms(copy, np.zeros_like, "00002")
    with caplog.at_level(logging.WARNING):
        data = opened(copy)
    (line,) = [record.getMessage() for record in caplog.records if "same number" in record.getMessage()]
    assert line.startswith("--data.train_csv train.csv: synthetic_00002_spec: expected sound, found the same number 0")
    assert len(data.datasets["train"][(0, 2)]) == 6


def test_zero_features_are_refused(copy):
    for path in (copy / "features").rglob("*_3d.npz"):
        np.savez(path, features=np.zeros_like(np.load(path)["features"]))
    with pytest.raises(InputError, match=r"synthetic_00000_3d: .*found zeros alone: .*so in 6 of 6 videos"):
        opened(copy)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "held_out", "streams", "sound"),
    [
        ("grid_s1", "test.csv", (("_2d", 2.0, 1280), ("_3d", 2.0, 576)), True),
        ("flickr_narrated", "val.csv", (("_2d", 1.0, 1280),), True),
        ("cooking_frames", "val.csv", (("_2d", 1.0, 1280),), False),
    ],
)
def test_real_data_raise_no_alarm(shared, name, held_out, streams, sound, caplog):
    modalities = ("video", "audio") if sound else ("video",)
    data = narrated(
        shared / name,
        val_csv=held_out,
        streams=[VisualStream(*stream) for stream in streams],
        modalities=modalities,
    )
    data.setup("fit")
    for dataset in data.datasets.values():
        for index in range(len(dataset)):
            dataset.check(index)
    assert not caplog.records
