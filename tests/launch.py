"""The command on tiny data: in this process, and in one of its own out of the network's reach."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from forked import Popen
from processes import LIMIT

from mcn_lightning.commands.fit import main

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = CONFIGS.with_name("experiments")
DATA: dict[str, Any] = {
    "modalities": None,
    "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}, {"suffix": "_3d", "rate": 1.5, "width": 8}],
    "text": {"kind": "word_vectors", "source": "word_vectors.txt", "dim": 8, "max_words": 8, "train_column": "text"},
    "audio": {"num_frames": 96},
    "val_csv": "val.csv",
    "captions": "captions.json",
    "synthetic": None,
    "batch_size": 4,
    "global_batch_size": None,
    "eval_batch_size": 2,
    "num_workers": 0,
}
NETWORK = {"embedding_dim": 16, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8}
CSV = "pytorch_lightning.loggers.CSVLogger"
LOGGER = "pytorch_lightning.loggers.WandbLogger"
UNSET = ("WANDB_API_KEY", "WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_PROJECT", "WANDB_DIR", "NETRC")


def run(*words: object) -> None:
    """Run the command in this process."""
    with patch.object(sys, "argv", ["lightning", *(str(word) for word in words)]):
        main()


def folder_of(overlay: Path, version: int = 0) -> Path:
    """Return the folder of a run with the options of the fixture ``overlay``."""
    return overlay.parent / "runs" / "run" / f"version_{version}"


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Return the error that a command ends with."""
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code not in (None, 0)
    return str(stop.value.code) + capsys.readouterr().err


def tiny_options(root: Path, folder: Path, logger: str = CSV, **trainer: Any) -> dict[str, Any]:
    """Return options that make any recipe tiny; what it leaves out stays as it is. Runs lie in ``folder/run``."""
    return {
        "data": {name: value for name, value in DATA.items() if name != "modalities"} | {"root": str(root)},
        "model": {"network": NETWORK, "clustering": {"num_clusters": 4, "queue_rows": 16}},
        "trainer": {
            "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "check_val_every_n_epoch": 1,
            "logger": {"class_path": logger, "init_args": {"save_dir": str(folder), "name": "run"}},
        } | trainer,
    }  # fmt: skip


def write_overlay(path: Path, root: Path, folder: Path, logger: str = LOGGER, **trainer: Any) -> Path:
    """Write a file that makes the demo three steps long, with its runs in ``folder/run``; return where it is."""
    few = {"max_steps": 3, "limit_val_batches": 1, "max_epochs": 100_000}
    path.write_text(yaml.safe_dump(tiny_options(root, folder, logger, **few | trainer)))
    return path


def write_video_text(folder: Path, root: Path, queue_rows: int = 12, data: Any = None, **trainer: Any) -> Path:
    """Write options of two epochs of three batches of video and text, with runs in ``folder/run``; return where."""
    options = {
        "data": {
            "root": str(root), "modalities": ["video", "text"], "num_workers": 0, "batch_size": 2, "eval_batch_size": 1,
            "streams": [{"suffix": "_2d", "rate": 1.0, "width": 8}],
            "text": {"source": "word_vectors.txt", "dim": 8}, "clips": {"n_pair": 4, "min_time": 5.0},
        } | (data or {}),
        "model": {
            "network": {"embedding_dim": 16, "reconstruction": False},
            "clustering": {"num_clusters": 4, "queue_rows": queue_rows},
        },
        "trainer": {
            "accelerator": "cpu", "max_epochs": 2, "log_every_n_steps": 1, "enable_progress_bar": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "run"}},
        } | trainer,
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment with a home of its own, in which wandb finds no key and python is this one."""
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    own = {"HOME": str(home), "PATH": path, "WANDB_CONFIG_DIR": str(home), "WANDB_ERROR_REPORTING": "false"}
    patient = {"WANDB__SERVICE_WAIT": str(LIMIT)}  # for the start of its service, else 30 s
    return kept | own | patient | more


def start(*words: object, **options: Any) -> Popen:
    """Start ``fit`` of the demo with more words."""
    command = [sys.executable, "-m", "mcn_lightning", "fit", "--config", CONFIGS / "demo.yaml", *words]
    return Popen([str(word) for word in command], text=True, **options)
