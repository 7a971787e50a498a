"""Videos that lack a modality, from the files to the table: they train on what they have and are counted."""

import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from launch import CONFIGS, refusal, run, write_overlay
from modules import CLUSTERING, NETWORK, make_data, make_trainer
from pytorch_lightning import Trainer
from safetensors.torch import load_file
from test_two_processes import fit

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks import CentroidUpdate, RetrievalEvaluation
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.module import MCNModule
from mcn_lightning.training.optimizer import OptimizerConfig

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
    for order in ("fit", "test"):
        assert "; --data.allow_missing true evaluates it without" in refusal(capsys, order, *demo)
    words = ("--data.val_csv", "null", "--data.max_bad_share", "0.1")
    assert "unusable, more than --data.max_bad_share" in refusal(capsys, "fit", *demo, *words)


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


def command(partial, folder, *words):
    overlay = write_overlay(folder / "tiny.yaml", partial, folder, CSV)
    return ("--config", CONFIGS / "demo.yaml", "--config", overlay, "--data.allow_missing", "true",
            "--trainer.limit_val_batches", "1.0", *words)  # fmt: skip


def row(said, name):
    return next(line for line in said.splitlines() if re.match(rf"{re.escape(name)}\s", line)).split()


def test_the_command_trains_counts_and_marks(partial, tmp_path, capsys, caplog):
    demo = command(partial, tmp_path)
    run("fit", *demo, "--trainer.max_steps", 6, "--trainer.max_epochs", 6)
    assert re.search(r"epoch 1: of \d videos .* had no (audio|text|video)", caplog.text)
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values() if value.is_floating_point())
    capsys.readouterr()
    for order in ("validate", "test"):
        run(order, *demo, "--ckpt_path", checkpoint)
        said = capsys.readouterr().out
        # five captions a video, and the windows of 5 s of the one without captions
        captions, windows = 5, 6
        assert "held-out clips: 21" in said and row(said, "held-out")[-2:] == ["queries", "items"]
        assert row(said, "t->v")[-2:] == [str(2 * captions), str(2 * captions + windows)]
        assert row(said, "t->a")[-2:] == [str(2 * captions), str(2 * captions + windows)]
        assert row(said, "v->a")[-2:] == [str(captions + windows), str(2 * captions + windows)]
        assert row(said, "t->va")[-2:] == [str(captions), str(captions + windows)]
    run("predict", *demo, "--ckpt_path", checkpoint, "--embeddings.path", tmp_path / "e.safetensors")
    rows = load_file(tmp_path / "e.safetensors")
    clips = json.loads((tmp_path / "e.json").read_text())["clips"]
    for name, without in (("video", 8), ("audio", 6), ("text", 7)):
        there = torch.tensor([clip["video"] != f"synthetic_{without:05d}" for clip in clips])
        assert torch.equal(rows[f"has_{name}"], there), name
        assert rows[name][there].any(dim=1).all() and not rows[name][~there].any()
    assert all(clip["text"] is None for clip in clips if clip["video"].endswith("7"))


def test_a_direction_that_no_clip_serves_is_named(partial, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(partial, data)
    for path in data.glob("features/val/*/*_spec.npz"):
        path.unlink()
    demo = command(data, tmp_path)
    run("validate", *demo, "--data.val_csv", "val.csv")
    said = capsys.readouterr().out
    assert "left out, as there is no clip with both sides: t->va, t->a, a->t, a->v, v->a" in said
    assert row(said, "t->v")[0] == "t->v"


def test_in_a_notebook(partial, tmp_path):
    evaluation = RetrievalEvaluation()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[evaluation], max_epochs=1,
                      enable_checkpointing=False, default_root_dir=tmp_path, enable_model_summary=False)  # fmt: skip
    module = MCNModule(NETWORK, clustering=CLUSTERING, optimizer=OptimizerConfig(warmup_steps=0))
    trainer.fit(module, make_data(partial, allow_missing=True))
    assert {"val/t->va/R@10", "val/a->v/R@10", "val/nmi"} <= set(trainer.callback_metrics)
    found = trainer.predict(module, make_data(partial, allow_missing=True))
    assert all(part["has_video"].dtype == torch.bool for part in found)


