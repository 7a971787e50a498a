"""A source of one's own, taken from the page: outside the package, by class_path, in every command."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from launch import NETWORK
from processes import python

from data.sharding import same
from mcn_lightning.batch import BadVideo
from mcn_lightning.commands.fit import main
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.video_source import Video, VideoSource
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError

PAGE = Path(__file__).parents[3] / "docs" / "extending" / "source.md"
WORDS = ("mix", "the", "flour", "cut", "an", "onion")


def block(language):
    """Return the first block of a language on the page."""
    return re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture
def films(tmp_path, monkeypatch):
    """The page's file, its options, and films in its form: six to train with and two held out."""
    (tmp_path / "my_source.py").write_text(block("python"))
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "films" / ("train" if number < 6 else "val")
        folder.mkdir(parents=True, exist_ok=True)
        starts = np.arange(0, 30, 5.0)
        np.savez(
            folder / f"film{number}.npz",
            frames=rng.standard_normal((30, 16)).astype(np.float32),
            sound=-rng.uniform(1, 80, (40, 3000)).astype(np.float32),
            start=starts,
            end=starts + 4.5,
            text=[" ".join(rng.choice(WORDS, 4)) for _ in starts],
        )
    vectors = [f"{word} {' '.join(f'{value:.3f}' for value in rng.standard_normal(8))}" for word in WORDS]
    (tmp_path / "word_vectors.txt").write_text("\n".join([f"{len(WORDS)} 8", *vectors]) + "\n")
    options = yaml.safe_load(block("yaml"))
    options["data"] |= {"batch_size": 2, "num_workers": 0, "audio": {"num_frames": 96}, "clips": {"n_pair": 4}}
    options["model"] = {"network": NETWORK, "clustering": {"num_clusters": 4, "queue_rows": 16}}
    options["trainer"] = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "enable_progress_bar": False}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_source", raising=False)
    yield tmp_path
    sys.modules.pop("my_source", None)


OPTIONS = ["--config", "my.yaml", "--data.source", "my_source.NpzVideos", "--data.source.folder", "films"]


def test_the_commands_of_the_page_are_those_that_run():
    for command in ("check", "fit"):
        (line,) = (line for line in block("bash").splitlines() if line.split()[1] == command)
        assert line.split() == ["lightning", command, "--config", "own", *OPTIONS]


