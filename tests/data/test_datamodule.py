"""The LightningDataModule: what it reads, what it refuses, and that a resumed run sees the batches that are left."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError

STREAMS = (VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8))


def narrated(root, **changes):
    options = {
        "streams": STREAMS,
        "audio": AudioConfig(num_frames=100),
        "text": TextConfig(source="word_vectors.txt", dim=8),
        "clips": ClipConfig(n_pair=2),
        "batch_size": 2,
        "eval_batch_size": 1,
        "num_workers": 0,
    }
    return NarratedVideos(str(root), **{**options, **changes})


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the generated data set that a test may break."""
    return shutil.copytree(tiny, tmp_path / "copy")


class Recorder(LightningModule):
    """A model of one number that notes the clips it sees."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen, self.evaluated = [], []

    def training_step(self, batch, index):
        self.seen.append((self.trainer.current_epoch, batch.ids))
        return self.weight * batch.video.sum() if len(batch) else None

    def validation_step(self, batch, index):
        self.evaluated.append(batch.ids)

    def test_step(self, batch, index):
        self.evaluated.append(batch.ids)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **options}
    return Trainer(default_root_dir=folder, devices=1, **quiet, **options)


def test_every_split_comes_as_batches_of_the_contract(tiny):
    data = narrated(tiny)
    data.prepare_data()
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch) for batch in batches] == [4, 4, 4] and batches[0].clips_per_video == 2
    assert len({name.split(":")[0] for batch in batches for name in batch.ids}) == 6
    held_out = [name for batch in data.val_dataloader() for name in batch.ids]
    assert len(held_out) == len(set(held_out)) == 10
    assert held_out == [name for batch in data.test_dataloader() for name in batch.ids]
    assert held_out == [name for batch in data.predict_dataloader() for name in batch.ids]
    assert data.video_dim == 16 == batches[0].video.shape[1]


def test_the_embedder_knows_the_words_of_every_split_and_adds_no_weights(tiny):
    data = narrated(tiny)
    assert data.text_embedder() is None
    data.setup("test")
    table = data.text_embedder()
    assert not list(table.parameters()) and not table.state_dict()
    for loader in (data.train_dataloader(), data.val_dataloader()):
        words = next(iter(loader)).words
        vectors = table(words)
        assert vectors.shape == (*words.shape, 8) and vectors.dtype == torch.float32
        assert torch.equal(vectors.abs().sum(dim=-1) > 0, words > 0)


def test_indices_stay_the_same_from_stage_to_stage(tiny):
    data = narrated(tiny)
    data.setup("fit")
    before = data.text
    data.setup("test")
    assert data.text is before


@pytest.mark.parametrize("absent", ["video", "audio", "text"])
def test_a_modality_may_be_left_out(tiny, absent):
    names = [name for name in ("video", "audio", "text") if name != absent]
    data = narrated(tiny, modalities=names)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    columns = {"video": batch.video, "audio": batch.ready().audio, "text": batch.words}
    assert [name for name, value in columns.items() if value is None] == [absent]
    assert (data.text_embedder() is None) == (absent == "text") and (data.video_dim == 0) == (absent == "video")


def test_without_a_validation_list_there_is_no_validation(copy):
    (copy / "val.csv").unlink()
    data = narrated(copy, val_csv=None)
    data.setup("fit")
    assert data.val_dataloader() == [] and len(data.train_dataloader()) == 3
    with pytest.raises(InputError, match=r"--data\.test_csv"):
        data.test_dataloader()


def test_a_test_needs_no_training_list(copy):
    (copy / "train.csv").unlink()
    data = narrated(copy)
    data.setup("test")
    assert len(data.test_dataloader()) == 2
    with pytest.raises(InputError, match=r"--data\.train_csv"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        (".", "--data.root"),
        ("train.csv", "--data.train_csv"),
        ("val.csv", "--data.val_csv"),
        ("captions.json", "--data.captions"),
        ("word_vectors.txt", "--data.text.source"),
    ],
)
def test_a_missing_file_is_refused_by_path_and_option(copy, missing, part):
    path = copy / missing
    shutil.rmtree(copy) if missing == "." else path.unlink()
    with pytest.raises(InputError) as caught:
        narrated(copy).setup("fit")
    assert part in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"batch_size": 0}, "--data.batch_size: expected a whole number above 0, found 0"),
        ({"global_batch_size": 0}, "--data.global_batch_size: expected a whole number above 0, found 0"),
        ({"eval_batch_size": 0}, "--data.eval_batch_size: expected a whole number above 0, found 0"),
        ({"num_workers": -1}, "--data.num_workers: expected a whole number of at least 0, found -1"),
        ({"seed": -1}, "--data.seed: expected a whole number of at least 0, found -1"),
        ({"max_bad_share": 1.5}, "--data.max_bad_share: expected a number of at least 0 and at most 1, found 1.5"),
        ({"modalities": []}, "--data.modalities"),
        ({"modalities": ["video", "video"]}, "--data.modalities"),
        ({"modalities": ["smell"]}, "--data.modalities"),
        ({"streams": []}, "--data.streams"),
        ({"clips": ClipConfig(kind="windows")}, "--data.modalities"),
        ({"clips": ClipConfig(kind="windows"), "modalities": []}, "--data.modalities"),
    ],
)
def test_options_that_cannot_work_are_refused(tiny, changes, part):
    with pytest.raises(InputError) as caught:
        narrated(tiny, **changes)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_fewer_videos_than_a_batch_are_refused(tiny):
    data = narrated(tiny, batch_size=7)
    data.setup("fit")
    with pytest.raises(InputError, match=r"--data\.batch_size 7: expected .* found 6 training videos on 1 process"):
        data.train_dataloader()


def test_the_global_batch_is_divided_over_the_processes(tiny):
    def share(processes, **given):
        return narrated(tiny, **{"batch_size": None, **given}).divide_batch(processes)

    assert [share(processes, global_batch_size=128) for processes in (1, 4, 8)] == [128, 32, 16], "the paper's 4 x 32"
    assert [share(processes, batch_size=32) for processes in (1, 4)] == [32, 32]
    assert share(4) == 128 and share(4, batch_size=32, global_batch_size=128) == 32
    option = "--data.global_batch_size"
    for processes, total, batch, message in (
        (12, 128, None, f"{option}: expected a multiple of the number of devices, 12, found 128; set it to 120 or 132"),
        (8, 4, None, f"{option}: expected a multiple of the number of devices, 8, found 4; set it to 8"),
        (4, 128, 16, "--data.batch_size: expected null, or 32, which is --data.global_batch_size 128 over 4 device(s), "
                     "found 16; set one of the two to null"),
    ):  # fmt: skip
        with pytest.raises(InputError) as caught:
            share(processes, batch_size=batch, global_batch_size=total)
        assert str(caught.value) == message
    data = narrated(tiny, batch_size=None, global_batch_size=7)
    data.setup("fit")
    with pytest.raises(InputError, match=r"--data\.global_batch_size 7: expected .* found 6 training videos on 1 proc"):
        data.train_dataloader()


def test_the_generated_set_is_written_where_it_is_asked_for(tmp_path):
    config = SyntheticConfig(videos=2, held_out=1, seconds=12.0, topics=2, widths=(8, 8), word_dim=8)
    data = narrated(tmp_path / "made", synthetic=config)
    data.prepare_data()
    data.setup("fit")
    assert len(next(iter(data.train_dataloader()))) == 4


def spoil(root, data, split, count):
    data.setup("fit")
    for path in data.datasets[split].source.videos[:count]:
        (root / "features" / path / f"{path.rsplit('/')[-1]}_2d.npz").write_bytes(b"")


def test_bad_training_videos_are_counted_once_and_logged(copy, tmp_path, caplog):
    data = narrated(copy, max_bad_share=0.5)
    spoil(copy, data, "train", 2)
    model = Recorder()
    with caplog.at_level(logging.WARNING, "mcn_lightning.data.skipped"):
        trainer(tmp_path, max_epochs=4, limit_val_batches=0).fit(model, datamodule=data)
    logged = [record.getMessage() for record in caplog.records if record.name == "mcn_lightning.data.skipped"]
    reasons = [line for line in logged if "_2d.npz" in line]
    assert len(reasons) == 2
    assert [line for line in logged if line not in reasons] == [
        f"epoch {epoch} went without 2 of 6 videos" for epoch in range(1, 5)
    ]
    assert sum(len(ids) for _, ids in model.seen) == 4 * 2 * 4


def test_too_many_bad_training_videos_stop_the_run(copy, tmp_path):
    data = narrated(copy, max_bad_share=0.2)
    spoil(copy, data, "train", 2)
    with pytest.raises(InputError, match=r"2 of 6 training videos \(33\.3%\).*--data\.max_bad_share 0\.2.*_2d\.npz"):
        trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(Recorder(), datamodule=data)


def change_captions(root, split, change):
    entries = json.loads((root / "captions.json").read_text())
    for path in (root / f"{split}.csv").read_text().splitlines()[1:]:
        change(entries[path.rsplit("/")[-1]])
    (root / "captions.json").write_text(json.dumps(entries))


def test_held_out_captions_beyond_the_features_are_found_before_training(copy, tmp_path):
    ends = iter((99.0, 30.0))  # of both they would be a wrong unit
    change_captions(copy, "val", lambda entry: entry["end"].__setitem__(-1, next(ends)))
    data = narrated(copy, max_bad_share=1.0)
    data.setup("fit")
    with pytest.raises(InputError, match=r"cannot be evaluated: .*--data\.clips\.overrun"):
        data.check_held_out()


def test_training_captions_without_any_known_word_are_refused(copy):
    change_captions(copy, "train", lambda entry: entry.update(text=["" for _ in entry["text"]]))
    with pytest.raises(InputError, match=r"--data\.train_csv train\.csv: expected captions with words, found none"):
        narrated(copy).setup("fit")


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_bad_held_out_video_stops_an_evaluation(copy, tmp_path, verb):
    data = narrated(copy, max_bad_share=1.0)
    spoil(copy, data, "val", 1)
    with pytest.raises(InputError, match=r"cannot be evaluated: .*_2d\.npz"):
        getattr(trainer(tmp_path), verb)(Recorder(), datamodule=data)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6, 8])
def test_a_resumed_run_sees_the_batches_that_are_left(tiny, tmp_path, stop, workers):
    whole = Recorder()
    trainer(tmp_path, max_epochs=3, limit_val_batches=0).fit(whole, datamodule=narrated(tiny))
    assert len(whole.seen) == 9 and len({ids for _, ids in whole.seen}) == 9
    first, second = Recorder(), Recorder()
    keep = ModelCheckpoint(tmp_path, "at", every_n_train_steps=stop, save_top_k=1)
    options = {"max_epochs": 3, "limit_val_batches": 0}
    until = trainer(tmp_path, max_steps=stop, callbacks=[keep], enable_checkpointing=True, **options)
    until.fit(first, datamodule=narrated(tiny, num_workers=workers))
    again = trainer(tmp_path, **options)
    again.fit(second, datamodule=narrated(tiny, num_workers=workers), ckpt_path=str(tmp_path / "at.ckpt"))
    assert first.seen + second.seen == whole.seen


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_after_an_epoch_sees_the_next_one(tiny, tmp_path, workers):
    whole, first, second = Recorder(), Recorder(), Recorder()
    trainer(tmp_path, max_epochs=3).fit(whole, datamodule=narrated(tiny))
    keep = ModelCheckpoint(tmp_path, "at", save_on_train_epoch_end=True)
    until = trainer(tmp_path, max_epochs=2, callbacks=[keep], enable_checkpointing=True)
    until.fit(first, datamodule=narrated(tiny, num_workers=workers))
    again = trainer(tmp_path, max_epochs=3)
    again.fit(second, datamodule=narrated(tiny, num_workers=workers), ckpt_path=str(tmp_path / "at.ckpt"))
    assert first.seen + second.seen == whole.seen


def test_an_evaluation_of_a_checkpoint_leaves_a_later_run_whole(tiny, tmp_path):
    keep = ModelCheckpoint(tmp_path, "at", every_n_train_steps=2, save_top_k=1)
    until = trainer(tmp_path, max_steps=2, callbacks=[keep], enable_checkpointing=True, limit_val_batches=0)
    until.fit(Recorder(), datamodule=narrated(tiny))
    data, model = narrated(tiny), Recorder()
    trainer(tmp_path).test(model, datamodule=data, ckpt_path=str(tmp_path / "at.ckpt"))
    trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    assert len(model.seen) == 3 and len(model.evaluated) == 2


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "source", "val", "streams", "words"),
    [
        ("grid_s1", "word_vectors.txt", "test.csv", (("_2d", 2.0, 1280), ("_3d", 2.0, 576)), 51),
        ("flickr_narrated", "word_vectors.bin", "val.csv", (("_2d", 1.0, 1280),), 1000),
    ],
)
def test_real_data_sets(shared, name, source, val, streams, words):
    text = TextConfig(source=source, lowercase=True)
    streams = [VisualStream(*stream) for stream in streams]
    data = narrated(shared / name, val_csv=val, streams=streams, text=text, batch_size=4, eval_batch_size=4)
    data.setup("fit")
    assert len(data.text_embedder().table) >= words
    for loader, clips in ((data.train_dataloader(), 8), (data.val_dataloader(), 80)):
        batch = next(iter(loader))
        assert len(batch) == clips and batch.skipped == () and batch.video.shape[1] == data.video_dim
        assert torch.isfinite(batch.video).all() and torch.isfinite(batch.ready().audio).all()
        assert (batch.words[:, 0] > 0).all() and (batch.audio_frames == 100).all()
        assert np.isclose(batch.ready().video.norm(dim=1).numpy(), len(streams) ** 0.5, atol=1e-4).all()


def test_a_batch_of_one_clip_is_refused(tiny):
    data = narrated(tiny, batch_size=1, clips=ClipConfig(n_pair=1))
    data.setup("fit")
    with pytest.raises(InputError, match=r"--data\.batch_size 1: expected at least two clips"):
        data.train_dataloader()
