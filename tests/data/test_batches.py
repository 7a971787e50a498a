"""Batches from the files to the loader: slow references, any number of workers, spoilt videos, real data."""

from __future__ import annotations

import json
import logging
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn
from references import clips as reference

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.text import TextConfig, split_words
from mcn_lightning.errors import InputError

STREAMS = (VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8))
TENSORS = ("video", "audio", "audio_frames", "words", "labels", "frames", "frame_start")


def module(root, **options):
    settings = {
        "streams": STREAMS,
        "audio": AudioConfig(num_frames=600),
        "text": TextConfig(source="word_vectors.txt", dim=8),
        "clips": ClipConfig(n_pair=4, min_time=8.0),
        "batch_size": 2,
        "eval_batch_size": 2,
        "num_workers": 0,
    }
    data = NarratedVideos(str(root), **{**settings, **options})
    data.setup("fit")
    return data


def training(data, is_training=True):
    state = SimpleNamespace(fn=TrainerFn.FITTING if is_training else TrainerFn.VALIDATING)
    alone = {"global_rank": 0, "world_size": 1, "current_epoch": 0, "overfit_batches": 0}
    data.trainer = SimpleNamespace(training=is_training, state=state, **alone)
    return data


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def file_of(root, video, suffix="_2d"):
    return next(root.glob(f"features/*/{video}/{video}{suffix}.npz"))


def same(a, b):
    assert a.ids == b.ids and a.skipped == b.skipped and a.clips_per_video == b.clips_per_video
    for name in TENSORS:
        left, right = getattr(a, name), getattr(b, name)
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right)


def test_every_clip_of_a_training_batch_is_the_reference_s(tiny):
    data = module(tiny)
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 8 and batch.clips_per_video == 4 and batch.skipped == ()
    shapes = {"video": (8, 16), "audio_frames": (8,), "words": (8, 20), "labels": (8,), "frame_start": (8,)}
    assert {name: tuple(getattr(batch, name).shape) for name in shapes} == shapes
    assert batch.audio is None and batch.frames.shape[1] == 40
    batch = batch.ready()
    assert batch.audio.shape == (8, 40, 600) and batch.frames is batch.frame_start is None
    dtypes = [batch.video.dtype, batch.audio.dtype, batch.audio_frames.dtype, batch.words.dtype, batch.labels.dtype]
    assert dtypes == [torch.float32, torch.float16, torch.int64, torch.int32, torch.int64]
    captions = json.loads((tiny / "captions.json").read_text())
    lines = (tiny / "word_vectors.txt").read_text().splitlines()[1:]
    vectors = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in lines}
    embedded = data.text_embedder()(batch.words)
    for row, name in enumerate(batch.ids):
        video, number = name.split(":")
        entry = captions[video]
        start, end, order = reference.grow(entry["start"], entry["end"], int(number), 8.0)
        pooled = []
        for stream in STREAMS:
            rows = np.load(file_of(tiny, video, stream.suffix))["features"]
            pooled += reference.pool(rows.tolist(), start, end, stream.rate)
        torch.testing.assert_close(batch.video[row], torch.tensor(pooled), rtol=1e-5, atol=1e-6)
        frames = np.load(file_of(tiny, video, "_spec"))["arr_0"]
        cut, count = reference.spectrogram(frames.tolist(), start, end, 600)
        assert int(batch.audio_frames[row]) == count
        assert torch.equal(batch.audio[row].float(), torch.tensor(cut))
        words = [word for i in order for word in split_words(entry["text"][i])][:20]
        assert torch.allclose(embedded[row, : len(words)], torch.tensor([vectors[word] for word in words]))
        assert not embedded[row, len(words) :].any()
        assert int(batch.labels[row]) == entry["topic"][int(number)]


