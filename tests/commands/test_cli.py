"""The command, run as a user runs it: every recipe on tiny data, wrong options, resuming, predicting."""

import csv
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
import yaml
from launch import CONFIGS, EXPERIMENTS, folder_of, refusal, run
from references import model as reference
from safetensors.torch import load_file

from mcn_lightning.module import MCNModule


def layers(recipe: Path) -> list[Path]:
    """Return a recipe with what it is layered over: the one its name begins with, or any, as the demo."""
    if recipe.parent.name != "ablations":
        return [recipe]
    bases = [path for path in CONFIGS.glob("*.yaml") if recipe.stem.startswith(f"{path.stem}_")]
    return [*(bases or [CONFIGS / "demo.yaml"]), recipe]


RECIPES = [  # others run in test_benchmarks.py, test_sweeps.py, test_wandb.py and tests/extract
    path
    for path in sorted([*CONFIGS.rglob("*.yaml"), *EXPERIMENTS.rglob("*.yaml")])
    if path.parent.name not in ("evaluate", "extract", "finetune", "sweeps", "trainer")
    # one of those that differ in a number of clusters, which is tiny here; test_sweeps.py reads all of them
    and not (path.stem.startswith("clusters_") and path.stem != "clusters_64")
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains(recipe, overlay, capsys):
    files = [word for path in [*layers(recipe), overlay] for word in ("--config", path)]
    run("fit", *files, "--data.clips.n_pair", 4)
    folder = folder_of(overlay)
    assert (folder / "config.yaml").is_file()
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows if row.get("train/loss")]
    assert len(losses) == 3 and all(torch.tensor(losses).isfinite())
    assert "R@10" in capsys.readouterr().out


def test_fit_validate_test_predict(overlay, tmp_path, capsys):
    demo = ("--config", CONFIGS / "demo.yaml", "--config", overlay)
    run("fit", *demo)
    checkpoint = folder_of(overlay) / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["state_dict"]["clustering.of.mean.centroids"].shape == (4, 16)
    assert "after epoch 3" in capsys.readouterr().out  # one batch an epoch
    for command in ("validate", "test"):
        run(command, *demo, "--ckpt_path", checkpoint)
        table = capsys.readouterr().out
        assert "t->va" in table and "after epoch" not in table
    run("predict", *demo, "--ckpt_path", checkpoint)
    written = next(overlay.parent.rglob("embeddings.safetensors"))
    rows = load_file(written)
    ids = [clip["id"] for clip in json.loads(written.with_suffix(".json").read_text())["clips"]]
    assert {name: len(value) for name, value in rows.items()} == {
        **dict.fromkeys(("video", "audio", "text", "cluster"), len(ids)), "centroids": 4
    }  # fmt: skip
    assert len(set(ids)) == len(ids) > 4

    # its starting weights are no longer needed
    run("validate", *demo, "--ckpt_path", checkpoint, "--model.weights", tmp_path / "gone.pth")
    assert "t->va" in capsys.readouterr().out
    assert "gone.pth" in refusal(capsys, "validate", *demo, "--model.weights", tmp_path / "gone.pth")


@pytest.mark.parametrize("recipe", ["demo", "grid"])
def test_shards_train_to_the_same_digits(recipe, overlay, tmp_path, capsys):
    files = ("--config", CONFIGS / f"{recipe}.yaml", "--config", overlay)
    run("prepare", *files, "--pack.output", tmp_path / "shards", "--pack.shard_size", 30_000)
    assert "packed 8 videos" in capsys.readouterr().out
    run("fit", *files)
    run("fit", *files, "--data.shards", tmp_path / "shards")
    tables = [list(csv.DictReader((folder_of(overlay, run) / "metrics.csv").open())) for run in (0, 1)]
    assert len(tables[0]) > 3
    for one, other in zip(*tables, strict=True):
        assert untimed(one) == untimed(other)


def untimed(row: dict[str, str]) -> dict[str, str]:
    """Return a row of metrics.csv without what depends on the clock."""
    return {name: value for name, value in row.items() if "second" not in name and name != "train/data_wait_share"}


@pytest.mark.parametrize("modalities", [["video", "text"], ["audio", "text"], ["video", "audio"]], ids=" ".join)
def test_missing_modalities(modalities, overlay, capsys):
    run("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--data.modalities", json.dumps(modalities))
    table = capsys.readouterr().out
    absent = ({"video", "audio", "text"} - set(modalities)).pop()[0]
    lines = [line.split()[0] for line in table.splitlines() if "->" in line]
    assert lines and all(absent not in line.replace("->", "") for line in lines)


