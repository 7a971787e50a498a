"""Where metrics are logged to: ``metrics.csv`` in the run's folder whatever the logger, and wandb."""

from __future__ import annotations

import csv
import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from mcn_lightning.files import replacing
from mcn_lightning.runs.lightning import (
    chosen_version,
    csv_logger,
    set_wandb_id,
    set_wandb_offline,
    wandb_mode,
    wandb_name,
    write_with,
)
from mcn_lightning.runs.saved import read_rows
from mcn_lightning.text_files import read_text

WANDB_ID = "wandb_id"
SUMMARY = ("hardware", "processes", "started", "hours", "memory_gb")
"""What wandb is told of ``run.json`` while a run goes on, as ``run.hours`` and the like; the rest is in its config."""


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the loggers of a run that go to wandb."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def add_csv_logger(trainer: Trainer) -> None:
    """Put a CSVLogger before all other loggers, a new one if there is none: it decides the one folder of the run."""
    if not trainer.loggers or getattr(trainer, "fast_dev_run", False):
        return
    own = next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
    if own is None:
        first = trainer.loggers[0]
        name = wandb_name(first) if isinstance(first, WandbLogger) else first.name
        own = CSVLogger(first.save_dir or trainer.default_root_dir, name=str(name))
    trainer.loggers = [own, *(logger for logger in trainer.loggers if logger is not own)]


class MetricsFile(ExperimentWriter):
    """The ``metrics.csv`` of a run that may go on: what is there stays, where Lightning's own writer deletes it.

    Args:
        log_dir: folder of the run. A last line that breaks off, as a run that was killed may leave it, is cut off.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path, self._there = Path(self.metrics_file_path), set[tuple[int, frozenset[str]]]()
        rows = read_rows(self.path) if self.path.is_file() and self.path.stat().st_size else []
        self.metrics_keys = sorted({name for row in rows for name in row})
        self._write(rows)

    def _check_log_dir_exists(self) -> None:
        """Delete nothing."""

    def keep(self, steps: int) -> None:
        """Drop what was logged after the checkpoint that the run goes on from.

        The checkpoint may have been saved between a step and its evaluation, which is then done again. What it logs
        is there already, and is not written twice.

        Args:
            steps: that the checkpoint has done.
        """
        rows = read_rows(self.path) if self.path.is_file() else []
        self._write([row for row in rows if float(row.get("step", 0)) < steps])
        self._there = {(steps - 1, _names(row)) for row in rows if float(row.get("step", 0)) == steps - 1}

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record metrics."""
        if step is None or (step, _names(metrics_dict)) not in self._there:
            super().log_metrics(metrics_dict, step)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Write the file again with more columns; Lightning would leave none if the process is killed meanwhile."""
        self._write(read_rows(self.path))

    def _write(self, rows: Sequence[Mapping[str, str]]) -> None:
        if not rows:
            return self.path.unlink(missing_ok=True)
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def _names(metrics: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(metrics) - {"step"}


def keep_metrics(trainer: Trainer) -> None:
    """Let a run in a folder that may be there already add to the ``metrics.csv`` in it; for the first process alone."""
    logger = csv_logger(trainer)
    if logger is not None and chosen_version(logger) is not None:
        write_with(logger, MetricsFile(logger.log_dir))


def drop_metrics(trainer: Trainer, steps: int) -> None:
    """Drop what a run logged after the steps that it goes on from, or starts anew with 0; for the first process."""
    logger = csv_logger(trainer)
    if logger is not None and isinstance(logger.experiment, MetricsFile):
        logger.experiment.keep(steps)


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
            set_wandb_id(logger, run_id)
        Path(logger.save_dir or ".").mkdir(parents=True, exist_ok=True)
        if wandb_mode(logger) == "offline":  # which Lightning says too late, when wandb has read its settings
            set_wandb_offline(logger)
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
        record: as in ``run.json``; hours and memory of a run that was continued are those of all its starts.
    """
    for logger in wandb_loggers(trainer):
        logger.experiment.summary.update({f"run.{name}": record[name] for name in SUMMARY})


def _is_online(logger: WandbLogger) -> bool:
    import wandb

    mode = wandb_mode(logger) or wandb.setup().settings.mode
    return mode not in ("offline", "dryrun", "disabled")


def _go_offline(logger: WandbLogger, reason: str) -> None:
    set_wandb_offline(logger)
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
