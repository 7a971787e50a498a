"""Checkpoint files: atomic writing, and the search for the one that a run resumes from."""

from __future__ import annotations

import functools
import pickle
import re
import sys
from pathlib import Path

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from mcn_lightning.errors import InputError, why_unreadable
from mcn_lightning.files import PARTIAL, replacing
from mcn_lightning.runs.lightning import CheckpointContents, csv_logger, fixed_version
from mcn_lightning.runs.saved import (
    CONFIG,
    DEFINING_OPTIONS,
    Options,
    differences,
    folder_of,
    read_options,
    summarize_differences,
    version_order,
)

CHECKPOINT_ALIASES = ("last", "best", "hpc")
"""Values of ``--ckpt_path`` that are no files; the last one is refused."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically: a file is complete or absent, whenever the process is killed.

    Lightning writes to the system's temporary folder and moves the file. Moving between file systems is a copy, which
    may be interrupted.

    Args:
        tidy: remove incomplete files of killed runs in the folder, which must belong to a single run.
    """

    def __init__(self, tidy: bool = True) -> None:
        super().__init__()
        self.tidy = tidy

    def save_checkpoint(self, checkpoint: CheckpointContents, path: str | Path, storage_options: object = None) -> None:
        """Write a temporary file beside the path, flush it to the disk, and rename it.

        Args:
            checkpoint: contents of the file.
            path: of the file; URLs such as s3://... are left to Lightning.
            storage_options: not used.

        Raises:
            InputError: if it cannot be written. The old file stays.
        """
        if "://" in str(path):
            return super().save_checkpoint(checkpoint, path, storage_options)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # a process that was killed while it wrote leaves its partial file
        for left in path.parent.glob(f"*{PARTIAL}") if self.tidy else ():
            left.unlink(missing_ok=True)
        try:
            with replacing(path) as partial:
                torch.save(checkpoint, partial)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError about positions in the file
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "no space for all of it"
            advice = "free space or give another folder, and go on with --ckpt_path last"
            raise InputError(f"{path}: expected to write a checkpoint, found {reason.lower()}; {advice}") from None


def flatten_filename(callback: ModelCheckpoint) -> None:
    """Replace ``/`` by ``_`` in the metric names of checkpoint files, as it would create folders.

    ``{val/t->va/R@10:.1f}`` becomes ``val_t->va_R@10=26.5``. A ``/`` outside of braces is a folder that the user wants.

    Args:
        callback: its ``filename`` is changed.
    """
    name = callback.filename or ""
    if callback.auto_insert_metric_name and re.search(r"\{[^{}:]*/", name):
        equals = callback.CHECKPOINT_EQUALS_CHAR
        callback.filename = re.sub(r"\{([^{}:]*)", lambda found: found[1].replace("/", "_") + equals + found[0], name)
        callback.auto_insert_metric_name = False


def find_checkpoint(trainer: Trainer, options: Options, alias: str, training: bool) -> tuple[Path | None, str]:
    """Find the last or the best checkpoint of the newest run with the same options.

    Args:
        trainer: its logger or checkpoint callback defines the folders: ``<save_dir>/<name>/*/checkpoints``.
        options: of this run, as in config.yaml.
        alias: ``last`` for the most steps, or ``best`` by the metric that the run monitored.
        training: whether a run resumes. For an evaluation only the options of the model must be the same, except the
            weights that it started from.

    Returns:
        The checkpoint and one line for the user. The checkpoint is ``None`` if a run starts from the beginning.

    Raises:
        InputError: if there is none for an evaluation, or the options of a run with a checkpoint cannot be read.
    """
    # hpc is a checkpoint of Lightning's requeueing, which Resume replaces
    if alias == "hpc" or (alias == "best" and training):
        advice = "give last" if alias == "hpc" else "give last, or start from its weights: --model.weights FILE"
        raise InputError(f"--ckpt_path: expected last or a file, found {alias}; {advice}")
    root, folders = _checkpoint_folders(trainer)
    # an evaluation may have other data and another trainer; only the network must be that of the checkpoint
    other, (groups, ignored) = "", (DEFINING_OPTIONS, ()) if training else (("model",), ("model.weights",))
    for folder in folders:
        config = folder_of(folder) / CONFIG
        steps = steps_of(folder) if config.is_file() else {}
        if not steps:
            continue
        if unlike := differences(read_options(config), options, groups, ignored):
            other = other or f" ({config.parent.name} was run with other ones: {summarize_differences(unlike)})"
            continue
        # of equal steps the later file: `newest.ckpt` and `last.ckpt` may be of one step
        path = max(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns))
        if alias == "last":
            return path, f"goes on from {path}, step {steps[path]}"
        best = _best(path)
        return best, str(best)
    reason = f"no checkpoint of a run with these options in {root} yet{other}"
    if not training:
        raise InputError(f"--ckpt_path {alias}: {reason}")
    return None, f"{reason}: the run starts from the beginning"


def _best(newest: Path) -> Path:
    """Return the best checkpoint of a run by the metric that it monitored, which its newest checkpoint records."""
    # Lightning's keys of states begin with the class and go on with its arguments
    for name, state in torch.load(newest, map_location="cpu", weights_only=True, mmap=True)["callbacks"].items():
        if name.startswith("ModelCheckpoint") and state.get("monitor"):
            best = newest.with_name(Path(state["best_model_path"]).name)  # the folder may have been moved
            if state["best_model_path"] and best.is_file():
                return best
            break  # not the best by the metric of another callback
    wanted = f"the best checkpoint by a metric (--checkpoint.monitor) in {newest.parent}"
    raise InputError(f"--ckpt_path best: expected {wanted}, found none; give --ckpt_path last or a file")


def _checkpoint_folders(trainer: Trainer) -> tuple[Path, list[Path]]:
    """Return the folder of the runs of this name, and their folders of checkpoints, the newest first."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        return Path(callback.dirpath), [Path(callback.dirpath)]
    if not trainer.loggers:
        return Path(trainer.default_root_dir), [Path(trainer.default_root_dir) / "checkpoints"]
    logger, own = trainer.loggers[0], csv_logger(trainer)
    if own is not None and fixed_version(own) is not None:
        return Path(own.log_dir), [Path(own.log_dir) / "checkpoints"]
    root = Path(logger.save_dir or trainer.default_root_dir) / str(logger.name)
    return root, sorted(root.glob("*/checkpoints"), key=lambda path: version_order(path.parent), reverse=True)


def steps_of(folder: Path) -> dict[Path, int]:
    """Return the checkpoints in a folder with their steps."""
    return {path: step for path in folder.glob("*.ckpt") if (step := _step(path, path.stat().st_mtime_ns)) is not None}


@functools.cache
def _step(path: Path, changed: int) -> int | None:
    """Return the steps of a checkpoint; ``None`` with one warning if the file is not a checkpoint.

    Args:
        path: of the file.
        changed: time of its last change, a part of the cache's key: a changed file is read again.
    """
    try:
        # mapped, as only one number is read from each file of gigabytes
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = why_unreadable(path, error)
        print(f"warning: --ckpt_path last: {path} is no whole checkpoint and is left out ({reason})", file=sys.stderr)
        return None
