"""The release's layout: clips of a video, bad videos, and what is drawn at random."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from references import clips as reference
from torch.utils.data import DataLoader

from mcn_lightning.batch import BadVideo, ClipBatch
from mcn_lightning.data.captions import read_captions
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.loading import ClipSampler, collate
from mcn_lightning.data.sources.howto100m import LayoutVideos, VideoLayout, read_video_list, video_id
from mcn_lightning.data.text import TextConfig, WordVectorText

STREAMS = (VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8))


def dataset(root, split="train", clips=None, training=True, modalities=("video", "audio", "text"), seed=0, **audio):
    videos = read_video_list(root / f"{split}.csv")
    captions = read_captions(root / "captions.json", map(video_id, videos))
    texts = [text for entry in captions.values() if not isinstance(entry, BadVideo) for text in entry.text]
    text = None
    if "text" in modalities:
        text = WordVectorText(TextConfig(dim=8), root / "word_vectors.txt", texts)
    layout = VideoLayout(
        root / "features", root / "features", STREAMS, AudioConfig(num_frames=400, **audio), tuple(modalities)
    )
    clips = clips or ClipConfig(n_pair=6)
    source = LayoutVideos(videos, None if clips.kind == "windows" else captions, layout)
    return NarratedVideoDataset(source, clips, layout.audio, text, seed, training)


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the generated data set that a test may break."""
    return shutil.copytree(tiny, tmp_path / "copy")


def feature_file(root, dataset, index, suffix):
    video = dataset.source.videos[index]
    return root / "features" / video / f"{video_id(video)}{suffix}.npz"


def test_the_clips_of_a_video_equal_the_reference(tiny):
    data = dataset(tiny)
    entries = json.loads((tiny / "captions.json").read_text())
    for index in range(3):
        item = data[(1, index)]
        name = video_id(data.source.videos[index])
        entry = entries[name]
        arrays = [np.load(feature_file(tiny, data, index, suffix)) for suffix in ("_2d", "_3d", "_spec")]
        drawn = np.random.default_rng((0, 1, index)).integers(0, len(entry["start"]), 6).tolist()
        assert item.ids == tuple(f"{name}:{caption}" for caption in drawn)
        for row, caption in enumerate(drawn):
            start, end, order = reference.grow(entry["start"], entry["end"], caption, 10.0)
            visual = reference.pool(arrays[0]["features"], start, end, 1.0)
            visual += reference.pool(arrays[1]["features"], start, end, 1.5)
            np.testing.assert_allclose(item.ready().video[row], visual, rtol=1e-5, atol=1e-6)
            frames, length = reference.spectrogram(arrays[2]["arr_0"], start, end, 400)
            np.testing.assert_array_equal(item.ready().audio[row], np.float32(frames))
            assert item.audio_frames[row] == length
            words = [word for part in order for word in entry["text"][part].split()][:20]
            assert [list(data.text.vocabulary)[i - 1] for i in item.words[row].tolist() if i] == words
            assert item.labels[row] == entry["topic"][caption]
    assert item.clips_per_video == 6


def test_the_types_and_shapes_are_the_contract_s(tiny):
    data = dataset(tiny)
    batch = collate([data[(0, index)] for index in range(3)])
    assert len(batch) == 18 and batch.skipped == () and batch.clips_per_video == 6
    assert (batch.video.dtype, batch.video.shape) == (torch.float16, (18, 16))
    assert (batch.ready().audio.dtype, batch.ready().audio.shape) == (torch.float16, (18, 40, 400))
    assert (batch.audio_frames.dtype, batch.audio_frames.shape) == (torch.int64, (18,))
    assert (batch.words.dtype, batch.words.shape) == (torch.int32, (18, 20))
    assert (batch.labels.dtype, batch.labels.shape) == (torch.int64, (18,))


