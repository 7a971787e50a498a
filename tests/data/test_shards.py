"""Shards: the same batches as the layout, packing that can be stopped, and what a damaged shard does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mcn_lightning.cli import main
from mcn_lightning.data import packing
from mcn_lightning.data.batch import BadVideo, ClipBatch, InputError
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.features import AudioConfig, VisualStream
from mcn_lightning.data.packing import PackConfig
from mcn_lightning.data.shards import INDEX, ShardIndex, Strings, shard_name
from mcn_lightning.data.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig

STREAMS = (VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8))
FIELDS = ("video", "audio", "audio_frames", "words", "labels")


def narrated(root, **changes) -> NarratedVideos:
    options = {
        "streams": STREAMS, "text": TextConfig(source="word_vectors.txt", dim=8), "audio": AudioConfig(num_frames=400),
        "clips": ClipConfig(n_pair=6, min_time=8.0), "batch_size": 2, "eval_batch_size": 2, "num_workers": 0,
    }  # fmt: skip
    return NarratedVideos(str(root), **(options | changes))


def opened(root, **changes) -> NarratedVideos:
    data = narrated(root, **changes)
    data.setup("fit")
    return data


def packed(root, output, shard_size=40_000, keep_frames=False, processes=2, **changes):
    return narrated(root, **changes).pack(PackConfig(str(output), shard_size, keep_frames, processes))


def same(one: ClipBatch, other: ClipBatch) -> None:
    assert one.ids == other.ids and one.clips_per_video == other.clips_per_video
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


VARIANTS = [
    {},
    {"audio": AudioConfig(num_frames=400, time_shift=0.4, time_stretch=0.1, band_shift=2, mask_frames=20)},
    {"audio": AudioConfig(num_frames=900, pad_value=-80.0, clamp_start=False)},
    {"clips": ClipConfig(n_pair=9, min_time=0.0, replacement=False)},
    {"clips": ClipConfig(n_pair=3, min_time=1000.0, eval_min_time=9.0)},
    {"modalities": ("video", "text")},
    {"modalities": ("audio", "text")},
]


@pytest.mark.parametrize("keep_frames", [False, True])
@pytest.mark.parametrize("changes", VARIANTS)
def test_shards_give_the_batches_of_the_layout_bit_for_bit(tiny, tmp_path, changes, keep_frames):
    packed(tiny, tmp_path / "shards", keep_frames=keep_frames, **changes)
    layout, shards = opened(tiny, **changes), opened(tiny, shards=str(tmp_path / "shards"), **changes)
    assert shards.datasets.keys() == layout.datasets.keys()
    for split, dataset in layout.datasets.items():
        assert len(dataset) == len(shards.datasets[split])
        for index in range(len(dataset)):
            for epoch in (0, 3):
                item = dataset[(epoch, index)]
                assert isinstance(item, ClipBatch)
                same(item, shards.datasets[split][(epoch, index)])
    loaders = zip(layout.train_dataloader(), shards.train_dataloader(), strict=True)
    for one, other in loaders:
        same(one, other)
    for one, other in zip(layout.val_dataloader(), shards.val_dataloader(), strict=True):
        same(one, other)


def test_all_modalities_packed_serve_a_run_with_fewer(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    for modalities in (("video", "text"), ("audio", "text"), ("video", "audio")):
        layout = opened(tiny, modalities=modalities)
        shards = opened(tiny, modalities=modalities, shards=str(tmp_path / "shards"))
        same(layout.datasets["train"][(0, 1)], shards.datasets["train"][(0, 1)])


def test_windows_come_from_kept_frames(tiny, tmp_path):
    changes = {"clips": ClipConfig(kind="windows", n_pair=5, min_time=4.0), "modalities": ("video", "audio")}
    with pytest.raises(InputError, match=r"--pack\.keep_frames: expected true"):
        packed(tiny, tmp_path / "shards", **changes)
    packed(tiny, tmp_path / "shards", keep_frames=True, **changes)
    layout, shards = opened(tiny, **changes), opened(tiny, shards=str(tmp_path / "shards"), **changes)
    for split in ("train", "val"):
        same(layout.datasets[split][(1, 0)], shards.datasets[split][(1, 0)])


def test_kept_frames_serve_any_min_time(tiny, tmp_path):
    packed(tiny, tmp_path / "shards", keep_frames=True)
    changes = {"clips": ClipConfig(n_pair=4, min_time=3.0)}
    layout, shards = opened(tiny, **changes), opened(tiny, shards=str(tmp_path / "shards"), **changes)
    same(layout.datasets["train"][(2, 3)], shards.datasets["train"][(2, 3)])


def test_several_texts_a_caption(copy, tmp_path):
    entries = json.loads((copy / "captions.json").read_text())
    for entry in entries.values():
        entry["more"] = [[f"{text} so", "now", "we the ünïcode"][: 1 + number % 3] for number, text in enumerate(entry["text"])]
    (copy / "captions.json").write_text(json.dumps(entries))
    changes = {"text": TextConfig(source="word_vectors.txt", dim=8, train_column="more")}
    packed(copy, tmp_path / "shards", **changes)
    layout, shards = opened(copy, **changes), opened(copy, shards=str(tmp_path / "shards"), **changes)
    drawn = set()
    for epoch in range(4):
        item = layout.datasets["train"][(epoch, 2)]
        same(item, shards.datasets["train"][(epoch, 2)])
        drawn.add(item.words.numpy().tobytes())
    assert len(drawn) == 4
    same(layout.datasets["val"][(0, 0)], shards.datasets["val"][(0, 0)])
    with pytest.raises(InputError, match=r"--data\.text\.train_column: expected more, .* found text"):
        opened(copy, shards=str(tmp_path / "shards"))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_workers(tiny, tmp_path, workers):
    packed(tiny, tmp_path / "shards")
    alone = opened(tiny, shards=str(tmp_path / "shards"))
    helped = opened(tiny, shards=str(tmp_path / "shards"), num_workers=workers)
    for one, other in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        same(one, other)


def test_a_source_can_be_sent_to_another_process(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    dataset = opened(tiny, shards=str(tmp_path / "shards")).datasets["train"]
    content = pickle.dumps(dataset.source)
    assert len(content) < len(pickle.dumps(dataset.text)) + 2000  # nothing of the index travels
    same(dataset[(0, 0)], replace_source(dataset, pickle.loads(content))[(0, 0)])


def replace_source(dataset, source):
    dataset.source = source
    return dataset


def test_the_report_adds_up(tiny, tmp_path):
    report = packed(tiny, tmp_path / "shards")
    files = list((tiny / "features").rglob("*.npz"))
    assert report.videos == len(files) // 3 and report.skipped == {} and report.shards > 2
    assert report.bytes_in == sum(path.stat().st_size for path in files)
    assert report.bytes_out == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert report.hours == pytest.approx(report.videos * 30 / 3600)
    again = packed(tiny, tmp_path / "shards")
    assert replace(again, seconds=report.seconds) == report
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert names == {INDEX, *(shard_name(number) for number in range(report.shards))}


def test_the_bytes_depend_on_the_data_alone(tiny, tmp_path):
    packed(tiny, tmp_path / "one", processes=1)
    packed(tiny, tmp_path / "three", processes=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_another_data_set_or_option_is_refused(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    with pytest.raises(InputError, match="found others; choose another folder or delete it"):
        packed(tiny, tmp_path / "shards", clips=ClipConfig(min_time=4.0))
    (tmp_path / "shards" / INDEX).unlink()
    with pytest.raises(InputError, match="found others"):
        packed(tiny, tmp_path / "shards")


def test_options_that_the_shards_cannot_serve_are_refused(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    folder = str(tmp_path / "shards")
    for changes, option in (
        ({"clips": ClipConfig(min_time=4.0)}, "--data.clips.min_time: expected 8, .* found 4"),
        ({"clips": ClipConfig(min_time=8.0, eval_min_time=2.0)}, "--data.clips.eval_min_time: expected 0"),
        ({"audio": AudioConfig(bands=20)}, "--data.audio.bands: expected 40"),
        ({"streams": STREAMS[:1]}, "--data.streams: expected"),
    ):
        with pytest.raises(InputError, match=option):
            opened(tiny, shards=folder, **changes)
    with pytest.raises(InputError, match="expected the index of finished shards, found no file"):
        opened(tiny, shards=str(tmp_path / "nothing"))


def test_bad_videos_are_left_out_and_keep_their_place(copy, tmp_path):
    bad = opened(copy).datasets["train"].source.path(1, STREAMS[0])
    rows = np.load(bad)["features"]
    rows[3, 2] = np.nan
    np.savez(bad, features=rows)
    report = packed(copy, tmp_path / "shards")
    layout = opened(copy)
    source = layout.datasets["train"].source
    assert list(report.skipped) == [source.id(1)]
    assert "1 NaN" in report.skipped[source.id(1)]
    shards = opened(copy, shards=str(tmp_path / "shards"))
    item = shards.datasets["train"][(0, 1)]
    assert isinstance(item, BadVideo) and item.video == source.id(1) and "NaN" in item.reason
    same(layout.datasets["train"][(0, 2)], shards.datasets["train"][(0, 2)])
