"""Runs that are stopped and go on, and what they must have in common."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from unittest.mock import patch

import torch
import yaml

from mcn_lightning.commands.fit import main

# 6 videos: 3 steps an epoch on one process with 2 of them, 3 on two with 1
OPTIONS = {
    "seed_everything": 0,
    "data": {
        "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}, {"suffix": "_3d", "rate": 1.5, "width": 8}],
        "audio": {"num_frames": 96}, "text": {"source": "word_vectors.txt", "dim": 8},
        "clips": {"n_pair": 4, "min_time": 5.0}, "batch_size": 2, "eval_batch_size": 2, "num_workers": 2,
    },
    "model": {
        "network": {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8, "dropout": 0.3},
        "clustering": {"num_clusters": 3, "queue_rows": 8}, "optimizer": {"lr": 3.0e-3, "warmup_steps": 2},
    },
    "centroids": {"every_n_steps": 2},
    "resume": {"every_n_steps": 1},
    "trainer": {
        "accelerator": "cpu", "devices": 1, "max_epochs": 3, "log_every_n_steps": 1, "enable_progress_bar": False,
        "enable_model_summary": False, "limit_val_batches": 1,
        "logger": {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"name": "run"}},
    },
}  # fmt: skip


def config(folder: Path, root: Path) -> Path:
    path = folder / "run.yaml"
    whole = folder / f"run-{os.getpid()}.yaml"  # another process may read it now, and must not find it half written
    whole.write_text(yaml.safe_dump(OPTIONS))
    return whole.replace(path)


def words(folder: Path, root: Path, name: str, *more: object) -> list[str]:
    place = ("--trainer.logger.init_args.save_dir", folder, "--trainer.logger.init_args.name", name)
    return [str(word) for word in ("fit", "--config", config(folder, root), "--data.root", root, *place, *more)]


def fit(folder: Path, root: Path, name: str, *more: object) -> None:
    given = words(folder, root, name, *more)
    with patch.object(sys, "argv", ["lightning", *given]):
        main(given)


def saved(folder: Path, name: str, version: int = 0, file: str = "last") -> dict:
    return torch.load(folder / name / f"version_{version}" / "checkpoints" / f"{file}.ckpt", weights_only=True)


def losses(folder: Path, name: str, version: int = 0) -> dict[int, tuple]:
    """Return what was logged at each step."""
    rows = csv.DictReader((folder / name / f"version_{version}" / "metrics.csv").open())
    names = ("train/loss", "train/contrastive", "train/cluster", "train/reconstruction")
    return {int(row["step"]): tuple(row.get(name) for name in names) for row in rows if row.get("train/loss")}


CLOCKS = ("clustering/seconds", "train/clips_per_second", "train/data_wait_share")


def logged(folder: Path, name: str, version: int = 0) -> list[dict[str, str]]:
    """Return every row of metrics.csv, without what the clock gives."""
    rows = csv.DictReader((folder / name / f"version_{version}" / "metrics.csv").open(newline=""))
    return [{column: value for column, value in row.items() if column not in CLOCKS} for row in rows]


def assert_same_run(one: dict, other: dict) -> None:
    """Compare weights, queue, centroids, moments, learning rate, progress, place in the data and random states."""
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "NarratedVideos", "random_states"):
        first, second = torch.utils._pytree.tree_flatten(one[key]), torch.utils._pytree.tree_flatten(other[key])
        assert first[1] == second[1], key
        for a, b in zip(first[0], second[0], strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, key
