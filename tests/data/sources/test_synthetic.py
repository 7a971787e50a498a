"""Generated videos: the same bytes from the same seed, the release's layout, topics and clips that differ."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import socket
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked import Popen

from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.sources import synthetic
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError

SMALL = SyntheticConfig(videos=3, held_out=1, seconds=12.0, topics=2, widths=(4, 4), word_dim=4)


def digests(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    write_synthetic(tmp_path / "a", SMALL)
    write_synthetic(tmp_path / "b", SMALL)
    write_synthetic(tmp_path / "c", replace(SMALL, seed=1))
    one, other, different = (digests(tmp_path / name) for name in "abc")
    assert one == other and len(one) == 4 * 3 + 5
    npz = [name for name in one if name.endswith(".npz")]
    assert all(one[name] != different[name] for name in npz)


def test_the_layout_is_the_release_s(tmp_path):
    write_synthetic(tmp_path / "a", SMALL)
    video = (tmp_path / "a" / "train.csv").read_text().split()
    assert video[0] == "path" and len(video) == 4
    stem = tmp_path / "a" / "features" / video[1] / video[1].rsplit("/")[-1]
    rows, more = (np.load(f"{stem}{suffix}.npz")["features"] for suffix in ("_2d", "_3d"))
    frames = np.load(f"{stem}_spec.npz")["arr_0"]
    assert (rows.shape, more.shape, frames.shape) == ((12, 4), (18, 4), (40, 1200))
    assert {array.dtype for array in (rows, more, frames)} == {np.dtype(np.float16)}
    assert rows.min() >= 0 and frames.min() >= -80 and frames.max() <= 0
    for entry in json.loads((tmp_path / "a" / "captions.json").read_text()).values():
        assert len(entry["start"]) == len(entry["end"]) == len(entry["text"]) == len(entry["topic"]) == 2
        assert all(0 <= start < end <= 12 for start, end in zip(entry["start"], entry["end"], strict=True))


def test_a_folder_is_reused_with_the_same_options_and_refused_with_others(tmp_path):
    root = tmp_path / "a"
    write_synthetic(root, SMALL)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_synthetic(root, SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    with pytest.raises(InputError, match=r"a: expected .*--data\.synthetic.*found other"):
        write_synthetic(root, replace(SMALL, noise=0.1))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="mine"):
        write_synthetic(mine, SMALL)
    assert digests(mine).keys() == {"thesis.txt"}
    with pytest.raises(InputError, match=r"thesis\.txt: expected an empty folder"):
        write_synthetic(mine / "thesis.txt", SMALL)


def test_a_generation_that_was_stopped_leaves_no_data_set_and_can_be_repeated(tmp_path, monkeypatch):
    written = []
    save = synthetic._save

    def stop(path, key, array):
        written.append(path)
        if len(written) == 5:
            raise KeyboardInterrupt
        save(path, key, array)

    monkeypatch.setattr(synthetic, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "a", SMALL)
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    write_synthetic(tmp_path / "a", SMALL)
    write_synthetic(tmp_path / "b", SMALL)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_killed_generation_left_is_removed_by_the_next_and_nothing_else(tmp_path):
    asked = (
        "import os, signal, sys; from pathlib import Path; from mcn_lightning.data.sources import synthetic; "
        "synthetic._save = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"synthetic.write_synthetic(Path(sys.argv[1]), synthetic.{SMALL!r})"
    )
    killed = Popen([sys.executable, "-c", asked, str(tmp_path / "a")])
    assert killed.wait() == -signal.SIGKILL
    host = socket.gethostname()
    assert [path.name for path in tmp_path.iterdir()] == [f"a.partial-{host}-{killed.pid}"]
    others = {
        f"a.partial-{host}-{os.getppid()}",  # still at work
        f"a.partial-{host}-1",  # perhaps somebody else's
        f"a.partial-other{host}-{killed.pid}",
        f"b.partial-{host}-{killed.pid}",
        f"a.partial-{host}-{killed.pid}-mine",
    }
    for name in others:
        (tmp_path / name).mkdir()
    write_synthetic(tmp_path / "a", SMALL)
    assert {path.name for path in tmp_path.iterdir()} == others | {"a"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("videos", 0), ("held_out", 0), ("topics", 0), ("word_dim", 0), ("seconds", 1.0), ("caption_seconds", 0.0),
     ("strength", -1.0), ("noise", -1.0), ("widths", (4,)), ("widths", (0, 4))],
)  # fmt: skip
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=r"--data\.synthetic"):
        replace(SMALL, **{name: value})


def linear_map(source, target):
    return torch.linalg.solve(source.T @ source + torch.eye(source.shape[1]), source.T @ target)


def test_modalities_share_a_topic_and_what_is_a_clip_s_own(tmp_path):
    """A linear map learned on the training clips must find held-out clips in another modality, and their topics."""
    config = SyntheticConfig(videos=40, held_out=8, seconds=60.0, topics=4)
    streams = [VisualStream("_2d", 1.0, 64), VisualStream("_3d", 1.5, 64)]
    text = TextConfig(source="word_vectors.txt", dim=32)
    data = NarratedVideos(str(tmp_path / "a"), streams=streams, text=text, synthetic=config, num_workers=0)
    data.prepare_data()
    data.setup("fit")
    table = data.text_embedder()
    sides = []
    for split in ("train", "val"):
        dataset = data.datasets[split]
        dataset.training = False
        clips = [dataset[(0, index)] for index in range(len(dataset))]
        sound = [
            clip.ready().audio[row, :, :n].float().mean(dim=1) / 8
            for clip in clips
            for row, n in enumerate(clip.audio_frames)
        ]
        words = torch.cat([table(clip.words).mean(dim=1) for clip in clips])
        labels = torch.cat([clip.labels for clip in clips])
        sides.append((torch.cat([clip.ready().video for clip in clips]), torch.stack(sound), words, labels))
    (train, held_out) = sides
    for source, target in ((0, 1), (1, 0), (2, 0), (0, 2)):
        means = [train[source].mean(dim=0), train[target].mean(dim=0)]
        guess = (held_out[source] - means[0]) @ linear_map(train[source] - means[0], train[target] - means[1])
        found = torch.nn.functional.normalize(guess) @ torch.nn.functional.normalize(held_out[target] - means[1]).T
        rank = (found > found.diagonal()[:, None]).sum(dim=1)
        assert (rank < 8).float().mean() > 0.3, (source, target)  # chance: 0.1
    centres = torch.stack([train[0][train[3] == topic].mean(dim=0) for topic in range(4)])
    assert (torch.cdist(held_out[0], centres).argmin(dim=1) == held_out[3]).float().mean() > 0.8


def clip_means(root):
    """Return the mean 2D row of each caption, and its topic."""
    means, topics = [], []
    entries = json.loads((root / "captions.json").read_text())
    for path in sorted(root.glob("features/*/*/*_2d.npz")):
        rows, entry = np.load(path)["features"].astype(float), entries[path.parent.name]
        for start, end, topic in zip(entry["start"], entry["end"], entry["topic"], strict=True):
            means.append(rows[int(np.ceil(start)) : int(end)].mean(axis=0))
            topics.append(topic)
    return np.array(means), np.array(topics)


def scatter(tmp_path, name, **options):
    """Return the variance between topics and within them, of clip means of 2D rows."""
    config = SyntheticConfig(40, 1, 30.0, topics=4, widths=(16, 8), word_dim=4)
    write_synthetic(tmp_path / name, replace(config, **options))
    rows, topics = clip_means(tmp_path / name)
    centres = {topic: rows[topics == topic].mean(axis=0) for topic in set(topics.tolist())}
    within = np.mean([(row - centres[t]) ** 2 for row, t in zip(rows, topics.tolist(), strict=True)])
    return np.var(list(centres.values()), axis=0).mean(), within


def test_strength_moves_topics_apart(tmp_path):
    none, some, strong = (scatter(tmp_path, str(s), strength=s) for s in (0.0, 1.5, 4.0))
    assert none[0] / none[1] < 0.15 < some[0] / some[1] < strong[0] / strong[1]


def test_noise_scatters_rows_of_one_clip(tmp_path):
    spread = []
    for noise in (0.0, 0.5, 2.0):
        write_synthetic(tmp_path / str(noise), replace(SMALL, noise=noise))
        rows = np.load(next((tmp_path / str(noise)).glob("features/train/*/*_2d.npz")))["features"].astype(float)
        spread.append(rows[1:5].std(axis=0).mean())  # inside the first caption
    assert spread[0] < 1e-3 < spread[1] < spread[2]


def test_topics_are_as_many_as_asked(tmp_path):
    write_synthetic(tmp_path / "set", SyntheticConfig(80, 1, 6.0, topics=5, widths=(4, 4), word_dim=4))
    entries = json.loads((tmp_path / "set" / "captions.json").read_text())
    assert {topic for entry in entries.values() for topic in entry["topic"]} == set(range(5))


def test_a_terminal_sees_how_far_it_is(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    write_synthetic(tmp_path / "a", SMALL)
    assert "generating videos" in sys.stderr.getvalue() and "4/4" in sys.stderr.getvalue()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    write_synthetic(tmp_path / "b", SMALL)
    assert not sys.stderr.getvalue()
