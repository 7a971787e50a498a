"""Checkpoint files: how one is written, and which one a stopped run goes on from."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mcn_lightning.errors import InputError, why_unreadable
from mcn_lightning.files import PARTIAL, replacing
from mcn_lightning.runs.options import DECISIVE, differences, read_options, told


class WholeCheckpoints(TorchCheckpointIO):
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


@dataclass(frozen=True)
class Found:
    """What there is to go on from.

    Args:
        path: the checkpoint, or none.
        text: one line for the user.
    """

    path: Path | None
    text: str


def last_checkpoint(trainer: Trainer, options: Mapping[str, Any], training: bool = True) -> Found:
    """Find the checkpoint with the most steps of the newest run that has one and was given the same options.

    Args:
        trainer: its logger, or checkpoint callback, says where the runs are: ``<save_dir>/<name>/*/checkpoints``.
        options: this run's, as in config.yaml.
        training: whether a run is to go on; for an evaluation the options of the model must agree, and whatever
            weights it began with are of no interest.

    Raises:
        InputError: if the options of a run that has a checkpoint cannot be read.
    """
    place, folders = _folders(trainer)
    other, (groups, aside) = "", (DECISIVE, ()) if training else (("model",), ("model.weights",))
    for folder in folders:
        config = folder.parent / "config.yaml"
        steps = {path: step for path in folder.glob("*.ckpt") if (step := _step(path)) is not None}
        if not steps or not config.is_file():
            continue
        if unlike := differences(read_options(config), options, groups, aside):
            other = other or f" ({folder.parent.name} was run with other ones: {told(unlike)})"
            continue
        path = max(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns))
        return Found(path, f"goes on from {path}, step {steps[path]}")
    return Found(None, f"no checkpoint of a run with these options in {place} yet{other}")


def best_checkpoint(trainer: Trainer, options: Mapping[str, Any], training: bool = False) -> str:
    """Find the best checkpoint, by the metric that its run watched, of the newest run with the same model.

    Args:
        trainer: as for ``last_checkpoint``.
        options: this run's, as in config.yaml.
        training: whether a run is to go on, which the best checkpoint is not for.

    Raises:
        InputError: if there is no such run, it watched no metric, or its best checkpoint is gone.
    """
    if training:
        raise InputError(
            "--ckpt_path: expected last or a file for fit, found best; start from its weights with --model.weights"
        )
    found = last_checkpoint(trainer, options, training=False)
    if found.path is None:
        raise InputError(f"--ckpt_path best: {found.text}")
    states = torch.load(found.path, map_location="cpu", weights_only=True, mmap=True).get("callbacks", {})
    for name, state in states.items():
        if not name.startswith("ModelCheckpoint") or not state.get("monitor"):
            continue
        best = found.path.with_name(Path(state["best_model_path"]).name)  # the folder may have been moved
        if state["best_model_path"] and best.is_file():
            return str(best)
        raise InputError(
            f"--ckpt_path best: expected the best checkpoint by {state['monitor']}, {state['best_model_path']}, found "
            "none; give --ckpt_path last or a file"
        )
    raise InputError(
        f"--ckpt_path best: expected a run that watched a metric (--checkpoint.monitor), found none for "
        f"{found.path.parent.parent}; give --ckpt_path last or a file"
    )


def _folders(trainer: Trainer) -> tuple[Path, list[Path]]:
    """Return where runs of this name are, and their folders of checkpoints, the newest first."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        return Path(callback.dirpath), [Path(callback.dirpath)]
    if not trainer.loggers:
        return Path(trainer.default_root_dir), [Path(trainer.default_root_dir) / "checkpoints"]
    logger = trainer.loggers[0]
    place = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    return place, sorted(place.glob("*/checkpoints"), key=_age, reverse=True)


def _age(folder: Path) -> tuple[int, int]:
    number = folder.parent.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1, folder.stat().st_mtime_ns


def _step(path: Path) -> int | None:
    """Return how many steps a checkpoint has; none, with a warning, if it is not one."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = why_unreadable(path, error)
        print(f"warning: --ckpt_path last: {path} is no whole checkpoint and is left out ({reason})", file=sys.stderr)
        return None