def test_the_page_trains_as_it_stands(tmp_path, monkeypatch):
    """Its blocks in an empty folder, with its own films; two epochs of one step each in place of 30."""
    source, make_films = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "my_source.py").write_text(source)
    (tmp_path / "my.yaml").write_text(block("yaml"))
    monkeypatch.chdir(tmp_path)
    exec(make_films, {})
    (line,) = (line for line in block("bash").splitlines() if line.startswith("lightning fit"))
    command = [Path(sys.executable).with_name("lightning"), *line.split()[1:], "--trainer.max_epochs", "2"]
    done = python(*command)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.rglob("last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 2


def test_check_and_prepare_and_predict_take_it(films, capsys):
    main(["check", *OPTIONS])
    shown = capsys.readouterr().out
    assert "train: 6 of 6 videos can be used, 0.05 h" in shown and "training can start" in shown
    assert "--data.source NpzVideos: train: 100.0 % of 144 caption words known" in shown
    main(["prepare", *OPTIONS, "--pack.output", "shards"])
    assert "packed 8 videos (0.1 h) into 2 shards" in capsys.readouterr().out
    main(["predict", *OPTIONS, "--embeddings.path", "out.npz"])
    with np.load("runs/mcn/predict/out.npz") as found:
        assert {len(value) for name, value in found.items() if name in ("video", "audio", "text")} == {12}


@pytest.mark.parametrize("more", [[], ["--data.shards", "shards"]])
def test_training_as_a_user_starts_it(films, more):
    """By the console script, which leaves the working directory out, with processes that read."""
    if more:
        main(["prepare", *OPTIONS, "--pack.output", "shards"])
    command = [Path(sys.executable).with_name("lightning"), "fit", *OPTIONS, "--data.num_workers", "2", *more]
    done = python(*command)
    assert done.returncode == 0, done.stderr
    (path,) = (films / "runs").rglob("last.ckpt")
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 3
    (config,) = (films / "runs").rglob("config.yaml")
    source = yaml.safe_load(config.read_text())["data"]["source"]
    assert source == {"class_path": "my_source.NpzVideos", "init_args": {"folder": "films"}}


class Films(VideoSource):
    """Films in memory; ``change`` may make one of them another."""

    def __init__(self, change=None, names=("a", "b", "c", "d"), test=()):
        self.change, self.splits = change or {}, {"train": names, "val": ("v",), "test": test}

    def ids(self, split):
        return self.splits[split]

    def read(self, split, video):
        rng = np.random.default_rng([ord(letter) for letter in str(video)])
        found = {
            "streams": [rng.standard_normal((20, 8)).astype(np.float16)],
            "spectrogram": torch.from_numpy(-rng.uniform(1, 80, (40, 2000))).float(),
            "captions": {"start": [0.0, 6.0, 12.0], "end": [5.0, 11.0, 18.0], "text": ["mix it", "cut", "mix flour"]},
        }
        change = self.change.get(video, {})
        if isinstance(change, Exception):
            raise change
        return Video(**(found | change)) if isinstance(change, dict) else change


@pytest.fixture
def vectors(tmp_path):
    (tmp_path / "v.txt").write_text("mix 1 2\ncut 3 4\nflour 5 6\n")
    return tmp_path / "v.txt"


def narrated(vectors, source, **changes):
    options = {
        "streams": [VisualStream("_2d", 1.0, 8)], "audio": AudioConfig(num_frames=100), "batch_size": 2,
        "text": TextConfig(source=str(vectors), dim=2), "clips": ClipConfig(n_pair=3), "num_workers": 0,
    }  # fmt: skip
    return NarratedVideos(source=source, **(options | changes))


def opened(vectors, source, **changes):
    data = narrated(vectors, source, **changes)
    data.setup("fit")
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_was_read_and_shards_give_the_same(vectors, tmp_path, workers):
    source = Films(test=("t",))
    data = opened(vectors, source, num_workers=workers)
    assert {split: len(dataset) for split, dataset in data.datasets.items()} == {"train": 4, "val": 1, "test": 1}
    narrated(vectors, source).pack(PackConfig(str(tmp_path / "shards"), 1, processes=1))
    packed = opened(vectors, source, shards=str(tmp_path / "shards"))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for one, other in zip(getattr(data, name)(), getattr(packed, name)(), strict=True):
            same(one, other)
    (batch,) = data.val_dataloader()
    video = source.read("val", "v")
    assert batch.ids == ("v:0", "v:1", "v:2")
    for row, (start, end) in enumerate(zip([0, 6, 12], [5, 11, 18], strict=True)):
        assert torch.equal(batch.video[row], torch.from_numpy(video.streams[0][start : end + 1].max(axis=0)))


def test_the_validation_videos_are_tested_where_there_are_no_others(vectors):
    data = opened(vectors, Films())
    assert data.lists == {"train": "train", "val": "val", "test": "val"}
    assert [batch.ids for batch in data.test_dataloader()] == [batch.ids for batch in data.val_dataloader()]


BAD = [
    ({"streams": [np.zeros((20, 7))]}, r"b_2d: expected floating-point numbers of shape \(rows, 8\), found \(20, 7\)"),
    ({"streams": [np.zeros((20, 8), dtype=int)]}, "b_2d: expected floating-point numbers, found int64"),
    ({"streams": []}, "b: expected 1 visual streams, as --data.streams has, found 0"),
    ({"streams": [None]}, "b_2d: expected floating-point numbers, found none"),
    ({"streams": [np.full((20, 8), np.nan)]}, "b_2d: expected finite numbers"),
    ({"spectrogram": np.zeros((2000, 40))}, r"b_spec: expected .* shape \(40, frames\), found \(2000, 40\)"),
    ({"captions": None}, "captions of b: expected an entry for this video, found none"),
    ({"captions": {"start": [0.0]}}, "captions of b: expected the columns start, end and text, found no end"),
    (FileNotFoundError(2, "none", "films/b.npz"), "films/b.npz: expected a file of the video b, found none"),
    (KeyError("frames"), "b: expected a video that can be read, found KeyError: 'frames'"),
    (PermissionError(13, "Permission denied"), "b: expected .*, found PermissionError: permission denied"),
    ("a text", "b: expected a Video from Films.read, found str"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=[reason[:40] for _, reason in BAD])
def test_a_bad_video_costs_itself_alone(vectors, change, reason):
    data = opened(vectors, Films({"b": change}))
    items = [data.datasets["train"][(0, index)] for index in range(4)]
    assert [isinstance(item, BadVideo) for item in items] == [False, True, False, False]
    assert re.search(reason, items[1].reason) and "\n" not in items[1].reason and items[1].video == "b"


def test_a_mistake_in_the_source_is_no_bad_video(vectors):
    with pytest.raises(TypeError, match="a mistake"):
        opened(vectors, Films({"b": TypeError("a mistake")}))


@pytest.mark.parametrize("lacks", [{"streams": [None]}, {"spectrogram": None}, {"captions": None}])
def test_a_video_may_lack_a_modality(vectors, lacks):
    data = opened(vectors, Films({"b": lacks}), allow_missing=True)
    batch = data.datasets["train"][(0, 1)]
    names = ["video" if name == "streams" else "audio" if name == "spectrogram" else "text" for name in lacks]
    assert batch.present[0].tolist() == [name not in names for name in ("video", "audio", "text")]


def test_captions_may_come_as_captions(vectors):
    given = Captions(np.array([1.0]), np.array([9.0]), ("mix",))
    assert len(opened(vectors, Films({"v": {"captions": given}})).datasets["val"][(0, 0)]) == 1


@pytest.mark.parametrize(("names", "found"), [(("a", "a", "b"), "a more than once"), (("a", 3, "b"), "found 3")])
def test_ids_are_texts_that_come_once(vectors, names, found):
    with pytest.raises(InputError, match=rf"--data\.source Films: train: expected the id .*{found}"):
        opened(vectors, Films(names=names))


def test_a_split_that_is_needed_must_have_videos(vectors):
    with pytest.raises(InputError, match=r"--data\.source Films: train: expected videos, found none"):
        opened(vectors, Films(names=()))


def test_an_empty_folder_of_a_source_is_named(vectors, tmp_path):
    source = Films(names=())
    source.folder = tmp_path / "empty"
    with pytest.raises(InputError, match=rf"found none \(folder {re.escape(str(source.folder))}\): check the path$"):
        opened(vectors, source)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--data.source", "my_source.Nothing"], "my_source.Nothing"),
        (["--data.source", "my_source.NpzVideos", "--data.source.folders", "films"], "folders"),
        (["--data.source", "my_source.NpzVideos"], "folder"),
    ],
)
def test_a_wrong_class_or_option_is_one_line(films, words, found):
    with pytest.raises(SystemExit) as stop:
        main(["check", *words, "--config", "my.yaml"])
    assert found in str(stop.value.code) and "\n" not in str(stop.value.code)
    assert str(stop.value.code).startswith("error: --data.source"), stop.value.code


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        ({"ids": lambda self, split: 5}, r"expected a list of ids from ids, found 5"),
        ({"ids": lambda self, split: "abc"}, r"expected a list of ids from ids, found 'abc'"),
        ({"ids": lambda self: []}, r"expected Own\.ids\(self, split\), found Own\.ids\(\) \(too many"),
        (
            {"read": lambda self, video: None},
            r"expected Own\.read\(self, split, video\), found Own\.read\(video\) \(too many",
        ),
    ],
)
def test_methods_with_other_arguments_or_no_list_of_ids_are_one_line(vectors, methods, found):
    with pytest.raises(InputError, match=rf"^--data\.source.*: {found}") as error:
        opened(vectors, type("Own", (Films,), methods)())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("value", "name"), [(None, "NoneType"), ({"streams": []}, "dict")])
def test_a_source_that_reads_no_videos_is_not_told_of_captions(vectors, value, name):
    source = type("Own", (Films,), {"read": lambda self, split, video: value})()
    with pytest.raises(InputError, match=rf"^a: expected a Video from Own\.read, found {name}$"):
        opened(vectors, source)
