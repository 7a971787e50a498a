"""Where figures are logged to: ``metrics.csv`` in the run's folder whatever the logger, and wandb."""

from __future__ import annotations

import csv
import fcntl
import netrc
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_text

WANDB_ID = "wandb_id"
LOCK = ".lock"
_locks: list[IO[str]] = []
SUMMARY = ("hardware", "processes", "started", "hours", "memory_gb")
"""What wandb is told of ``run.json`` while a run goes on, as ``run.hours`` and the like; the rest is in its config."""


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the loggers of a run that go to wandb."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def add_csv_logger(trainer: Trainer) -> None:
    """Put a CSVLogger before all other loggers, a new one if there is none: it decides the one folder of the run.

    The folder is ``<save_dir>/<name>/version_<n>``, as with CSVLogger alone; <n> is the id of the run for an agent of a
    wandb sweep, several of which may start at once.
    """
    if not trainer.loggers or getattr(trainer, "fast_dev_run", False):
        return
    own = next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
    if own is None:
        first = trainer.loggers[0]
        name, version = first.name, first.version
        if isinstance(first, WandbLogger):
            name = first._name or first.name
            run = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
            version = f"version_{run}" if run else None
        own = CSVLogger(first.save_dir or trainer.default_root_dir, name=str(name), version=version)
    trainer.loggers = [own, *(logger for logger in trainer.loggers if logger is not own)]


def keep_metrics(trainer: Trainer) -> None:
    """Let a run whose folder the user has fixed add to the ``metrics.csv`` there, which CSVLogger would delete.

    For the first process alone. What follows the last whole line, as a run that was killed may leave it, is cut off.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger) or logger._version is None:
            continue
        path = Path(logger.log_dir, "metrics.csv")
        kept = path.with_name(f"{path.name}.kept")  # the only one for a moment, in which the process may be killed
        if path.is_file():
            os.replace(path, kept)
        if not kept.is_file():
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Experiment logs directory")
            writer = logger.experiment
        whole = kept.read_bytes().rpartition(b"\n")[0].decode()
        if whole:
            kept.write_text(f"{whole}\n", encoding="utf-8", newline="")
            os.replace(kept, path)
            writer.metrics_keys = next(csv.reader([whole.splitlines()[0]]))
        else:
            kept.unlink()


def claim_folder(trainer: Trainer) -> None:
    """Make the folder of a new run, so that no run of the same name that starts at this moment takes it, too.

    For the first process alone; the folder of a version that the user chose may be there, but no other run may be
    writing to it.

    Raises:
        InputError: if one is.
    """
    for logger in trainer.loggers:
        if not isinstance(logger, CSVLogger):
            continue
        if logger._version is not None:
            _lock(Path(logger.log_dir))
            continue
        while True:
            version = logger._get_next_version()
            try:
                Path(logger.root_dir, f"version_{version}").mkdir(parents=True)
            except FileExistsError:
                continue
            logger._version = version
            break


def _lock(folder: Path) -> None:
    """Keep other runs out of a folder until ``release_folders``, or until this process ends in whatever way."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK, "a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(
            f"{folder}: expected a folder that no run is writing to, found another `fit` that is; wait for its end, or "
            "give another version"
        ) from None
    except OSError:  # a file system that knows no locks
        file.close()
        return
    _locks.append(file)


def release_folders() -> None:
    """Let other runs take the folders of this one, which is over."""
    while _locks:
        file = _locks.pop()
        fcntl.flock(file, fcntl.LOCK_UN)  # also for the processes that read, which have it from this one
        file.close()


def read_wandb_id(folder: Path) -> str | None:
    """Return the id of the wandb run that logged a run's folder, or ``None``."""
    path = folder / WANDB_ID
    return read_text(path, "the id of a wandb run").strip() or None if path.is_file() else None


def keep_wandb_id(trainer: Trainer, folder: Path) -> None:
    """Write the id of the wandb run, if there is one, into the run's folder."""
    for logger in wandb_loggers(trainer)[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WANDB_ID).write_text(f"{logger.version}\n")


def start_wandb(trainer: Trainer, options: Mapping[str, Any], run_id: str | None = None) -> None:
    """Start the wandb run, or go on with one, and tell it the options; offline where wandb cannot be reached.

    For the first process alone. An id that the user or an agent gives is not replaced.

    Args:
        trainer: with or without a WandbLogger.
        options: what wandb shows as the run's config, by dotted name.
        run_id: the run to go on with.
    """
    for logger in wandb_loggers(trainer):
        import wandb

        if run_id and logger.version is None and not os.environ.get("WANDB_RUN_ID"):
            logger._wandb_init["id"] = logger._id = run_id
        Path(logger.save_dir or ".").mkdir(parents=True, exist_ok=True)
        if logger._offline:  # which Lightning says too late, when wandb has read its settings
            logger._wandb_init["mode"] = "offline"
        if _is_online(logger) and not _has_key():
            _go_offline(logger, "no API key was found (WANDB_API_KEY, wandb login)")
        try:
            run = logger.experiment
        except wandb.errors.Error as error:
            if not _is_online(logger):
                raise
            _go_offline(logger, " ".join(str(error).split()))
            run = logger.experiment
        # what a sweep has set is locked, and the same
        news = {name: value for name, value in options.items() if name not in run.config or run.config[name] != value}
        run.config.update(news, allow_val_change=True)


def tell_wandb(trainer: Trainer, record: Mapping[str, Any]) -> None:
    """Put how the run ran so far into the summary of the wandb run, if there is one.

    For the first process alone.

    Args:
        trainer: with or without a WandbLogger.
        record: as in ``run.json``; the figures of a run that was continued are those of all its parts.
    """
    for logger in wandb_loggers(trainer):
        logger.experiment.summary.update({f"run.{name}": record[name] for name in SUMMARY})


def _is_online(logger: WandbLogger) -> bool:
    import wandb

    mode = logger._wandb_init.get("mode") or wandb.setup().settings.mode
    return mode not in ("offline", "dryrun", "disabled")


def _go_offline(logger: WandbLogger, reason: str) -> None:
    logger._wandb_init["mode"] = "offline"
    place = Path(logger.save_dir or ".") / "wandb"
    print(
        f"warning: wandb: {reason}; the run goes on offline, and `wandb sync` sends what is in {place} later",
        file=sys.stderr,
    )


def _has_key() -> bool:
    """Return whether wandb could log in without asking."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return True
    places = [Path.home() / ".netrc", Path.home() / "_netrc"]
    if given := os.environ.get("NETRC"):
        places = [Path(given).expanduser()]
    for path in places:
        try:
            if netrc.netrc(str(path)).authenticators(urlsplit(settings.base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
