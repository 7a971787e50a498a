"""The folder of a run: its choice, its lock against other runs, and the config file in it."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger

from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing, writing
from mcn_lightning.runs.checkpoints import steps_of
from mcn_lightning.runs.lightning import csv_logger, fixed_version, next_version, set_log_folder
from mcn_lightning.runs.saved import (
    CONFIG,
    METRICS,
    RECORD,
    Options,
    differences,
    folder_of,
    read_options,
    summarize_differences,
)

LOCK = ".lock"
# kept here, as a FileLock that is freed releases its lock
_locks: list[FileLock] = []
_made: set[Path] = set()
"""Folders that this process has made."""
_UNSERIALIZED = re.compile(rb"Unable to serialize instance ([\w.]+)$", re.MULTILINE)
"""What jsonargparse writes in place of a function's name, if an option may be a function or its name."""


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of a run: that of its checkpoints, or the logger's.

    Unlike ``trainer.log_dir`` it needs no communication. Before training begins, only the first process knows it.
    """
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
        return folder_of(Path(checkpoint.dirpath))
    return Path(getattr(trainer.logger, "log_dir", None) or trainer.default_root_dir)


def choose_folder(trainer: Trainer, options: Options, checkpoint: str | None) -> None:
    """Choose the folder of a run: the user's, that of the checkpoint, or a new one.

    A run resumes in the folder of its checkpoint. If that folder has a newer checkpoint, or belongs to another name, a
    new folder starts with a copy of the earlier metrics. So no run overwrites the progress of another.

    Args:
        trainer: its loggers are set to the folder.
        options: of this run, as in config.yaml.
        checkpoint: that the run starts from.

    Raises:
        InputError: if the user's folder or the checkpoint belongs to a run with other options, or the user's folder has
            a newer checkpoint.
    """
    logger, source = csv_logger(trainer), None if checkpoint is None else Path(checkpoint).parent
    if checkpoint is not None and source is not None:
        hint = "take its options (--config), or start from its weights (--model.weights)"
        _refuse_other_options(f"--ckpt_path {checkpoint}", folder_of(source), options, hint)
    for option, folder, hint in _fixed_folders(trainer):
        _refuse_other_options(option, folder, options, hint)
        if not _is_newest(checkpoint, folder):
            wanted = "a new folder, or the newest checkpoint in it to go on from (--ckpt_path last)"
            raise InputError(f"{option}: expected {wanted}, found the checkpoints of a run in {folder}; {hint}")
        if logger is not None and fixed_version(logger) is None:
            set_log_folder(trainer, folder)
    if logger is None or source is None or fixed_version(logger) is not None:
        return
    folder = folder_of(source)
    if folder.parent.resolve() == Path(logger.root_dir).resolve() and _is_newest(checkpoint, folder):
        set_log_folder(trainer, folder)


def _fixed_folders(trainer: Trainer) -> Iterator[tuple[str, Path, str]]:
    """Yield the folders that the user has fixed, with their options and a hint."""
    callback, logger = trainer.checkpoint_callback, csv_logger(trainer)
    if logger is not None and (version := fixed_version(logger)) is not None:
        yield f"--trainer.logger.init_args.version {version}", Path(logger.log_dir), "choose another version"
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        yield f"--checkpoint.dirpath {callback.dirpath}", folder_of(Path(callback.dirpath)), "choose another folder"


def _refuse_other_options(option: str, folder: Path, options: Options, hint: str) -> None:
    """Refuse the folder of a run with other options. Length, devices, workers and the like may differ."""
    if unlike := differences(read_options(folder / CONFIG), options) if (folder / CONFIG).is_file() else []:
        found = f"{folder} with other ones ({summarize_differences(unlike)})"
        raise InputError(f"{option}: expected a run with the same options, found {found}; {hint}")


def check_run_folder(folder: str, options: Options) -> None:
    """Check that all runs in ``--run_folder``, which is for a single run, have its options.

    Raises:
        InputError: naming the options that differ.
    """
    for path in sorted(Path(folder).rglob(CONFIG)):
        hint = "give the options it has, or choose another folder"
        _refuse_other_options(f"--run_folder {folder}", path.parent, options, hint)


def _is_newest(checkpoint: str | None, folder: Path) -> bool:
    """Return whether no checkpoint in a folder has more steps than the one that a run starts from."""
    steps = {**steps_of(folder / "checkpoints"), **steps_of(folder)}
    if not steps:
        return True
    # resolved: the checkpoint may be given by another path, or a link
    mine = {path.resolve(): step for path, step in steps.items()}.get(Path(checkpoint or "").resolve())
    return mine == max(steps.values())


def claim_folder(trainer: Trainer, checkpoint: str | None) -> None:
    """Make and lock the folder of a run, until ``release_folders`` or the end of the process.

    Call it on the first process only.

    Args:
        trainer: its first logger defines the folder. A new one is called ``version_<n>``, and for an agent of a wandb
            sweep ``version_<id of the run>``.
        checkpoint: that the run starts from. If it lies in another folder, the metrics and the record are copied.

    Raises:
        InputError: if another run writes to the folder, or it is not writable.
    """
    if (logger := csv_logger(trainer)) is not None:
        if fixed_version(logger) is None:
            _make_version(trainer, logger)
        folder = Path(logger.log_dir)
        if not folder.exists():
            _made.add(folder)
        _check_writable(folder)
        _lock(folder)
        source = folder_of(Path(checkpoint).parent) if checkpoint is not None else folder
        # copied, so that the folder of the earlier run stays as it was
        for name in (METRICS, RECORD) if (source / CONFIG).is_file() else ():
            if (source / name).is_file() and not (folder / name).exists():
                with replacing(folder / name) as partial:
                    partial.write_bytes((source / name).read_bytes())
    for folder in map(Path, filter(None, (run_folder(trainer), getattr(trainer.checkpoint_callback, "dirpath", None)))):
        _check_writable(folder if folder.is_dir() else folder.parent)


def _make_version(trainer: Trainer, logger: CSVLogger) -> None:
    """Make the folder of a new run. Two runs that start at the same moment get different ones."""
    _check_writable(Path(logger.root_dir))
    # agents of a sweep start together, and the id of the run gives each a name of its own
    agents = [os.environ["WANDB_RUN_ID"]] if {"WANDB_RUN_ID", "WANDB_SWEEP_ID"} <= {*os.environ} else []
    for version in itertools.chain(agents, iter(lambda: next_version(logger), None)):
        folder = Path(logger.root_dir, f"version_{version}")
        # without exist_ok: of two runs that start at once, mkdir succeeds for one
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        _made.add(folder)
        return set_log_folder(trainer, folder)


def _check_writable(folder: Path) -> None:
    """Refuse a folder that is not writable, before the first epoch is lost."""
    advice = "free space, change its rights or give another folder (--run_folder, or save_dir of --trainer.logger)"
    with writing(str(folder), advice):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))  # on a full disk an empty file can still be made
            file.flush()


def _lock(folder: Path) -> None:
    """Lock a folder against other runs."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        found = "another `fit` that is; wait for its end, or give another version"
        raise InputError(f"{folder}: expected a folder that no run is writing to, found {found}") from None
    except NotImplementedError:  # a file system without locks
        return
    _locks.append(lock)


def release_folders() -> None:
    """Release the locks of this process's folders after the run. A folder that the run made and left empty goes."""
    for folder in _made:
        if folder.is_dir() and {each.name for each in folder.iterdir()} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # another run has just written into it
                folder.rmdir()
    _made.clear()
    while _locks:
        _locks.pop().release()


class SaveConfig(SaveConfigCallback):
    """Write the resolved config as ``config.yaml`` into the run's folder, at each start of the run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Do not write yet: an evaluation must not replace the config of the checkpoint that it evaluates."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, now that the folder of the checkpoints is known."""
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config["ckpt_path"] = None  # a run from this config must not resume the run before it
            with replacing(folder / CONFIG) as partial:
                known = {"skip_unset": False, "skip_validation": True}  # it has been checked
                self.parser.save(config, partial, overwrite=True, multifile=False, **known)
                partial.write_bytes(_UNSERIALIZED.sub(rb"\1", partial.read_bytes()))
