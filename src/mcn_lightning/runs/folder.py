"""The folder of a run: which one it is, that it is of this run alone, and its resolved configuration."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger

from mcn_lightning.errors import InputError, reason_of
from mcn_lightning.files import replacing
from mcn_lightning.runs.checkpoints import steps_of
from mcn_lightning.runs.lightning import chosen_version, csv_logger, log_into, next_version
from mcn_lightning.runs.saved import CONFIG, METRICS, RECORD, differences, folder_of, read_options, told

LOCK = ".lock"
_locks: list[FileLock] = []
_UNSAID = re.compile(rb"Unable to serialize instance ([\w.]+)$", re.MULTILINE)
"""What jsonargparse writes for the name of a function where an option may be a function or its name."""


def run_folder(trainer: Trainer) -> Path:
    """Return the one folder of a run: that of its checkpoints, or the logger's.

    No process waits for another here, as for ``trainer.log_dir``; before training begins the first one alone knows it.
    """
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
        return folder_of(Path(checkpoint.dirpath))
    return Path(getattr(trainer.logger, "log_dir", None) or trainer.default_root_dir)


def choose_folder(trainer: Trainer, options: Mapping[str, Any], checkpoint: str | None) -> None:
    """Choose the folder of a run: the user's, that of the checkpoint it goes on from, or a new one.

    A run goes on in the folder of its checkpoint. If there is a newer checkpoint beside it, or the folder is none of
    this name, a new folder begins with what was logged until then: no run undoes what another has reached.

    Args:
        trainer: its loggers are told the folder.
        options: this run's, as in config.yaml.
        checkpoint: what it starts from.

    Raises:
        InputError: if the folder that the user has chosen, or the checkpoint, belongs to a run with other options, or
            the chosen folder holds a run that is further than the checkpoint.
    """
    logger, source = csv_logger(trainer), None if checkpoint is None else Path(checkpoint).parent
    if checkpoint is not None and source is not None:
        hint = "take its options (--config), or start from its weights (--model.weights)"
        _refuse_other(f"--ckpt_path {checkpoint}", folder_of(source), options, hint)
    for option, folder, hint in _chosen(trainer):
        _refuse_other(option, folder, options, hint)
        if not _is_newest(checkpoint, folder):
            raise InputError(
                f"{option}: expected a new folder, or the newest checkpoint in it to go on from (--ckpt_path last), "
                f"found the checkpoints of a run in {folder}; {hint}"
            )
        if logger is not None and chosen_version(logger) is None:
            log_into(trainer, folder)
    if logger is None or source is None or chosen_version(logger) is not None:
        return
    folder = folder_of(source)
    if folder.parent.resolve() == Path(logger.root_dir).resolve() and _is_newest(checkpoint, folder):
        log_into(trainer, folder)


def _chosen(trainer: Trainer) -> Iterator[tuple[str, Path, str]]:
    """Give the folders that the user has fixed."""
    callback, logger = trainer.checkpoint_callback, csv_logger(trainer)
    if logger is not None and (version := chosen_version(logger)) is not None:
        yield f"--trainer.logger.init_args.version {version}", Path(logger.log_dir), "choose another version"
    if isinstance(callback, ModelCheckpoint) and callback.dirpath:
        yield f"--checkpoint.dirpath {callback.dirpath}", folder_of(Path(callback.dirpath)), "choose another folder"


def _refuse_other(option: str, folder: Path, options: Mapping[str, Any], hint: str) -> None:
    """Refuse a folder of a run with other options; length, devices, workers and the like may differ."""
    if unlike := differences(read_options(folder / CONFIG), options) if (folder / CONFIG).is_file() else []:
        raise InputError(
            f"{option}: expected a run with the same options, found {folder} with other ones ({told(unlike)}); {hint}"
        )


def refuse_others_below(folder: str, options: Mapping[str, Any]) -> None:
    """See that all runs in a folder that is one run's have its options.

    Raises:
        InputError: if one has not, with the options in which it differs.
    """
    for path in sorted(Path(folder).rglob(CONFIG)):
        hint = "give the options it has, or choose another folder"
        _refuse_other(f"--run_folder {folder}", path.parent, options, hint)


def _is_newest(checkpoint: str | None, folder: Path) -> bool:
    """Return whether no checkpoint in a folder is further than the one a run starts from."""
    steps = {**steps_of(folder / "checkpoints"), **steps_of(folder)}
    if not steps:
        return True
    mine = {path.resolve(): step for path, step in steps.items()}.get(Path(checkpoint or "").resolve())
    return mine == max(steps.values())


def claim_folder(trainer: Trainer, checkpoint: str | None) -> None:
    """Make the folder of a run and keep other runs out of it, until ``release_folders`` or the end of the process.

    For the first process alone.

    Args:
        trainer: its first logger says where the folder is. A new one is called ``version_<n>``, and for an agent of a
            wandb sweep ``version_<id of the run>``.
        checkpoint: that the run starts from; what its run has logged is copied where the folder is another.

    Raises:
        InputError: if another run is writing to it, or nothing can be written there.
    """
    if (logger := csv_logger(trainer)) is not None:
        if chosen_version(logger) is None:
            _make_new(trainer, logger)
        folder = Path(logger.log_dir)
        _check_writable(folder)
        _lock(folder)
        source = folder_of(Path(checkpoint).parent) if checkpoint is not None else folder
        for name in (METRICS, RECORD) if (source / CONFIG).is_file() else ():
            if (source / name).is_file() and not (folder / name).exists():
                with replacing(folder / name) as partial:
                    partial.write_bytes((source / name).read_bytes())
    for folder in map(Path, filter(None, (run_folder(trainer), getattr(trainer.checkpoint_callback, "dirpath", None)))):
        _check_writable(folder if folder.is_dir() else folder.parent)


def _make_new(trainer: Trainer, logger: CSVLogger) -> None:
    """Make the folder of a new run, which no other run that starts at this moment takes too."""
    _check_writable(Path(logger.root_dir))
    agents = [os.environ["WANDB_RUN_ID"]] if {"WANDB_RUN_ID", "WANDB_SWEEP_ID"} <= {*os.environ} else []
    for version in itertools.chain(agents, iter(lambda: next_version(logger), None)):
        folder = Path(logger.root_dir, f"version_{version}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return log_into(trainer, folder)


def _check_writable(folder: Path) -> None:
    """Refuse a folder in which nothing can be written now, and not after an epoch."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder for the results of the run, found {reason_of(error)}; make room, change its "
            "rights or give another one (--run_folder, or save_dir of --trainer.logger)"
        ) from None


def _lock(folder: Path) -> None:
    """Keep other runs out of a folder."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{folder}: expected a folder that no run is writing to, found another `fit` that is; wait for its end, or "
            "give another version"
        ) from None
    except NotImplementedError:  # a file system that knows no locks
        return
    _locks.append(lock)


def release_folders() -> None:
    """Let other runs take the folders of this one, which is over."""
    while _locks:
        _locks.pop().release()


class SaveConfig(SaveConfigCallback):
    """Write the resolved configuration at each start of a run as ``config.yaml`` of its folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep only what belongs to fit: a checkpoint's config must not be replaced by an evaluation's."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, now that the folder of the checkpoints is known."""
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config["ckpt_path"] = None  # the saved file describes this run, and must not resume the one before it
            with replacing(folder / CONFIG) as partial:
                self.parser.save(config, partial, skip_unset=False, overwrite=True, multifile=False)
                partial.write_bytes(_UNSAID.sub(rb"\1", partial.read_bytes()))