def test_evaluation_gives_every_caption_once_and_as_it_is(tiny):
    data = dataset(tiny, "val", training=False, time_shift=0.5, mask_bands=10)
    entries = json.loads((tiny / "captions.json").read_text())
    for index, path in enumerate(data.source.videos):
        entry = entries[video_id(path)]
        item, later = data[(0, index)], data[(7, index)]
        assert item.ids == tuple(f"{video_id(path)}:{number}" for number in range(len(entry["start"])))
        assert torch.equal(item.ready().audio, later.ready().audio) and item.clips_per_video == 1
        for row, (start, end) in enumerate(zip(entry["start"], entry["end"], strict=True)):
            assert item.audio_frames[row] == min(reference.frame(end) - max(reference.frame(start), 0), 400)
    grown = dataset(tiny, "val", ClipConfig(eval_min_time=12.0), training=False)[(0, 0)]
    assert (grown.words > 0).sum() > (dataset(tiny, "val", training=False)[(0, 0)].words > 0).sum()


@pytest.mark.parametrize("absent", ["video", "audio", "text"])
def test_a_modality_that_is_not_asked_for_is_not_read(copy, absent):
    suffixes = {"video": ("_2d", "_3d"), "audio": ("_spec",), "text": ()}[absent]
    present = [name for name in ("video", "audio", "text") if name != absent]
    data = dataset(copy, modalities=present)
    for suffix in suffixes:
        feature_file(copy, data, 0, suffix).unlink()
    item = data[(0, 0)]
    assert isinstance(item, ClipBatch)
    columns = {"video": item.video, "audio": item.ready().audio, "text": item.words}
    assert [name for name, value in columns.items() if value is None] == [absent]
    assert (item.audio_frames is None) == (absent == "audio")
    assert len(collate([item, data[(0, 1)]])) == 12


def test_windows_need_no_captions(tiny):
    clips = ClipConfig(kind="windows", n_pair=4, min_time=4.0)
    data = dataset(tiny, clips=clips, modalities=("video", "audio"))
    item = data[(0, 0)]
    seconds = [int(name.rsplit(":")[-1]) for name in item.ids]
    assert all(0 <= second <= 26 for second in seconds) and item.words is None and item.labels is None
    frames = np.load(feature_file(tiny, data, 0, "_spec"))["arr_0"]
    expected, _ = reference.spectrogram(frames, seconds[1], seconds[1] + 4.0, 400)
    np.testing.assert_array_equal(item.ready().audio[1], np.float32(expected))
    data.training = False
    assert [int(name.rsplit(":")[-1]) for name in data[(0, 0)].ids] == [0, 4, 8, 12, 16, 20, 24, 28]


def shorten(path, key, columns):
    array = np.load(path)[key]
    np.savez(path, **{key: array[:, :columns] if key == "arr_0" else array[:columns]})


