"""A checkpoint of three modalities on data that have fewer of them."""

import dataclasses
import json

import pytest
import torch
from launch import CONFIGS, refusal, run, write_overlay
from modules import SIZES, make_data, released_inputs
from modules import embed as embed_batch
from pytorch_lightning import Trainer
from references import model as reference
from safetensors.torch import load_file

from mcn_lightning.callbacks import RetrievalEvaluation
from mcn_lightning.module import MCNModule

ALL = ("video", "audio", "text")
CSV = "pytorch_lightning.loggers.CSVLogger"


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """A run of three modalities, each with clusters of its own; what a command needs to read it."""
    folder = tmp_path_factory.mktemp("three")
    demo = ("--config", CONFIGS / "demo.yaml", "--config", write_overlay(folder / "tiny.yaml", tiny, folder, CSV),
            "--model.clustering.kind", "kmeans_per_modality")  # fmt: skip
    run("fit", *demo, "--data.val_csv", "null")
    path = folder / "run" / "version_0" / "checkpoints" / "last.ckpt"
    return path, (*demo, "--trainer.limit_val_batches", "1.0")


def embed(checkpoint, folder, *words):
    path, demo = checkpoint
    run("predict", *demo, "--ckpt_path", path, "--embeddings.path", folder / "e.safetensors", *words)
    ids = [clip["id"] for clip in json.loads((folder / "e.json").read_text())["clips"]]
    tensors = load_file(folder / "e.safetensors")
    return ids, {name: value for name, value in tensors.items() if not name.startswith("centroids")}


@pytest.fixture(scope="module")
def of_all(checkpoint, tmp_path_factory):
    """Names and embeddings of the clips, with all modalities."""
    return embed(checkpoint, tmp_path_factory.mktemp("all"))


def table(capsys, command, checkpoint, *words):
    path, demo = checkpoint
    capsys.readouterr()
    run(command, *demo, "--ckpt_path", path, *words)
    return capsys.readouterr().out


def row(said, direction):
    return next(line for line in said.splitlines() if line.startswith(f"{direction} ")).split()


@pytest.mark.parametrize("names", [("video", "text"), ("audio", "text"), ("video",), ("audio",), ("text",)])
def test_embeddings_are_those_of_the_whole_checkpoint(names, checkpoint, of_all, tmp_path):
    ids, whole = of_all
    some_ids, some = embed(checkpoint, tmp_path, "--data.modalities", json.dumps(names))
    assert some_ids == ids and set(some) == {*names, "cluster"} and set(whole) == {*ALL, "cluster"}
    for name in names:
        assert torch.equal(some[name], whole[name]), name


def test_windows_need_no_captions(checkpoint, tmp_path):
    words = ("--data.modalities", "[video, audio]", "--data.clips.kind", "windows", "--data.captions", "none.json")
    ids, rows = embed(checkpoint, tmp_path, *words)
    assert set(rows) == {"video", "audio", "cluster"}
    assert ids == [f"synthetic_{video:05d}:{second}" for video in (6, 7) for second in range(0, 30, 5)]


@pytest.mark.parametrize("command", ["validate", "test"])
def test_the_directions_that_can_be_served_are_evaluated(command, checkpoint, capsys):
    whole = table(capsys, command, checkpoint)
    some = table(capsys, command, checkpoint, "--data.modalities", "[video, text]")
    assert row(some, "t->v") == row(whole, "t->v") and row(some, "v->t") == row(whole, "v->t")
    assert "left out, as there is no audio: t->va, t->a, a->t, a->v, v->a" in some and "left out" not in whole
    if command == "test":
        return  # the rest is decided as in validate
    wanted = table(capsys, command, checkpoint, "--data.modalities", "[video, text]",
                   "--retrieval.directions", "[t->va, v->t]")  # fmt: skip
    assert row(wanted, "v->t") == row(whole, "v->t") and "no audio: t->va\n" in wanted
    alone = table(capsys, command, checkpoint, "--data.modalities", "[text]")  # topics are known
    assert "nmi: " in alone and "R@10" in alone and "no video: t->va, t->v, v->t" in alone


def test_what_cannot_be_evaluated_or_trained_is_said(checkpoint, tiny, tmp_path, capsys):
    path, demo = checkpoint
    captions = json.loads((tiny / "captions.json").read_text())
    bare = {video: {name: entry[name] for name in ("start", "end", "text")} for video, entry in captions.items()}
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    words = ("--ckpt_path", path, "--data.modalities", "[text]", "--data.captions", tmp_path / "bare.json")
    assert "expected two or more to retrieve one by another, found text alone" in refusal(capsys, "test", *demo, *words)
    found = refusal(capsys, "fit", *demo, "--model.weights", path, "--data.modalities", "[video]")
    assert "--data.modalities: expected two or three of video, audio, text to train with, found ['video']" in found


@pytest.mark.parametrize("names", [("video", "text"), ("video", "audio")])
def test_weights_of_three_modalities_are_tuned_on_two(names, checkpoint, tmp_path):
    path, demo = checkpoint
    words = ("--data.clips.kind", "windows", "--data.captions", "none.json") if "text" not in names else ()
    run("fit", *demo, "--model.weights", path, "--data.modalities", json.dumps(names), *words,
        "--trainer.logger.init_args.save_dir", tmp_path, "--trainer.max_steps", 1)  # fmt: skip
    saved = torch.load(tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[1] for name in saved if name.startswith("network.")} == set(names)


def test_starting_weights_in_the_options_do_not_bring_modalities_back(checkpoint, tmp_path):
    path, _ = checkpoint
    _, rows = embed(checkpoint, tmp_path, "--data.modalities", "[video, text]", "--model.weights", path)
    assert set(rows) == {"video", "text", "cluster"}


def test_in_a_notebook_the_network_may_have_more_than_the_data(checkpoint, tiny):
    module = MCNModule.load_from_checkpoint(checkpoint[0])
    evaluation = RetrievalEvaluation()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[evaluation],
                      enable_checkpointing=False)  # fmt: skip
    data = make_data(tiny, modalities=["video", "text"])
    assert {"val/t->v/R@10", "val/v->t/R@10"} <= set(trainer.validate(module, data, verbose=False)[0])
    embedded = trainer.predict(module, data)
    assert set(embedded[0]) == {"ids", "video", "text", "cluster"}


@pytest.mark.parametrize("names", [("video",), ("audio", "text")])
def test_of_a_joint_embedding_both_halves_or_none_are_there(names, tmp_path):
    state = reference.random_released_state_dict(12, video_dim=16, text_dim=8, audio_widths=(4, 4, 4, 8),
                                                 recon_hidden=8, text="fused")  # fmt: skip
    torch.save(state, tmp_path / "fused.pth")
    module = MCNModule(dataclasses.replace(SIZES, modalities=names), weights=str(tmp_path / "fused.pth"))
    inputs = released_inputs()
    expected = reference.embed(state, *inputs, False)
    name = "video" if names == ("video",) else "audio_text"
    found = embed_batch(module, inputs)
    assert set(found) == {name}
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
