"""Known words and videos of several lists: what is said at the start of a run, and what stops it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from modules import NETWORK
from pytorch_lightning import Trainer

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.checks.first_words import count_known
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig, WordVectorText
from mcn_lightning.errors import InputError
from mcn_lightning.module import MCNModule

VECTORS = "3 2\nmix 1 2\nthe 3 4\nflour 5 6\n"
STREAMS = [VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8)]


@pytest.fixture
def root(tmp_path):
    write_synthetic(tmp_path / "root", SyntheticConfig(videos=6, held_out=3, seconds=20.0, widths=(8, 8), word_dim=4))
    return tmp_path / "root"


def data(root, **more):
    text = more.pop("text", TextConfig(source="word_vectors.txt", dim=4))
    return NarratedVideos(root=str(root), streams=STREAMS, text=text, batch_size=2, num_workers=0, **more)


def change(root, split, change_text):
    names = [line.split("/")[-1] for line in (root / f"{split}.csv").read_text().split()[1:]]
    captions = json.loads((root / "captions.json").read_text())
    for name in names:
        captions[name]["text"] = [change_text(text) for text in captions[name]["text"]]
    (root / "captions.json").write_text(json.dumps(captions))


def told(found):
    found.setup("fit")
    return found.splits.notes, found.splits.warnings


def test_words_and_captions_are_counted(tmp_path):
    (tmp_path / "v.txt").write_text(VECTORS)
    captions = ["mix the flour", "Mix it", "", "THE sugar"]
    text = WordVectorText(TextConfig(dim=2), tmp_path / "v.txt", captions)
    found = count_known(text, captions)
    assert (found.captions, found.without, found.words, found.known, found.cased) == (4, 3, 7, 3, 2)
    assert str(found) == "42.9 % of 7 caption words known, 3 of 4 captions without any known word"


def test_a_run_says_how_many_words_are_known(root):
    change(root, "val", lambda text: f"{text} unheard")
    notes, warnings = told(data(root))
    captions = json.loads((root / "captions.json").read_text())
    words = {"train": 0, "val": 0}
    lists = {split: (root / f"{split}.csv").read_text() for split in words}
    for name, entry in captions.items():
        words["train" if name in lists["train"] else "val"] += sum(len(text.split()) for text in entry["text"])
    known = 100 * (words["val"] - 9) / words["val"]
    assert notes == [
        f"--data.train_csv train.csv: 100.0 % of {words['train']} caption words known, 0 of 18 captions without any "
        "known word",
        f"--data.val_csv val.csv: {known:.1f} % of {words['val']} caption words known, 0 of 9 captions without any "
        "known word",
    ]
    assert not warnings


@pytest.mark.parametrize("packed", [False, True])
def test_too_few_known_words_stop_the_run_and_lower_case_is_tried(root, tmp_path, packed):
    change(root, "train", str.title)
    more = {}
    if packed:
        data(root).pack(PackConfig(output=str(tmp_path / "shards")))
        more = {"shards": str(tmp_path / "shards")}
    expected = (
        r"--data\.train_csv train\.csv: expected at most 50 % unknown words \(--data\.text\.max_unknown_share\), found "
        r"0\.0 % of \d+ caption words known, 18 of 18 captions without any known word; with --data\.text\.lowercase "
        r"true 100\.0 % would be known$"
    )
    with pytest.raises(InputError, match=expected):
        data(root, **more).setup("fit")
    lower = TextConfig(source="word_vectors.txt", dim=4, lowercase=True)
    notes, _ = told(data(root, text=lower, **more))
    assert notes[0].startswith("--data.train_csv train.csv: 100.0 % of")


def test_the_share_is_an_option(root):
    change(root, "train", lambda text: " ".join(["unheard"] * 2 * len(text.split())) + f" {text}")
    with pytest.raises(InputError, match=r"found 33\.3 % of .* 0 of 18 captions .*; check --data\.text\.source$"):
        data(root).setup("fit")
    text = TextConfig(source="word_vectors.txt", dim=4, max_unknown_share=0.7)
    assert told(data(root, text=text))[0][0].startswith("--data.train_csv train.csv: 33.3 % of")
    change(root, "train", lambda text: "unheard")
    with pytest.raises(InputError, match=r"found 0\.0 % of 18 caption words known, 18 of 18 captions"):
        data(root, text=TextConfig(source="word_vectors.txt", dim=4, max_unknown_share=1.0)).setup("fit")
    with pytest.raises(ValueError, match=r"--data\.text\.max_unknown_share: expected a number .*, found 1\.5"):
        TextConfig(max_unknown_share=1.5)


@pytest.mark.parametrize("packed", [False, True])
def test_videos_of_two_lists_are_counted(root, tmp_path, packed):
    train = (root / "train.csv").read_text().split()[1:]
    val = (root / "val.csv").read_text().split()[1:]
    (root / "val.csv").write_text("\n".join(["path", *train[:4], val[0]]) + "\n")
    (root / "test.csv").write_text("\n".join(["path", val[0], val[1]]) + "\n")
    more = {"test_csv": "test.csv"}
    if packed:
        data(root, **more).pack(PackConfig(output=str(tmp_path / "shards")))
        more["shards"] = str(tmp_path / "shards")
    _, warnings = told(data(root, **more))
    assert warnings == [
        "--data.train_csv train.csv and --data.val_csv val.csv have 4 of 5 videos in common: synthetic_00000, "
        "synthetic_00001, synthetic_00002 and 1 more",
        "--data.val_csv val.csv and --data.test_csv test.csv have 1 of 2 videos in common: synthetic_00006",
    ]


def test_clips_of_two_pickles_are_counted(tmp_path):
    rng = np.random.default_rng(0)

    def clip(name):
        return {"id": name, "caption": "mix the flour", "2d": rng.random((1, 8), dtype=np.float32)}

    (tmp_path / "v.txt").write_text(VECTORS)
    for split, names in {"train": "aabcd", "val": "dbx"}.items():
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps([clip(name) for name in names]))
    text = TextConfig(source="v.txt", dim=2)
    found = NarratedVideos(
        root=str(tmp_path), train_csv="train.pkl", val_csv="val.pkl", streams=[VisualStream("_2d", 1.0, 8)],
        audio=AudioConfig(), modalities=("video", "text"), text=text, batch_size=2, num_workers=0,
    )  # fmt: skip
    notes, warnings = told(found)
    assert warnings == [
        "--data.train_csv train.pkl: 1 of 5 clips have the name of an earlier one, such as a",
        "--data.train_csv train.pkl and --data.val_csv val.pkl have 2 of 3 videos in common: b, d",
    ]
    assert len(notes) == 2 and "100.0 % of" in notes[0]


def test_clips_without_names_are_in_no_other_list(tmp_path):
    (tmp_path / "v.txt").write_text(VECTORS)
    for split in ("train", "val"):
        clips = [{"caption": "mix the flour", "2d": np.ones((1, 8), np.float32)} for _ in range(3)]
        (tmp_path / f"{split}.pkl").write_bytes(pickle.dumps(clips))
    found = NarratedVideos(
        root=str(tmp_path), train_csv="train.pkl", val_csv="val.pkl", streams=[VisualStream("_2d", 1.0, 8)],
        modalities=("video", "text"), text=TextConfig(source="v.txt", dim=2), batch_size=2, num_workers=0,
    )  # fmt: skip
    assert not told(found)[1]


def test_clips_whose_text_has_no_known_word_are_named():
    words = torch.tensor([[1, 0], [0, 0], [0, 2], [0, 0]], dtype=torch.int32)
    assert ClipBatch(("a", "b", "c", "d"), words=words).without_known_word() == ("b", "d")
    assert ClipBatch(("a",)).without_known_word() == ()


@pytest.mark.filterwarnings("ignore")
def test_the_table_of_an_evaluation_counts_them(root, capsys):
    captions = json.loads((root / "captions.json").read_text())
    for name in ("synthetic_00006", "synthetic_00007"):
        captions[name]["text"][1] = "unheard of"
    (root / "captions.json").write_text(json.dumps(captions))
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False)
    trainer.validate(MCNModule(replace(NETWORK, text_dim=4)), data(root), verbose=False)
    shown = capsys.readouterr()
    assert "clips without any known word in their text: 2, which are in the table all the same" in shown.out + shown.err