def break_video(root, data, how):
    rows, frames = feature_file(root, data, 0, "_2d"), feature_file(root, data, 0, "_spec")
    entries = json.loads((root / "captions.json").read_text())
    entry = entries[video_id(data.source.videos[0])]
    if how == "no features":
        rows.unlink()
    elif how == "no audio":
        frames.unlink()
    elif how == "cut short":
        rows.write_bytes(rows.read_bytes()[:200])
    elif how == "width":
        np.savez(rows, features=np.ones((30, 9), np.float16))
    elif how == "bands":
        np.savez(frames, arr_0=np.ones((41, 3000), np.float16))
    elif how == "nan":
        np.savez(rows, features=np.full((30, 8), np.nan, np.float16))
    elif how == "infinite sound":
        np.savez(frames, arr_0=np.full((40, 3000), -np.inf, np.float16))
    elif how == "pickled":
        np.savez(rows, features=np.array([[None] * 8], dtype=object))
    elif how == "short features":
        for suffix, key, count in (("_2d", "features", 10), ("_3d", "features", 15), ("_spec", "arr_0", 1000)):
            shorten(feature_file(root, data, 0, suffix), key, count)
    elif how == "no captions":
        del entries[video_id(data.source.videos[0])]
    elif how == "lengths":
        entry["end"] = entry["end"][:-1]
    elif how == "ends early":
        entry["end"] = [start - 0.5 for start in entry["start"]]
    (root / "captions.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("place", ["in a folder", "beside the others"])
@pytest.mark.parametrize("dtype", ["f4", "f2", ">f4"])
def test_npy_files_are_read_as_npz_files_are(copy, place, dtype):
    stored = dataset(copy)
    read = [stored[(0, index)] for index in range(2)]
    for path in copy.rglob("*.npz"):
        with np.load(path) as archive:
            array = archive[archive.files[0]]
        folder = path.parent if place == "in a folder" else path.parent.parent
        np.save(folder / f"{path.stem}.npy", array.astype(dtype) if dtype != "f4" else array)
        path.unlink()
    single = dataset(copy)
    for index, clips in enumerate(read):
        again = single[(0, index)]
        assert torch.allclose(again.video.float(), clips.video.float(), rtol=1e-2, atol=1e-2)
        assert torch.allclose(again.frames.float(), clips.frames.float(), rtol=1e-2, atol=1e-2)
        if dtype == "f4":
            assert torch.equal(again.video, clips.video) and torch.equal(again.frames, clips.frames)
    assert min(single.source.stored_bytes(0)) > 0


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ("no features", ["_2d.npz", "found no file"]),
        ("no audio", ["_spec.npz", "found no file"]),
        ("cut short", ["_2d.npz", "damaged"]),
        ("width", ["_2d.npz", "(rows, 8)", "(30, 9)"]),
        ("bands", ["_spec.npz", "(40, frames)", "(41, 3000)"]),
        ("nan", ["_2d.npz", "NaN or infinite", " s, found"]),
        ("infinite sound", ["_spec.npz", "NaN or infinite"]),
        ("pickled", ["_2d.npz"]),
        ("short features", ["clips.overrun", "features of 10.0 s"]),
        ("no captions", ["captions of", "found none"]),
        ("lengths", ["captions.json", "as many rows as texts"]),
        ("ends early", ["captions.json", "that end before they start"]),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_video_is_told_and_the_others_go_on(copy, how, parts, training):
    break_video(copy, dataset(copy), how)
    data = dataset(copy, training=training)
    items = [data[(0, index)] for index in range(2)]
    assert isinstance(items[0], BadVideo) and isinstance(items[1], ClipBatch)
    assert items[0].video == video_id(data.source.videos[0]) and "\n" not in items[0].reason
    for part in parts:
        assert part in items[0].reason
    batch = collate(items)
    assert batch.skipped == (items[0],) and batch.ids == items[1].ids
    nothing = collate(items[:1])
    assert len(nothing) == 0 and nothing.skipped == (items[0],) and nothing.video is None
    assert data[(0, 0)] == items[0] and pickle.loads(pickle.dumps(batch)).ids == batch.ids


def test_captions_may_overrun_the_features_by_what_is_set(copy):
    break_video(copy, dataset(copy), "short features")
    item = dataset(copy, clips=ClipConfig(overrun=25.0), training=False)[(0, 0)]
    assert isinstance(item, ClipBatch)
    assert item.audio_frames[-1] == 0 and not item.ready().audio[-1].any() and not item.video[-1].any()


def test_training_draws_no_caption_that_starts_after_the_features(copy):
    entries = json.loads((copy / "captions.json").read_text())
    entry = entries[video_id(dataset(copy).source.videos[0])]
    before = len(entry["text"])
    for start in (30.0, 31.5):  # the features end at 30 s; --data.clips.overrun allows 5 s more
        (
            entry["start"].append(start),
            entry["end"].append(start + 2.0),
            entry["text"].append("so"),
            entry["topic"].append(0),
        )
    (copy / "captions.json").write_text(json.dumps(entries))
    data = dataset(copy, clips=ClipConfig(n_pair=64, min_time=0.0))
    item = data[(0, 0)]
    assert {int(name.rsplit(":")[-1]) for name in item.ids} == set(range(before))
    assert item.video.any(dim=1).all() and (item.audio_frames > 0).all()
    entry["start"] = [start + 31.0 for start in range(len(entry["text"]))]
    entry["end"] = [start + 0.5 for start in entry["start"]]
    (copy / "captions.json").write_text(json.dumps(entries))
    assert "within the features of 30.0 s, found none" in dataset(copy, clips=ClipConfig(overrun=60.0))[(0, 0)].reason


def same(one, other):
    assert one.ids == other.ids
    one, other = one.ready(), other.ready()
    for name in ("video", "audio", "audio_frames", "words", "labels"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("workers", [1, 2])
def test_draws_do_not_depend_on_the_workers(tiny, workers):
    data = dataset(tiny, time_shift=0.3, mask_bands=5, mask_frames=50)

    def batches(count):
        sampler = ClipSampler(len(data), seed=3)
        sampler.set_epoch(2)
        torch.manual_seed(count)  # no worker's generator has a say
        return list(DataLoader(data, 2, sampler=sampler, num_workers=count, collate_fn=collate))

    for one, other in zip(batches(0), batches(workers), strict=True):
        same(one, other)


def test_draws_differ_between_epochs_videos_and_seeds(tiny):
    data = dataset(tiny)
    drawn = {tuple(name.rsplit(":")[-1] for name in data[(epoch, 0)].ids) for epoch in range(5)}
    assert len(drawn) > 1
    assert data[(0, 0)].ids != dataset(tiny, seed=1)[(0, 0)].ids
    same(data[(4, 1)], dataset(tiny)[(4, 1)])


def test_the_time_shift_moves_the_sound_only_and_by_no_more_than_is_set(tiny):
    plain, moved = dataset(tiny)[(0, 0)], dataset(tiny, time_shift=0.5)[(0, 0)]
    assert plain.ids == moved.ids and torch.equal(plain.video, moved.video) and torch.equal(plain.words, moved.words)
    data = dataset(tiny)
    frames = torch.from_numpy(np.load(feature_file(tiny, data, 0, "_spec"))["arr_0"]).float()
    shifts = []
    for before, after in zip(plain.ready().audio, moved.ready().audio, strict=True):
        at = [int((frames.T == clip[:, 0]).all(dim=1).nonzero()[0]) for clip in (before, after)]
        shifts.append(at[1] - at[0])
    assert max(map(abs, shifts)) <= 51 and len(set(shifts)) > 1


@pytest.mark.shared
def test_real_videos(shared):
    root = shared / "grid_s1"
    videos = read_video_list(root / "test.csv")
    captions = read_captions(root / "captions.json", map(video_id, videos))
    text = WordVectorText(TextConfig(), root / "word_vectors.txt", [t for c in captions.values() for t in c.text])
    streams = (VisualStream("_2d", 2.0, 1280), VisualStream("_3d", 2.0, 576))
    layout = VideoLayout(root / "features", root / "features", streams, AudioConfig(num_frames=256))
    data = NarratedVideoDataset(
        LayoutVideos(videos, captions, layout), ClipConfig(), layout.audio, text, training=False
    )
    batch = collate([data[(0, index)] for index in range(len(data))])
    assert len(batch) == 300 and len(set(batch.ids)) == 300 and batch.skipped == ()
    batch = batch.ready()
    torch.testing.assert_close(batch.video[:, :1280].norm(dim=1), torch.ones(300))
    torch.testing.assert_close(batch.video[:, 1280:].norm(dim=1), torch.ones(300))
    assert ((batch.words > 0).sum(dim=1) == 6).all() and batch.labels is None
    assert batch.ready().audio.min() >= -80 and batch.ready().audio.max() <= 0
    shorter = replace(layout, modalities=("audio",))
    sound = NarratedVideoDataset(LayoutVideos(videos, captions, shorter), ClipConfig(n_pair=2), shorter.audio)
    assert sound[(0, 0)].ready().audio.shape == (2, 40, 256)