def test_two_processes_train_as_one(partial, tmp_path):
    words = ("--data.allow_missing", "true", "--data.modalities", "[video, text]", "--model.loss.contrastive.tile", 4)
    one, weights = fit(partial, tmp_path / "one", "--data.batch_size", 2, "--trainer.devices", 1, *words)
    two, others = fit(partial, tmp_path / "two", "--data.batch_size", 1, "--trainer.devices", 2, *words)
    assert len(one) == 6 and two == pytest.approx(one, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(others[name], value, rtol=1e-3, atol=1e-4)


def test_check_counts_them(partial, tmp_path, capsys):
    overlay = write_overlay(tmp_path / "tiny.yaml", partial, tmp_path, CSV)
    run("check", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--data.allow_missing", "true")
    said = capsys.readouterr().out
    assert "6 of 6 videos can be used" in said and "  lacking   audio (in 2 videos)" in said


@pytest.mark.parametrize("kind", ["kmeans", "kmeans_per_modality"])
def test_a_pass_clusters_what_is_there(kind, partial, tmp_path):
    module = MCNModule(NETWORK, clustering=ClusteringConfig(kind, num_clusters=3, queue_rows=0))
    rows = {}

    def record(features, fresh):
        rows.update({name: sum(map(len, parts)) for name, parts in features.items()})
        assert all(part.any(dim=1).all() for parts in features.values() for part in parts)  # no row of zeros
        return fit_all(features, fresh)

    fit_all, module.clustering.fit = module.clustering.fit, record
    update = CentroidUpdate(every_n_steps=0, every_n_epochs=1, source="training_set")
    make_trainer(tmp_path, max_epochs=1, callbacks=[update], enable_checkpointing=False).fit(
        module, make_data(partial, allow_missing=True)
    )
    assert rows == {"mean": 24, "video": 20, "audio": 16, "text": 16}


def write_pickle(path):
    generator = np.random.default_rng(0)
    clips = []
    for number, lacks in enumerate(("", "audio", "caption", "2d", "2d 3d", "2d 3d audio")):
        clip = {"id": f"clip{number}", "2d": generator.random(8, dtype=np.float32), "caption": "topic0word1 so",
                "3d": generator.random(8, dtype=np.float32), "audio": -torch.rand(40, 96) * 80}  # fmt: skip
        clips.append({name: value for name, value in clip.items() if name not in lacks.split()})
    path.write_bytes(pickle.dumps(clips))
    return path


def test_clips_of_a_pickle_may_lack_a_modality(tiny, tmp_path):
    path = write_pickle(tmp_path / "clips.pkl")
    data = make_data(tiny, train_csv=str(path), val_csv=str(path), allow_missing=True)
    train, val = batches(data, epochs=(0,)), batches(data, "val", epochs=(0,))
    assert [len(batch) for batch in train] == [4] * 6 and [len(batch) for batch in val] == [1] * 6
    there = [[letter in clip for letter in "vat"] for clip in ("vat", "vt", "va", "vat", "at", "t")]
    assert [batch.present[0].tolist() for batch in train] == [batch.present[0].tolist() for batch in val] == there
    assert not val[3].video[:, :8].any() and val[3].video[:, 8:].any()
    module = MCNModule(NETWORK, clustering=CLUSTERING, optimizer=OptimizerConfig(warmup_steps=0))
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, make_data(tiny, train_csv=str(path), val_csv=None, allow_missing=True))
    assert trainer.global_step == 3 and trainer.callback_metrics["train/loss"].isfinite()
    found = trainer.validate(module, make_data(tiny, val_csv=str(path), allow_missing=True), verbose=False)
    strict = batches(make_data(tiny, train_csv=str(path), val_csv=None), epochs=(0,))
    assert [hasattr(batch, "reason") for batch in strict] == [False, True, True, True, True, True]
    assert found is not None


def test_rows_that_are_taken_keep_what_is_present():
    present = torch.tensor([[True, True, True], [True, False, True], [True, True, False]])
    batch = ClipBatch(("a:0", "b:0", "c:0"), video=torch.eye(3), items=("a", "b", "c"), present=present).take([2, 1, 1])
    assert batch.ids == ("c:0", "b:0", "b:0") and torch.equal(batch.present, present[[2, 1, 1]])