def test_every_stream_is_normalised_once_where_the_batch_is_used(tiny):
    data = module(tiny)
    batch = next(iter(data.train_dataloader()))
    assert batch.video_widths == tuple(stream.width for stream in STREAMS)
    ready = data.on_after_batch_transfer(batch, 0)
    for part in ready.video.split(batch.video_widths, dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(len(batch)))
    assert ready.video.dtype == torch.float32 and ready.video_widths == ()
    assert ready.ready() is ready
    zeros = ClipBatch(ids=("a:0",), video=torch.zeros(1, 16, dtype=torch.float16), video_widths=(8, 8))
    assert not zeros.ready().video.any()


@pytest.mark.parametrize("split", ["train", "val"])
def test_batches_do_not_depend_on_the_workers(tiny, split):
    options = {"audio": AudioConfig(num_frames=300, time_shift=0.4, mask_bands=5, mask_frames=40)}
    seen = []
    for workers in (0, 1, 2):
        loader = getattr(module(tiny, num_workers=workers, **options), f"{split}_dataloader")()
        seen.append(list(loader))
        if split == "train":
            loader.sampler.set_epoch(1)
            seen[-1] += list(loader)
    for other in seen[1:]:
        assert len(other) == len(seen[0])
        for a, b in zip(seen[0], other, strict=True):
            same(a, b)
    if split == "train":
        assert [b.ids for b in seen[0][:3]] != [b.ids for b in seen[0][3:]]


def test_windows_of_sound_need_no_captions(copy):
    (copy / "captions.json").unlink()
    shutil.rmtree(copy / "features" / "val")
    data = module(copy, modalities=("audio",), clips=ClipConfig(kind="windows", n_pair=5, min_time=6.0))
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 10 and batch.video is batch.words is batch.labels is None
    for row, name in enumerate(batch.ids):
        video, second = name.split(":")
        frames = torch.from_numpy(np.load(file_of(copy, video, "_spec"))["arr_0"]).float()
        first, stop = (max(reference.frame(t), 0) for t in (int(second), int(second) + 6.0))
        assert int(batch.audio_frames[row]) == stop - first
        assert torch.equal(batch.ready().audio[row, :, : stop - first], frames[:, first:stop])


def spoil(root, video, kind):
    """Damage one video; return what its reason must name."""
    path, captions = file_of(root, video), root / "captions.json"
    entries = json.loads(captions.read_text())
    rows = np.load(path)["features"].copy()
    if kind == "missing file":
        path.unlink()
        return [str(path), "found no file"]
    if kind == "empty file":
        path.write_bytes(b"")
        return [str(path), "expected a whole .npz", "damaged"]
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
        return [str(path), "expected a whole .npz", "damaged"]
    if kind == "width":
        np.savez(path, features=rows[:, :5])
        return [str(path), "(rows, 8)", "(30, 5)"]
    if kind == "bands":
        path = file_of(root, video, "_spec")
        np.savez(path, np.zeros((39, 3000), np.float16))
        return [str(path), "(40, frames)", "(39, 3000)"]
    if kind in ("nan 3d", "nan sound"):
        path = file_of(root, video, "_3d" if kind == "nan 3d" else "_spec")
        key = "features" if kind == "nan 3d" else "arr_0"
        array = np.load(path)[key].copy()
        array[:] = np.nan
        np.savez(path, **{key: array})
        return [str(path), "expected finite numbers", "NaN"]
    if kind == "no captions":
        del entries[video]
    elif kind == "end before start":
        entries[video]["end"] = [start - 0.5 for start in entries[video]["start"]]
    elif kind == "beyond":
        entries[video]["end"][-1] = 90.0
    captions.write_text(json.dumps(entries))
    return {
        "no captions": [str(captions), "found none"],
        "end before start": [str(captions), "captions: ", " that end before they start"],
        "beyond": [video, "clips.overrun", "up to 90.0 s", "features of 30.0 s"],
    }[kind]


