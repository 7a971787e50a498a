"""The folder of a run: whose it is, what lies in it whatever the loggers, and that it can be written."""

from __future__ import annotations

import csv
import errno
import json
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from filelock import FileLock
from launch import CONFIGS, CSV, folder_of, refusal, run, write_overlay

from mcn_lightning.runs import folder as folders
from mcn_lightning.runs import resume
from mcn_lightning.runs.saved import differences
from mcn_lightning.runs.tracking import MetricsFile


@pytest.fixture
def overlay(tmp_path, tiny) -> Path:
    return write_overlay(tmp_path / "tiny.yaml", tiny, tmp_path / "runs", CSV, check_val_every_n_epoch=3)


def test_a_folder_or_checkpoint_of_another_run_is_refused_with_the_options_that_differ(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    run(*demo)
    folder = folder_of(overlay)
    before = (folder / "metrics.csv").read_text()
    weight = ("--model.loss.cluster_weight", 0.5)
    version, checkpoint = "--trainer.logger.init_args.version", folder / "checkpoints" / "last.ckpt"
    found = f"found {folder} with other ones (model.loss.cluster_weight: 1.0 there, 0.5 here); "
    for words, option, hint in (
        ((version, "0"), f"{version} 0", "choose another version"),
        ((version, "version_0"), f"{version} version_0", "choose another version"),  # as a name
        (("--ckpt_path", checkpoint), f"--ckpt_path {checkpoint}", "start from its weights (--model.weights)"),
        (("--checkpoint.dirpath", checkpoint.parent), f"--checkpoint.dirpath {checkpoint.parent}", "another folder"),
    ):
        message = refusal(capsys, *demo, *weight, *words)
        told = next(line for line in message.splitlines() if line.startswith("error: "))
        assert told.startswith(f"error: {option}: expected a run with the same options, {found}") and hint in told
    many = (
        "--data.batch_size",
        2,
        "--seed_everything",
        3,
        "--model.optimizer.lr",
        1,
        "--data.audio.clamp_start",
        "false",
    )
    message = refusal(capsys, *demo, *weight, *many, "--data.clips.n_pair", 2, "--data.clips.min_time", 9, version, 0)
    assert "data.batch_size: 4 there, 2 here, " in message and ", and " in message and " more); choose" in message
    assert (folder / "metrics.csv").read_text() == before
    longer = ("--trainer.max_steps", 4, "--data.num_workers", 1, "--trainer.log_every_n_steps", 2)
    run(*demo, *longer, version, 0, "--ckpt_path", checkpoint)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4
    run(*demo, *weight, version, 1)  # a new folder


def test_a_refused_start_leaves_no_folder(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    many, version = ("--data.batch_size", 5000), ("--trainer.logger.init_args.version", 7)
    for words in (many, (*many, *version)):
        assert "expected at most the videos there are" in refusal(capsys, *demo, *words)
        assert not list(overlay.parent.glob("runs/**/.lock")) and not list(overlay.parent.glob("runs/*/version_*"))
    run(*demo, *version)
    folder = folder_of(overlay)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refusal(capsys, *demo, *many, *version, "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert before.items() <= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}.items()


def test_a_folder_that_was_there_or_has_a_file_stays(overlay, capsys, tmp_path):
    name = yaml.safe_load(overlay.read_text())["trainer"]["logger"]["init_args"].get("name", "mcn")
    empty = tmp_path / "runs" / name / "version_7"
    empty.mkdir(parents=True)
    words = ("--data.batch_size", 5000, "--trainer.logger.init_args.version", 7)
    refusal(capsys, "fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *words)
    assert empty.is_dir()
    made = tmp_path / "version_8"
    made.mkdir()
    (made / "notes.txt").write_text("keep")
    with patch.object(folders, "_made", {made}):
        folders.release_folders()
    assert (made / "notes.txt").read_text() == "keep"


def test_a_run_folder_is_that_of_one_run(overlay, capsys, tmp_path):
    place = tmp_path / "job"
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--run_folder", place, "--ckpt_path", "last")
    run(*demo)
    run(*demo, "--trainer.max_steps", 4)
    (first,) = place.glob("*/version_*")
    assert "goes on from" in capsys.readouterr().out
    assert {"config.yaml", "metrics.csv", "run.json", "checkpoints"} <= {path.name for path in first.iterdir()}
    assert yaml.safe_load((first / "config.yaml").read_text())["trainer"]["max_steps"] == 4
    message = refusal(capsys, *demo, "--model.loss.cluster_weight", 0.5, "--model.optimizer.lr", 0.5)
    assert (
        f"error: --run_folder {place}: expected a run with the same options, found {first} with other ones" in message
    )
    assert "model.loss.cluster_weight: 1.0 there, 0.5 here, model.optimizer.lr: 0.003 there, 0.5 here" in message
    message = refusal(capsys, *demo, "--trainer.gradient_clip_val", 0.5, "--retrieval.calibrate", 0.5)
    assert "retrieval.calibrate: 0.0 there, 0.5 here, trainer.gradient_clip_val: null there, 0.5 here" in message
    assert list(place.glob("*/version_*")) == [first]
    (first / "config.yaml").write_text("trainer: 5")
    assert f"{first / 'config.yaml'}: expected the options of a run, found something" in refusal(capsys, *demo)


def test_the_folder_of_a_run_is_one_whatever_the_order_of_its_loggers(overlay, tmp_path):
    loggers = [{"class_path": f"pytorch_lightning.loggers.{name}", "init_args": {"save_dir": str(tmp_path / name)}}
               for name in ("WandbLogger", "CSVLogger")]  # fmt: skip
    loggers[0]["init_args"]["offline"] = True
    (tmp_path / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--config", tmp_path / "loggers.yaml")
    run(*demo, "--run_folder", tmp_path / "job")
    (folder,) = (tmp_path / "job").glob("*/version_0")
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.csv", "run.json", "checkpoints", "wandb_id"} <= names
    assert not (tmp_path / "WandbLogger").exists() and not (tmp_path / "CSVLogger").exists()


def test_a_place_below_that_of_all_runs_cannot_be_written(overlay, capsys, tmp_path):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "run").write_text("")  # where the folders of the runs should be
    (tmp_path / "checkpoints").write_text("")
    assert f"{tmp_path / 'runs' / 'run'}: expected to write there, found " in refusal(capsys, *demo)
    words = ("--checkpoint.dirpath", tmp_path / "checkpoints" / "a", "--trainer.logger.init_args.name", "other")
    assert f"{tmp_path / 'checkpoints' / 'a'}: expected to write there" in refusal(capsys, *demo, *words)


def rows_in(path: Path) -> list[dict[str, str]]:
    """Return what was logged, row by row, without empty cells."""
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_run_that_goes_on_in_its_folder_keeps_what_it_logged(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--trainer.logger.init_args.version", 0)
    quick = (*EVALUATED, "--ckpt_path", "last", "--data.batch_size", 2, "--trainer.max_steps")
    run(*demo, *quick, 2)
    path = folder_of(overlay) / "metrics.csv"
    before = rows_in(path)
    path.write_text(path.read_text() + "0.5,0.2")  # a line that breaks off
    run(*demo, *quick, 4)
    every = rows_in(path)
    assert every[: len(before)] == before and not path.with_name("metrics.csv.partial").exists()
    assert [row["step"] for row in every if "train/loss" in row] == ["0", "1", "2", "3"]
    run("validate", *demo[1:], "--ckpt_path", folder_of(overlay) / "checkpoints" / "last.ckpt")
    assert rows_in(path)[: len(every)] == every and len(rows_in(path)) == len(every) + 1
    assert "will be deleted" not in capsys.readouterr().err


def test_the_name_of_a_metric_makes_no_folder_and_such_a_run_goes_on(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--ckpt_path", "last")
    name = "{epoch}-{val/t->va/R@10:.1f}-{val/nmi}"
    run(*demo, "--checkpoint.filename", name, "--checkpoint.save_last", "false")
    (path,) = (folder_of(overlay) / "checkpoints").rglob("*.ckpt")
    recall = next(
        row["val/t->va/R@10"] for row in rows_in(folder_of(overlay) / "metrics.csv")[::-1] if "val/nmi" in row
    )
    assert path.parent.name == "checkpoints"
    assert path.name.startswith(f"epoch=2-val_t->va_R@10={float(recall):.1f}-val_nmi=0.")
    capsys.readouterr()
    run(*demo, "--trainer.max_steps", 5, "--checkpoint.filename", name)
    assert f"goes on from {path}, step 3" in capsys.readouterr().out
    run("results", overlay.parent / "runs", "--metrics", "[val/t->va/R@10]")
    assert "| run |" in capsys.readouterr().out.replace("  ", " ")
    run("validate", *demo[1:5], "--ckpt_path", path)


QUICK = ("--data.batch_size", 2, "--trainer.log_every_n_steps", 1, "--resume.every_n_steps", 1)
EVALUATED = ("--trainer.check_val_every_n_epoch", 1)


def steps_in(folder: Path) -> list[int]:
    """Return the steps whose loss was logged."""
    return [int(row["step"]) for row in rows_in(folder / "metrics.csv") if "train/loss" in row]


def test_a_run_that_is_made_longer_twice_is_one_run(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, *EVALUATED)
    folder = folder_of(overlay)
    run(*demo, "--trainer.max_steps", 2)
    for steps in (4, 5):
        run(*demo, "--ckpt_path", "last", "--trainer.max_steps", steps)
    assert [path.name for path in folder.parent.iterdir()] == ["version_0"] and steps_in(folder) == [0, 1, 2, 3, 4]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last.ckpt", "newest.ckpt", f"epoch=1-step={5}.ckpt"
    }  # fmt: skip
    record = json.loads((folder / "run.json").read_text())
    starts = record["starts"]
    assert len(starts) == 3 and record["finished"] and record["started"] == starts[0]["started"] < starts[2]["started"]
    # a start also counts the time after its last checkpoint, which the next one does not know
    assert starts[2]["hours"] < record["hours"] <= sum(start["hours"] for start in starts) + 1e-5
    run("results", folder.parent, "--metrics", "[val/t->va/R@10]")
    assert capsys.readouterr().out.splitlines()[-1].startswith("| run |  | 1 | 0 |")


def test_an_older_checkpoint_begins_a_new_folder_with_what_was_logged_until_then(overlay):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, *EVALUATED)
    demo = (*demo, "--checkpoint.every_n_epochs", 1)
    folder, other = folder_of(overlay), folder_of(overlay, 1)
    run(*demo, "--trainer.max_steps", 5, "--checkpoint.save_top_k", -1)
    before = rows_in(folder / "metrics.csv")
    older = min((folder / "checkpoints").glob("epoch=*.ckpt"))
    step = torch.load(older, weights_only=True)["global_step"]
    assert 0 < step < 5
    run(*demo, "--trainer.max_steps", step + 1, "--ckpt_path", older)
    assert rows_in(folder / "metrics.csv") == before
    assert steps_in(other) == list(range(step + 1))
    assert len(json.loads((other / "run.json").read_text())["starts"]) == 2


def test_a_chosen_folder_holds_one_run(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, "--trainer.max_steps")
    version, folder = ("--trainer.logger.init_args.version", 0), folder_of(overlay)
    run(*demo, 2, *version)
    before = (folder / "metrics.csv").read_text()
    found = "expected a new folder, or the newest checkpoint in it to go on from (--ckpt_path last), found the checkpo"
    for words, option in ((version, f"{version[0]} 0"), (("--checkpoint.dirpath", folder / "checkpoints"), "--checkp")):
        message = refusal(capsys, *demo, 3, *words)
        assert f"error: {option}" in message and found in message and "choose another " in message
    assert (folder / "metrics.csv").read_text() == before
    (folder / "checkpoints").rename(folder / "aside")  # as of a run that was killed before its first checkpoint
    run(*demo, 1, *version, "--ckpt_path", "last")
    assert steps_in(folder) == [0]


def test_checkpoints_elsewhere_have_the_run_beside_them(overlay, tmp_path):
    place = tmp_path / "elsewhere"
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, "--checkpoint.dirpath", place)
    for steps in (2, 3):
        run(*demo, "--ckpt_path", "last", "--trainer.max_steps", steps)
    assert steps_in(place) == [0, 1, 2] and len(json.loads((place / "run.json").read_text())["starts"]) == 2
    assert (place / "config.yaml").is_file() and not (tmp_path / "runs" / "run").exists()


def test_a_folder_that_was_moved_goes_on(overlay):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, "--trainer.max_steps")
    run(*demo, 2)
    folder = folder_of(overlay).rename(folder_of(overlay, 7))
    run(*demo, 4, "--ckpt_path", "last")
    assert [path.name for path in folder.parent.iterdir()] == ["version_7"] and steps_in(folder) == [0, 1, 2, 3]
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["epoch=1-step=4.ckpt", "last.ckpt", "newest.ckpt"]


def test_a_run_killed_before_the_first_step_of_its_second_start_goes_on(overlay):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, "--trainer.max_steps")
    run(*demo, 2)
    path = folder_of(overlay) / "metrics.csv"
    before = rows_in(path)
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[1].replace(",0,", ",5,") + "\r\n")  # a step after the checkpoint
    with patch.object(resume, "restore_position", side_effect=KeyError("killed")), pytest.raises(KeyError):
        run(*demo, 4, "--ckpt_path", "last")
    assert rows_in(path) == before
    run(*demo, 4, "--ckpt_path", "last")
    assert rows_in(path)[: len(before)] == before and steps_in(path.parent) == [0, 1, 2, 3]


