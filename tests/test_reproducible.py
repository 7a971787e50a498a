"""The same run twice, and runs whose results cannot be written."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from forked import Popen
from launch import CONFIGS, refusal, run, tiny_options
from processes import python

from mcn_lightning.module import MCNModule

TIMES = ("seconds", "clips_per_second", "data_wait")


@pytest.fixture
def small(tiny, tmp_path) -> Path:
    """A file that makes the demo small."""
    options = tiny_options(tiny, tmp_path / "runs", max_epochs=3)
    options["data"]["num_workers"] = 1
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


def metrics(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a run's metrics but for times."""
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{key: value for key, value in row.items() if not any(word in key for word in TIMES)} for row in rows]


def losses(folder: Path) -> list[str]:
    """Return the losses of a run's steps."""
    return [row["train/loss"] for row in metrics(folder) if row["train/loss"]]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return a run's last weights."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_one_seed_gives_the_same_metrics_and_weights_bit_for_bit(small, tmp_path):
    for _ in range(2):
        run("fit", "--config", CONFIGS / "demo.yaml", "--config", small)
    first, second, other = (tmp_path / "runs" / "run" / f"version_{version}" for version in (0, 1, 2))
    assert len(metrics(first)) > 6 and metrics(first) == metrics(second)
    assert same(*(weights(each) for each in (first, second)))
    words = ["--seed_everything", 1, "--trainer.max_epochs", 1, "--data.num_workers", 0]
    run("fit", "--config", CONFIGS / "demo.yaml", "--config", small, *words)
    (loss, own), *_ = zip(losses(first), losses(other), strict=False)
    assert own != loss


def test_deterministic_algorithms_train_the_demo_to_the_same_metrics(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    on, step = [], MCNModule.training_step
    words = ["--config", CONFIGS / "demo.yaml", "--config", small]

    def training_step(*arguments):
        on.append(torch.are_deterministic_algorithms_enabled())
        return step(*arguments)

    monkeypatch.setattr(MCNModule, "training_step", training_step)
    try:
        for _ in range(2):
            run("fit", *words, "--trainer.deterministic", "true", "--data.num_workers", 0)
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = (tmp_path / "runs" / "run" / f"version_{version}" for version in (0, 1))
    assert on == [True] * 6
    assert yaml.safe_load((first / "config.yaml").read_text())["trainer"]["deterministic"] is True
    assert len(metrics(first)) > 6 and metrics(first) == metrics(second)


@pytest.mark.slow
def test_the_demo_itself_gives_the_same_metrics_and_weights_bit_for_bit(tmp_path):
    command = [sys.executable, "-m", "mcn_lightning", "fit", "--config", str(CONFIGS / "demo.yaml")]
    command += ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    command += ["--trainer.enable_progress_bar", "false"]
    command += ["--trainer.limit_train_batches", "5", "--trainer.log_every_n_steps", "5"]
    done = python(*command[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    command += ["--data.num_workers", "0"]  # a cold start, whose strings have other hashes than in a fork
    subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, check=True)
    first, second = (tmp_path / "runs" / "demo" / f"version_{version}" for version in (0, 1))
    names = {name for row in metrics(first) for name, value in row.items() if value}
    assert {"train/loss", "val/t->va/R@10", "val/nmi", "val/topics_nmi", "clustering/objective"} <= names
    assert metrics(first) == metrics(second)
    assert len(list((tmp_path / "demo_data" / "features" / "train").iterdir())) == 160
    assert same(*(weights(each) for each in (first, second)))


def test_a_folder_that_cannot_be_written_is_one_line(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--config", CONFIGS / "demo.yaml", "--config", small]
    for place in ("/proc/runs", tmp_path / "file"):
        said = refusal(capsys, "fit", *words, "--trainer.logger.init_args.save_dir", place)
        assert f"{place}/run: expected to write there, found " in said


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (40 * 1024, 40 * 1024))
from mcn_lightning.__main__ import main
main()
"""
"""The command, which can write files of 40 KB."""


def test_a_checkpoint_that_finds_no_room_is_one_line(small, tmp_path):
    words = ["--data.num_workers", 0]  # the limit would hold for the memory that workers share, too
    done = python("-c", LIMITED, "fit", "--config", CONFIGS / "demo.yaml", "--config", small, *words)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and "expected to write a checkpoint, found no space for all of it" in line
    assert not list(tmp_path.rglob("*.partial"))


def test_runs_that_start_together_have_a_folder_each(small, tmp_path):
    command = [sys.executable, "-m", "mcn_lightning", "fit", "--config", CONFIGS / "demo.yaml", "--config", small]
    started = [
        Popen([*map(str, command), "--seed_everything", str(seed)], stdout=subprocess.DEVNULL) for seed in (0, 1)
    ]
    assert [each.wait() for each in started] == [0, 0]
    folders = sorted((tmp_path / "runs" / "run").iterdir())
    assert [each.name for each in folders] == ["version_0", "version_1"]
    assert {yaml.safe_load((each / "config.yaml").read_text())["seed_everything"] for each in folders} == {0, 1}
    assert len(metrics(folders[0])) == len(metrics(folders[1])) > 6