SPOILT = ["missing file", "empty file", "truncated", "width", "bands", "nan 3d", "nan sound", "no captions"]
SPOILT += ["end before start", "beyond"]


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_video_is_skipped_in_training_and_stops_an_evaluation(copy, kind, caplog):
    parts = ["synthetic_00002", *spoil(copy, "synthetic_00002", kind)]
    parts_held_out = ["synthetic_00006", *spoil(copy, "synthetic_00006", kind)]
    data = training(module(copy, max_bad_share=0.5))
    whole = module(copy.parent / "copy", max_bad_share=0.5)
    reasons = []
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            loader = data.train_dataloader()
            loader.sampler.set_epoch(epoch)
            data.trainer.current_epoch = epoch
            batches = [data.on_before_batch_transfer(batch, 0) for batch in loader]
            reasons += [bad.reason for batch in batches for bad in batch.skipped]
            assert sum(len(batch) for batch in batches) == 5 * 4
    assert len(reasons) == 2 and not any("\n" in reason for reason in reasons)
    logged = [record.getMessage() for record in caplog.records if "skipped video" in record.getMessage()]
    assert len(logged) == 1  # once, not once an epoch
    assert all(part in logged[0] for part in parts), logged
    data.teardown("fit")
    summaries = [record.getMessage() for record in caplog.records if "went without" in record.getMessage()]
    assert summaries == [f"epoch {epoch} went without 1 of 6 videos" for epoch in (1, 2)]
    training(whole, is_training=False)
    with pytest.raises(InputError) as caught:
        for batch in whole.val_dataloader():
            whole.on_before_batch_transfer(batch, 0)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts_held_out)


def test_too_large_a_share_of_bad_videos_stops_the_run(copy):
    for video in ("synthetic_00001", "synthetic_00004"):
        file_of(copy, video).unlink()
    for share, passes in ((2 / 6, True), (0.3, False), (0.0, False)):
        data = training(module(copy, max_bad_share=share))
        if passes:
            for batch in data.train_dataloader():
                data.on_before_batch_transfer(batch, 0)
            continue
        with pytest.raises(InputError, match=r"of 6 training videos.*--data\.max_bad_share.*found no file"):
            for batch in data.train_dataloader():
                data.on_before_batch_transfer(batch, 0)


@pytest.mark.shared
def test_grid(shared):
    streams = (VisualStream("_2d", 2.0, 1280), VisualStream("_3d", 2.0, 576))
    options = {"val_csv": "test.csv", "streams": streams, "audio": AudioConfig(num_frames=256)}
    options |= {"text": TextConfig(source="word_vectors.txt"), "clips": ClipConfig(n_pair=20, min_time=0.0)}
    data = module(shared / "grid_s1", **options)
    assert len(data.datasets["train"]) == 35 and len(data.datasets["val"]) == 15
    batch = next(iter(data.train_dataloader()))
    assert batch.video.shape == (40, 1856) and batch.ready().audio.shape == (40, 40, 256) and not batch.skipped
    assert ((batch.words != 0).sum(dim=1) == 6).all()  # each utterance has six words, all known
    assert (batch.ready().audio <= 0).all() and (batch.audio_frames > 90).all()
    assert sum(len(item) for item in data.val_dataloader()) == 300
    assert data.text_embedder()(batch.words).shape == (40, 20, 300)


@pytest.mark.shared
def test_flickr(shared):
    options = {"streams": (VisualStream("_2d", 1.0, 1280),), "audio": AudioConfig(num_frames=400)}
    options |= {"text": TextConfig(source="word_vectors.bin", lowercase=True)}
    data = module(shared / "flickr_narrated", **options, clips=ClipConfig(n_pair=20, min_time=0.0, replacement=False))
    batch = next(iter(data.train_dataloader()))
    assert batch.video.shape == (40, 1280) and len(set(batch.ids)) == 40 and not batch.skipped
    torch.testing.assert_close(batch.ready().video.norm(dim=1), torch.ones(40))
    assert (batch.words[:, 0] != 0).all()
    assert sum(len(item) for item in data.val_dataloader()) == 500
