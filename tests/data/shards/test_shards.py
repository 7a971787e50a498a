"""Shards: the same batches as the layout, and what a damaged or missing shard does."""

from __future__ import annotations

import ctypes
import json
import pickle
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn

from data.sharding import STREAMS, break_shard, opened, packed, same
from mcn_lightning.batch import BadVideo, ClipBatch
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.loading import ClipLoader
from mcn_lightning.data.shards.files import ShardIndex
from mcn_lightning.data.shards.header import INDEX, shard_name
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


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
        entry["more"] = [
            [f"{text} so", "now", "we the ünïcode"][: 1 + number % 3] for number, text in enumerate(entry["text"])
        ]
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
    with pytest.raises(
        InputError, match=r"1 of 6 training videos .* --data\.max_bad_share 0\.01 allows; last: .*1 NaN"
    ):
        opened(copy, shards=str(tmp_path / "shards"))
    shards = opened(copy, shards=str(tmp_path / "shards"), max_bad_share=0.5)
    item = shards.datasets["train"][(0, 1)]
    assert isinstance(item, BadVideo) and item.video == source.id(1) and "NaN" in item.reason
    same(layout.datasets["train"][(0, 2)], shards.datasets["train"][(0, 2)])


def test_words_of_a_video_that_is_left_out_count_as_they_do_for_the_layout(copy, tmp_path):
    entries = json.loads((copy / "captions.json").read_text())
    data = opened(copy)
    known = {
        word for index in range(1, 6) for text in data.datasets["train"].source.texts(index) for word in text.split()
    }
    lines = (copy / "word_vectors.txt").read_text().splitlines()[1:]
    unique = next(line.split()[0] for line in lines if line.split()[0] not in known)
    entries[data.datasets["train"].source.id(0)]["text"][0] = unique
    (copy / "captions.json").write_text(json.dumps(entries))
    data.datasets["train"].source.path(0, STREAMS[0]).unlink()
    packed(copy, tmp_path / "shards")
    layout, shards = opened(copy), opened(copy, shards=str(tmp_path / "shards"), max_bad_share=0.5)
    for index in range(1, 6):
        same(layout.datasets["train"][(0, index)], shards.datasets["train"][(0, index)])


def test_what_was_not_packed_is_refused(tiny, tmp_path):
    folder = str(tmp_path / "shards")
    packed(tiny, folder, modalities=("audio", "text"))
    with pytest.raises(InputError, match=r"--data\.modalities: expected some of audio, text, .* found video"):
        opened(tiny, shards=folder)
    windows = {"clips": ClipConfig(kind="windows", min_time=4.0), "modalities": ("audio",)}
    with pytest.raises(InputError, match=r"--data\.clips\.kind: expected captions"):
        opened(tiny, shards=folder, **windows)
    changes = {"modalities": ("audio", "text"), "clips": ClipConfig(min_time=8.0, overrun=9.0)}
    with pytest.raises(InputError, match=r"--data\.clips\.overrun: expected at most 5"):
        opened(tiny, shards=folder, **changes)


def test_contents_that_cannot_be_name_the_shard(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    data = opened(tiny, shards=str(tmp_path / "shards"))
    source = data.datasets["train"].source
    number = source.column("shard", 0)
    path = tmp_path / "shards" / shard_name(number)
    content = path.read_bytes()
    ends = source._shard(number).numpy("word_end").tobytes()
    path.write_bytes(content.replace(ends, b"\x7f" * len(ends)))
    item = opened(tiny, shards=str(tmp_path / "shards")).datasets["train"][(0, 0)]
    assert (
        isinstance(item, BadVideo)
        and str(path) in item.reason
        and data.datasets["train"].source.index.shards[number]["sha256"] in item.reason
    )


@pytest.mark.parametrize(("how", "found"), [("missing", "found no file"), ("truncated", "bytes with SHA-256")])
def test_a_lost_shard_is_named_and_the_run_goes_on(tiny, tmp_path, how, found, caplog):
    packed(tiny, tmp_path / "shards")
    folder = tmp_path / "shards"
    index = ShardIndex(folder)
    path = break_shard(folder, 0, how)
    lost = int((index.tables["train/shard"] == 0).sum())
    with pytest.raises(InputError) as caught:
        opened(tiny, shards=str(folder))
    for part in (str(path), index.shards[0]["sha256"], found, "--data.max_bad_share", f"{lost} of 6 training videos"):
        assert part in str(caught.value)
    caplog.clear()
    data = opened(tiny, shards=str(folder), max_bad_share=0.5)
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    data.trainer = SimpleNamespace(
        training=True, global_rank=0, world_size=1, current_epoch=0, state=state, overfit_batches=0
    )
    for batch in data.train_dataloader():
        data.on_before_batch_transfer(batch, 0)
    data.teardown("fit")
    lines = [record.getMessage() for record in caplog.records if record.name == "mcn_lightning.data.skipped"]
    assert len(lines) == 2 and str(path) in lines[0]  # once for the shard, not once for each of its videos
    assert lines[1] == f"epoch 1 went without {lost} of 6 videos"


def test_a_damaged_header_is_refused_when_it_is_opened(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / shard_name(0)
    path.write_bytes(b"\xff" * path.stat().st_size)
    data = opened(tiny, shards=str(tmp_path / "shards"))
    item = data.datasets["train"][(0, 0)]
    assert isinstance(item, BadVideo) and str(path) in item.reason and "damaged" in item.reason
    assert ShardIndex(tmp_path / "shards").shards[0]["sha256"] in item.reason


def test_a_lost_shard_of_held_out_videos_stops_before_training(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    index = ShardIndex(tmp_path / "shards")
    break_shard(tmp_path / "shards", int(index.tables["val/shard"][0]), "missing")
    with pytest.raises(InputError, match=r"cannot be evaluated: .*found no file"):
        opened(tiny, shards=str(tmp_path / "shards")).check_held_out()


@pytest.mark.parametrize("damage", [b"", b"\x10", b"\x00" * 400, "other"])
def test_a_damaged_index_is_refused_in_one_line(tiny, tmp_path, damage):
    packed(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX
    if damage == "other":
        shutil.copy(tmp_path / "shards" / shard_name(0), path)
    else:
        path.write_bytes(damage)
    with pytest.raises(InputError) as caught:
        opened(tiny, shards=str(tmp_path / "shards"))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


class Stalls(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, key):
        time.sleep(1200)


class StallsWithTheLock(Stalls):
    """As a page fault on a mapped file does, this stalls without letting go of the interpreter."""

    def __getitem__(self, key):
        ctypes.PyDLL(None).sleep(1200)


@pytest.mark.parametrize("dataset", [Stalls, StallsWithTheLock])
def test_a_disk_that_stalls_ends_in_a_message(dataset):
    loader = ClipLoader(dataset(), num_workers=1, timeout=1)
    with pytest.raises(InputError, match=r"--data\.timeout: expected a batch within 1 s"):
        next(iter(loader))
