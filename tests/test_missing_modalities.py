"""Videos that lack a modality, from the files to the table: they train on what they have and are counted."""

import json

import pytest
import torch
from commands import write_overlay
from test_cli import CONFIGS, refusal
from test_module import CLUSTERING, NETWORK, make_data, make_trainer

from mcn_lightning.callbacks import CentroidUpdate
from mcn_lightning.data.packing import PackConfig
from mcn_lightning.data.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.module import MCNModule, OptimizerConfig

CSV = "pytorch_lightning.loggers.CSVLogger"
LACKS = {0: "audio", 1: "text", 2: "2d", 3: "video", 4: "text audio", 6: "audio", 7: "text", 8: "video"}
"""What each video is without; those from 6 on are held out, and the ones that are not named are whole."""


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    """Six training and four held-out videos of 30 s, of which some lack a modality."""
    root = tmp_path_factory.mktemp("partial") / "data"
    write_synthetic(root, SyntheticConfig(videos=6, held_out=4, seconds=30.0, topics=3, widths=(8, 8), word_dim=8))
    captions = json.loads((root / "captions.json").read_text())
    for number, lacks in LACKS.items():
        name = f"synthetic_{number:05d}"
        folder = next(root.glob(f"features/*/{name}"))
        for suffix, marks in (("_spec", "audio"), ("_2d", "2d video"), ("_3d", "video")):
            if set(marks.split()) & set(lacks.split()):
                (folder / f"{name}{suffix}.npz").unlink()
        if "text" in lacks:
            del captions[name]
    (root / "captions.json").write_text(json.dumps(captions))
    (root / "synthetic.json").unlink()
    return root


def batches(data, split="train", epochs=(0, 1)):
    data.setup("fit")
    found = []
    for epoch in epochs:
        dataset = data.datasets[split]
        found += [dataset[epoch, index] for index in range(len(dataset))]
    return found


def test_a_batch_says_what_its_clips_have(partial):
    data = make_data(partial, allow_missing=True)
    by_video = {batch.ids[0].split(":")[0]: batch for batch in batches(data, epochs=(0,))}
    there = {int(name[-5:]): batch.present[0].tolist() for name, batch in by_video.items()}
    assert there == {0: [True, False, True], 1: [True, True, False], 2: [True] * 3, 3: [False, True, True],
                     4: [True, False, False], 5: [True] * 3}  # fmt: skip
    half = by_video["synthetic_00002"].video  # one stream is zeros, the other is there
    assert not half[:, :8].any() and half[:, 8:].any(dim=1).all()
    windows = by_video["synthetic_00001"].ids
    assert len(windows) == 4 and all(0 <= int(name.split(":")[1]) <= 25 for name in windows)
    joined = next(iter(data.train_dataloader()))
    assert joined.present.shape == (8, 3)
    for name, rows in (("video", joined.ready().video), ("text", joined.words)):
        column = joined.present[:, ("video", "audio", "text").index(name)]
        assert torch.equal(rows.ne(0).any(dim=1), column), name
    assert torch.equal(joined.audio_frames > 0, joined.present[:, 1])


def test_whole_videos_are_what_they_were(tiny):
    with_option = batches(make_data(tiny, allow_missing=True))
    for one, other in zip(batches(make_data(tiny)), with_option, strict=True):
        assert one.ids == other.ids and other.present.all() and one.present is None
        for name in ("video", "frames", "frame_start", "audio_frames", "words", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_without_the_option_they_cannot_be_used(partial, tmp_path, capsys):
    data = make_data(partial)
    data.setup("predict")
    assert sum("found no" in getattr(batch, "reason", "") for batch in batches(data, epochs=(0,))) == 5
    demo = (
        "--config",
        CONFIGS / "demo.yaml",
        "--config",
        write_overlay(tmp_path / "tiny.yaml", partial, tmp_path, CSV),
    )
    assert "found no" in refusal(capsys, "fit", *demo, "--data.max_bad_share", "0.1")


@pytest.mark.parametrize("keep_frames", [False, True])
def test_shards_carry_what_is_there(keep_frames, partial, tmp_path):
    layout = make_data(partial, allow_missing=True)
    report = layout.pack(PackConfig(str(tmp_path / "shards"), keep_frames=keep_frames, processes=1))
    assert not report.skipped
    shards = make_data(partial, allow_missing=True, shards=str(tmp_path / "shards"))
    for split in ("train", "val"):
        for one, other in zip(batches(layout, split), batches(shards, split), strict=True):
            assert one.ids == other.ids and torch.equal(one.present, other.present)
            for name in ("video", "audio_frames", "words", "labels"):
                ours, theirs = getattr(one, name), getattr(other, name)
                assert (ours is None and theirs is None) or torch.equal(ours, theirs), (name, one.ids)
            assert torch.equal(one.ready().audio, other.ready().audio)
    strict = make_data(partial, shards=str(tmp_path / "shards"))
    found = [batch for batch in batches(strict, epochs=(0,)) if hasattr(batch, "reason")]
    assert len(found) == 5 and "expected features_2d, found none; it was packed without" in found[2].reason


def test_one_run_is_the_same_after_it_was_stopped(partial, tmp_path):
    def losses(module):
        seen = []
        module.on_train_batch_end = lambda *_: seen.append(float(module.trainer.callback_metrics["train/loss"]))
        return seen

    def start(**options):
        torch.manual_seed(0)
        constant = OptimizerConfig(lr=1e-3, warmup_steps=0, schedule="constant")
        module = MCNModule(NETWORK, clustering=CLUSTERING, optimizer=constant)
        update = CentroidUpdate(every_n_steps=2)
        trainer = make_trainer(tmp_path, callbacks=[update], enable_checkpointing=False, **options)
        return module, losses(module), trainer

    module, whole, trainer = start(max_epochs=2)
    trainer.fit(module, make_data(partial, allow_missing=True))
    module, first, trainer = start(max_steps=2)
    trainer.fit(module, make_data(partial, allow_missing=True))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    module, second, trainer = start(max_epochs=2)
    trainer.fit(module, make_data(partial, allow_missing=True), ckpt_path=tmp_path / "a.ckpt")
    assert len(whole) == 6 and len(first) == 2 and [*first, *second] == whole
    assert all(torch.tensor(whole).isfinite())