def test_a_run_that_is_going_on_is_not_taken_up_by_another(overlay, capsys):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, *QUICK, "--ckpt_path", "last")
    run(*demo)
    with FileLock(folder_of(overlay) / ".lock"):
        message = refusal(capsys, *demo, "--trainer.max_steps", 4)
    assert f"{folder_of(overlay)}: expected a folder that no run is writing to, found another `fit` that is" in message


def test_a_folder_that_can_only_be_read_is_one_line(overlay, capsys, monkeypatch):
    demo = ("fit", "--config", CONFIGS / "demo.yaml", "--config", overlay, "--ckpt_path", "last", "--trainer.max_steps")
    run(*demo, 1)
    before, make = (folder_of(overlay) / "metrics.csv").read_bytes(), tempfile.TemporaryFile

    def refuse(*given, dir=None, **more):
        if str(dir).endswith("version_0"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return make(*given, dir=dir, **more)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)  # root may write everywhere
    said = refusal(capsys, *demo, 2)
    assert f"{folder_of(overlay)}: expected to write there, found permission denied" in said
    assert (folder_of(overlay) / "metrics.csv").read_bytes() == before


def test_the_file_of_metrics_goes_on_after_whatever_a_kill_left(tmp_path):
    path = tmp_path / "metrics.csv"
    for left, kept in ((b"", []), (b"loss,st", []), (b"loss,step\r\n1.5,0\r\n2.5,1\r\n3.", [0, 1])):
        path.write_bytes(left)
        file = MetricsFile(str(tmp_path))
        file.truncate(2)
        file.log_metrics({"loss": 2.5}, 1)
        file.log_metrics({"nmi": 0.5}, 1)
        file.save()
        again = [] if kept else [{"loss": "2.5", "step": "1"}]
        assert rows_in(path)[len(kept) :] == [*again, {"nmi": "0.5", "step": "1"}]
        assert [int(row["step"]) for row in rows_in(path)[: len(kept)]] == kept


def test_no_batch_size_means_the_same_as_in_earlier_versions():
    before = {"data": {"batch_size": 128}}
    now = {"data": {"batch_size": None, "global_batch_size": None}}
    assert differences(before, now) == differences(now, before) == []
    assert differences(before, {"data": {"batch_size": None, "global_batch_size": 64}}) != []
    assert differences({"data": {"batch_size": 64}}, now) == ["data.batch_size: 64 there, 128 here"]
