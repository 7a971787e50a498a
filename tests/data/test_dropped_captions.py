"""A caption that cannot be used costs itself alone: in training, evaluation, shards and prepare it is counted."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from data.sharding import narrated, opened, packed, same
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.data.shards.files import Mapped, ShardIndex
from mcn_lightning.data.shards.header import INDEX
from mcn_lightning.models import NetworkConfig
from mcn_lightning.module import MCNModule

TRAIN = "4 captions: 2 without text, 1 of no length, 1 that end before they start"
VAL = "1 caption: 1 with a time that is no number"


@pytest.fixture
def messy(tiny, tmp_path):
    """A copy of the generated data set with five captions that cannot be used, four of them in two training videos."""
    root = shutil.copytree(tiny, tmp_path / "messy")
    entries = json.loads((root / "captions.json").read_text())
    train, val = ((root / f"{split}.csv").read_text().splitlines()[1:] for split in ("train", "val"))
    first, second = (entries[path.rsplit("/")[-1]] for path in train[:2])
    first["text"][0], first["text"][2] = None, float("nan")
    first["end"][1] = first["start"][1]
    second["end"][3] = second["start"][3] - 1.0
    entries[val[0].rsplit("/")[-1]]["start"][1] = None
    (root / "captions.json").write_text(json.dumps(entries))
    return root


class OneNumber(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, index):
        return self.weight * batch.video.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, devices=1, enable_checkpointing=False, **quiet, **options)


@pytest.mark.parametrize("stored", ["files", "shards"])
def test_training_counts_them_once_an_epoch(messy, tmp_path, caplog, stored):
    if stored == "shards":
        packed(messy, tmp_path / "shards")
    data = narrated(messy, shards=str(tmp_path / "shards") if stored == "shards" else None)
    with caplog.at_level(logging.WARNING, "mcn_lightning.data.skipped"):
        trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(OneNumber(), datamodule=data)
    logged = [record.getMessage() for record in caplog.records if record.name == "mcn_lightning.data.skipped"]
    assert logged == [f"epoch {epoch} went without {TRAIN}" for epoch in (1, 2, 3)]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_the_table_of_an_evaluation_counts_them(messy, tmp_path, capsys, verb):
    data = narrated(messy)
    network = NetworkConfig(embedding_dim=8, video_dim=16, text_dim=8, audio_widths=(4, 4, 4, 8))
    evaluation = trainer(tmp_path, callbacks=[RetrievalEvaluation()])
    getattr(evaluation, verb)(MCNModule(network), datamodule=data, verbose=False)
    clips = sum(len(data.datasets["val"].source.open(index).captions) for index in range(2))
    shown = capsys.readouterr().out
    assert f"held-out clips: {clips} " in shown and f"\nleft out: {VAL}\n" in shown


def test_prediction_says_what_it_leaves_out(messy, caplog):
    with caplog.at_level(logging.INFO):
        data = narrated(messy)
        data.setup("validate")
        assert "embedded without" not in caplog.text
        data.setup("predict")
    assert f"test is embedded without {VAL}" in caplog.text


def test_shards_and_their_report_count_them_and_give_the_same_batches(messy, tmp_path):
    report = packed(messy, tmp_path / "shards")
    assert report.skipped == {}
    whole = "5 captions: 2 without text, 1 of no length, 1 that end before they start, 1 with a time that is no number"
    assert str(report).splitlines()[-1] == f"dropped {whole}"
    layout, shards = opened(messy), opened(messy, shards=str(tmp_path / "shards"))
    for data in (layout, shards):
        assert data.dropped_captions("train") == TRAIN and data.dropped_captions("val") == VAL
    for split in ("train", "val"):
        for index in range(2):
            same(layout.datasets[split][(0, index)], shards.datasets[split][(0, index)])


def test_shards_that_do_not_know_of_them_are_read(messy, tmp_path):
    from safetensors.torch import save_file

    packed(messy, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX
    stored = Mapped(path)
    about = json.loads(stored.metadata["index"])
    del about["dropped"]
    tensors = {name: tensor.clone() for name, tensor in stored.tensors.items()}
    save_file(tensors, path, {"index": json.dumps(about)})
    assert ShardIndex(path.parent).dropped == {}
    assert opened(messy, shards=str(path.parent)).dropped_captions("train") == ""


def test_a_video_of_which_no_caption_is_left_is_bad(messy, caplog):
    entries = json.loads((messy / "captions.json").read_text())
    name = (messy / "train.csv").read_text().splitlines()[1].rsplit("/")[-1]
    entries[name]["text"] = [None for _ in entries[name]["text"]]
    (messy / "captions.json").write_text(json.dumps(entries))
    data = opened(messy)
    bad = data.datasets["train"][(0, 0)]
    count = len(entries[name]["text"])
    assert bad.video == name and bad.reason.endswith(
        f"expected at least one caption that can be used, found {count} captions: {count} without text"
    )
    assert data.dropped_captions("train") == "1 caption: 1 that end before they start"