def test_saved_config_reproduces_the_run_and_a_checkpoint_goes_on(overlay):
    run("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    run("fit", "--config", folder_of(overlay) / "config.yaml")
    files = [folder_of(overlay, version) / "metrics.csv" for version in (0, 1)]
    rows = [[row["train/loss"] for row in csv.DictReader(path.open()) if row["train/loss"]] for path in files]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    checkpoint = folder_of(overlay, 1) / "checkpoints" / "last.ckpt"
    first = torch.load(checkpoint, weights_only=True)
    assert first["state_dict"]["clustering.of.mean.centroids"].abs().sum() > 0
    # it goes on for more steps
    run("fit", "--config", folder_of(overlay) / "config.yaml", "--trainer.max_steps", 5, "--ckpt_path", checkpoint)
    second = torch.load(checkpoint, weights_only=True)
    assert (first["global_step"], second["global_step"]) == (3, 5)


def test_bad_values_name_the_option(overlay, capsys, tmp_path):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    assert "--data.root" in refusal(capsys, *demo, "--data.root", tmp_path / "nowhere")
    assert "--data.train_csv" in refusal(capsys, *demo, "--data.train_csv", "absent.csv")
    assert "--data.batch_size" in refusal(capsys, *demo, "--data.batch_size", 7)
    assert "num_clusters" in refusal(capsys, *demo, "--model.clustering.num_clusters", 400)
    assert "--retrieval.directions" in refusal(capsys, *demo, "--retrieval.directions", '["t-v"]')
    assert "--centroids" in refusal(capsys, *demo, "--centroids.every_n_epochs", 2)
    assert "--trainer.precision: expected" in refusal(capsys, *demo, "--trainer.precision", "bf16-true")
    both = ("--trainer.devices", 2, "--trainer.sync_batchnorm", "true")
    assert "--trainer.sync_batchnorm: expected GPUs" in refusal(capsys, *demo, *both)


def test_checkpoint_of_another_size(overlay, capsys):
    demo = ("--config", CONFIGS / "demo.yaml", "--config", overlay)
    run("fit", *demo)
    checkpoint = folder_of(overlay) / "checkpoints" / "last.ckpt"
    words = ("fit", *demo, "--ckpt_path", checkpoint, "--model.network.embedding_dim", 32)
    assert f"--ckpt_path {checkpoint}: expected a run with the same" in refusal(capsys, *words)
    (folder_of(overlay) / "config.yaml").unlink()
    assert "expected (4, 32), found (4, 16)" in refusal(capsys, *words)


def test_a_file_that_is_no_checkpoint(overlay, capsys, tmp_path):
    demo = ("validate", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--ckpt_path")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "other.pt").read_bytes()[:200])
    for name, reason in (("absent.ckpt", "no file"), ("cut.ckpt", "whole"), ("other.pt", "--model.weights")):
        message = refusal(capsys, *demo, tmp_path / name)
        assert "--ckpt_path" in message and name in message and reason in message


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--model.loss.cluster_wieght", 0.5), "cluster_wieght"),
        (("--model.optimizer.lr", "fast"), "model.optimizer.lr"),
        (("--config", "nope.yaml"), "nope.yaml"),
        (("--data.streams", "[{sufix: _2d}]"), "sufix"),
        (("--model.weights", "gone.pth"), "--model.weights gone.pth: expected"),
        (
            ("--data.text.kind", "tokens", "--data.text.source", "no/model"),
            "no/model: expected a sentence-transformers",
        ),
    ],
)
def test_a_wrong_word_of_the_command_is_told_in_one_line(words, part, overlay, capsys):
    message = refusal(capsys, "fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *words)
    told = [line for line in message.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and part in told[0] and "usage:" not in message


def test_values_out_of_range_are_one_line(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    for option, value in (("--model.clustering.num_clusters", 0), ("--model.optimizer.lr", -1)):
        message = refusal(capsys, *demo, option, value)
        assert option in message and "Traceback" not in message
    off = ("--model.loss.contrastive.kind", "none", "--model.clustering.kind", "none")
    assert "at least one loss" in refusal(capsys, *demo, *off, "--model.network.reconstruction", "false")


def test_the_last_epoch_is_saved_without_validation(overlay):
    run("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--trainer.check_val_every_n_epoch", 100)
    saved = torch.load(folder_of(overlay) / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    config = yaml.safe_load((folder_of(overlay) / "config.yaml").read_text())
    assert config["ckpt_path"] is None


def test_a_bad_held_out_video_ends_the_run_before_it_trains(overlay, capsys, tmp_path, tiny):
    shutil.copytree(tiny, tmp_path / "damaged")
    broken = sorted((tmp_path / "damaged").rglob("val/*/*_2d.npz"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    demo = ("--config", CONFIGS / "demo.yaml", "--config", overlay, "--data.root", tmp_path / "damaged")
    message = refusal(capsys, "fit", *demo)
    assert broken.name in message and "cannot be evaluated" in message
    assert not (folder_of(overlay) / "checkpoints").exists()


def test_evaluating_nothing_is_said(overlay, capsys):
    demo = ("--config", CONFIGS / "demo.yaml", "--config", overlay)
    assert "--data.val_csv" in refusal(capsys, "validate", *demo, "--data.val_csv", "null")
    run("validate", *demo)
    assert "random weights" in capsys.readouterr().err
    assert "--seed_everything" in refusal(capsys, "fit", *demo, "--seed_everything", "true")


def test_three_names_are_one_command():
    scripts = {point.name: point.value for point in entry_points(group="console_scripts")}
    assert scripts["lightning"] == scripts["mcn-lightning"] == "mcn_lightning.__main__:main"
    shown = subprocess.run([sys.executable, "-m", "mcn_lightning", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(command in shown.stdout for command in ("fit", "validate", "test", "predict"))


def test_a_run_cut_by_max_steps_goes_on_in_the_middle_of_its_epoch(overlay):
    words = (
        "--data.batch_size 2 --trainer.max_epochs 3 --model.optimizer.schedule constant --trainer.limit_val_batches 0"
    )
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *words.split(), "--trainer.max_steps")
    run(*demo, -1)
    run(*demo, 4)  # one step into the second of three epochs
    run(*demo, -1, "--ckpt_path", folder_of(overlay, 1) / "checkpoints" / "last.ckpt")
    whole, cut = (losses(folder_of(overlay, version)) for version in range(2))
    assert len(whole) == 9 and cut == whole


def losses(folder: Path) -> list[tuple[str, str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [(row["epoch"], row["step"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


RELEASES = {
    "MCN with reconstruction": {},
    "MCN or AVLnet-Text-Tri": {"recon": False},
    "AVLnet": {"text": "none"},
    "AVLnet-Text-Fused": {"text": "fused"},
}


def save_released(folder: Path, kind: str) -> Path:
    widths = {"video_dim": 16, "text_dim": 8, "audio_widths": (4, 4, 4, 8), "recon_hidden": 8}
    torch.save(reference.random_released_state_dict(12, **widths, **RELEASES[kind]), folder / "e16.pth")
    return folder / "e16.pth"


def rows_of(said: str) -> dict[str, list[str]]:
    lines = [line.split() for line in said.splitlines() if re.match("[vat]+->", line)]
    return {direction: figures for direction, *figures in lines}


def embeddings(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.rglob("embeddings.safetensors")))


@pytest.mark.parametrize("kind", RELEASES)
def test_released_weights_are_converted_and_evaluated(kind, overlay, tmp_path, capsys):
    demo = ("--config", CONFIGS / "demo.yaml", "--config", overlay)
    weights, checkpoint, options = save_released(tmp_path, kind), tmp_path / "mcn.ckpt", tmp_path / "mcn.yaml"
    run("test", *demo, "--model.weights", weights)
    said = f"--model.weights {weights}: {kind}, D = 12; model.network follows the weights"
    assert capsys.readouterr().out.startswith(
        f"{said}; but model.network.normalize is True here and was False in training\n"
    )
    run("convert", "--weights", weights, "--output", checkpoint)
    shown = capsys.readouterr()
    assert shown.out.startswith(f"{weights}: {kind}, D = 12, ") and f"-> {checkpoint}; " in shown.out
    assert f"--config {options} --ckpt_path {checkpoint}" in shown.out
    assert shown.out.count("\n") == 1 and not shown.err
    MCNModule.load_from_checkpoint(checkpoint, weights_only=True)
    run("test", *demo, "--config", options, "--model.weights", weights)
    first = capsys.readouterr().out
    assert first.startswith(f"{said}\n")
    run("test", *demo, "--config", options, "--ckpt_path", checkpoint)
    second = capsys.readouterr().out
    directions = set(rows_of(first))
    assert rows_of(first) == rows_of(second)
    expected = {"AVLnet": {"a->v", "v->a"}, "AVLnet-Text-Fused": {"v->ta", "ta->v"}}
    assert directions == expected.get(kind, directions) and "random weights" not in second
    run("predict", *demo, "--config", options, "--ckpt_path", checkpoint)
    found = embeddings(tmp_path)  # beside the checkpoint
    assert set(found) == {
        "AVLnet": {"video", "audio"}, "AVLnet-Text-Fused": {"video", "audio_text"}
    }.get(kind, {"video", "audio", "text"})  # fmt: skip
    assert {value.shape[1] for value in found.values()} == {12}
    if kind == "AVLnet":  # of any kind, the file is refused before anything is built from it
        message = refusal(capsys, "fit", *demo, "--config", options, "--ckpt_path", checkpoint)
        assert "weights alone; start from them with --model.weights" in message
    run("fit", *demo, "--model.weights", checkpoint, "--trainer.limit_val_batches", 0)
    assert f"--model.weights {checkpoint}: checkpoint of this project, D = 12" in capsys.readouterr().out


def test_a_run_from_released_weights_is_evaluated_when_they_are_gone(overlay, tmp_path, capsys):
    weights = save_released(tmp_path, "AVLnet")
    run("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--model.weights", weights)
    weights.unlink()
    folder = folder_of(overlay)
    capsys.readouterr()
    run("test", "--config", folder / "config.yaml", "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert set(rows_of(capsys.readouterr().out)) == {"a->v", "v->a"}


def test_weights_that_do_not_fit_the_data_are_refused_in_one_line(overlay, tmp_path, capsys):
    demo = ("test", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--model.weights")
    fused = save_released(tmp_path, "AVLnet-Text-Fused")
    for words, part in (
        (
            ("--data.streams", "[{suffix: _2d, rate: 1.0, width: 8}]"),
            "expected 16 values of the video feature, found 8",
        ),
        (("--data.modalities", "[video, audio]"), "expected all of video, audio, text"),
        (("--retrieval.directions", "[t->v]"), "use ta->v or v->ta"),
    ):
        told = [line for line in refusal(capsys, *demo, fused, *words).splitlines() if line.startswith("error: ")]
        assert len(told) == 1 and part in told[0]
        assert told[0].startswith((f"error: --model.weights {fused}: ", "error: --retrieval.directions: t->v: "))


def test_what_cannot_be_converted_is_told_in_one_line(tmp_path, capsys, monkeypatch):
    weights, checkpoint = save_released(tmp_path, "AVLnet"), tmp_path / "a.ckpt"
    words = ("convert", "--weights", weights, "--output")
    state = torch.load(weights, weights_only=True)
    del state["GU_video.fc.bias"]
    torch.save(state, tmp_path / "cut.pth")
    for command, part in (
        ((*words, tmp_path / "a.pth"), "--output: expected a name ending in .ckpt"),
        ((*words, tmp_path / "no" / "a.ckpt"), f"expected the folder {tmp_path / 'no'}, found none"),
        (("convert", "--weights", tmp_path / "b.pth", "--output", checkpoint), f"--weights {tmp_path / 'b.pth'}: "),
        (("convert", "--weights", tmp_path / "cut.pth", "--output", checkpoint), "GU_video.fc.bias is missing"),
    ):
        message = refusal(capsys, *command)
        assert message.startswith("error: ") and part in message and message.strip().count("\n") == 0
    save = torch.save

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    message = refusal(capsys, *words, checkpoint)
    assert f"--output {checkpoint}: expected to write a checkpoint, found no space left on device" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.pth", "e16.pth"]
    monkeypatch.setattr(torch, "save", save)
    (tmp_path / "other.ckpt.partial").touch()
    run(*words, checkpoint)
    assert (tmp_path / "other.ckpt.partial").exists()
    capsys.readouterr()
    assert f"expected no file at {checkpoint}, found one" in refusal(capsys, *words, checkpoint)
    again = ("convert", "--weights", checkpoint, "--output", tmp_path / "c.ckpt")
    assert "give it to --ckpt_path" in refusal(capsys, *again)
