"""Checkpoint files: how one is written, and which one a stopped run goes on from."""

from __future__ import annotations

import functools
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mcn_lightning.errors import InputError, why_unreadable
from mcn_lightning.files import PARTIAL, replacing
from mcn_lightning.runs.lightning import chosen_version, csv_logger
from mcn_lightning.runs.saved import CONFIG, DECISIVE, differences, folder_of, read_options, told

WORDS = ("last", "best", "hpc")
"""What ``--ckpt_path`` takes in place of a file; the last one is refused."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, whenever the process is killed.

    Lightning writes to the folder of temporary files and moves, which copies where that is another file system.

    Args:
        tidy: remove what killed runs left half-written in the folder, which must be that of one run.
    """

    def __init__(self, tidy: bool = True) -> None:
        super().__init__()
        self.tidy = tidy

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the place, see the bytes to the disk, rename; remove what killed runs left half-written.

        Args:
            checkpoint: what to write.
            path: where to; an address such as s3://... is left to Lightning.
            storage_options: not used.

        Raises:
            InputError: if it cannot be written; what was there before stays.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"*{PARTIAL}") if self.tidy else ():
            left.unlink(missing_ok=True)
        try:
            with replacing(path) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:
            # torch tells a disk that is full as a RuntimeError about positions in the file
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no room for all of it"
            raise InputError(
                f"{path}: expected to write a checkpoint, found {reason.lower()}; make room or give another place, and "
                "go on with --ckpt_path last"
            ) from None


def without_folders(callback: ModelCheckpoint) -> None:
    """Write the names of metrics into the names of files with ``_`` for ``/``, which would make folders.

    ``{val/t->va/R@10:.1f}`` becomes ``val_t->va_R@10=26.5``. A ``/`` outside of braces is the user's own folder.

    Args:
        callback: its ``filename`` is changed.
    """
    name = callback.filename or ""
    if callback.auto_insert_metric_name and re.search(r"\{[^{}:]*/", name):
        equals = callback.CHECKPOINT_EQUALS_CHAR
        callback.filename = re.sub(r"\{([^{}:]*)", lambda found: found[1].replace("/", "_") + equals + found[0], name)
        callback.auto_insert_metric_name = False


def find_checkpoint(
    trainer: Trainer, options: Mapping[str, Any], asked: str, training: bool
) -> tuple[Path | None, str]:
    """Find the checkpoint with the most steps, or the best one, of the newest run that was given the same options.

    Args:
        trainer: its logger, or checkpoint callback, says where the runs are: ``<save_dir>/<name>/*/checkpoints``.
        options: this run's, as in config.yaml.
        asked: ``last``, or ``best`` by the metric that the run watched.
        training: whether a run is to go on; for an evaluation the options of the model must agree, and whatever
            weights it began with are of no interest.

    Returns:
        The checkpoint, and one line for the user; no checkpoint where a run is to start from the beginning.

    Raises:
        InputError: if there is none for an evaluation, or the options of a run that has one cannot be read.
    """
    if asked == "hpc":  # Lightning's own requeueing, which Resume takes the place of
        raise InputError("--ckpt_path: expected last, best or a file, found hpc; last is what a requeued job takes")
    if asked == "best" and training:
        raise InputError(
            "--ckpt_path: expected last or a file for fit, found best; start from its weights with --model.weights"
        )
    place, folders = _folders(trainer)
    other, (groups, aside) = "", (DECISIVE, ()) if training else (("model",), ("model.weights",))
    for folder in folders:
        config = folder_of(folder) / CONFIG
        steps = steps_of(folder) if config.is_file() else {}
        if not steps:
            continue
        if unlike := differences(read_options(config), options, groups, aside):
            other = other or f" ({config.parent.name} was run with other ones: {told(unlike)})"
            continue
        path = max(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns))
        if asked == "last":
            return path, f"goes on from {path}, step {steps[path]}"
        best = _best(path)
        return best, str(best)
    reason = f"no checkpoint of a run with these options in {place} yet{other}"
    if not training:
        raise InputError(f"--ckpt_path {asked}: {reason}")
    return None, f"{reason}: the run starts from the beginning"


def _best(newest: Path) -> Path:
    """Return the best checkpoint of a run by the metric that it watched, as its newest one knows it."""
    for name, state in torch.load(newest, map_location="cpu", weights_only=True, mmap=True)["callbacks"].items():
        if not name.startswith("ModelCheckpoint") or not state.get("monitor"):
            continue
        best = newest.with_name(Path(state["best_model_path"]).name)  # the folder may have been moved
        if state["best_model_path"] and best.is_file():
            return best
        raise InputError(
            f"--ckpt_path best: expected the best checkpoint by {state['monitor']}, {state['best_model_path']}, found "
            "none; give --ckpt_path last or a file"
        )
    raise InputError(
        f"--ckpt_path best: expected a run that watched a metric (--checkpoint.monitor), found none for "
        f"{folder_of(newest.parent)}; give --ckpt_path last or a file"
    )


def _folders(trainer: Trainer) -> tuple[Path, list[Path]]:
    """Return where runs of this name are, and their folders of checkpoints, the newest first."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        return Path(callback.dirpath), [Path(callback.dirpath)]
    if not trainer.loggers:
        return Path(trainer.default_root_dir), [Path(trainer.default_root_dir) / "checkpoints"]
    logger, own = trainer.loggers[0], csv_logger(trainer)
    if own is not None and chosen_version(own) is not None:
        return Path(own.log_dir), [Path(own.log_dir) / "checkpoints"]
    place = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    return place, sorted(place.glob("*/checkpoints"), key=_age, reverse=True)


def _age(folder: Path) -> tuple[int, int]:
    number = folder.parent.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1, folder.stat().st_mtime_ns


def steps_of(folder: Path) -> dict[Path, int]:
    """Return the checkpoints in a folder, and how many steps each has."""
    return {path: step for path in folder.glob("*.ckpt") if (step := _step(path, path.stat().st_mtime_ns)) is not None}


@functools.cache
def _step(path: Path, changed: int) -> int | None:
    """Return how many steps a checkpoint has; none, with one warning, if it is not one.

    Args:
        path: the file.
        changed: when it was; read and told again are those that were changed.
    """
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = why_unreadable(path, error)
        print(f"warning: --ckpt_path last: {path} is no whole checkpoint and is left out ({reason})", file=sys.stderr)
        return None
