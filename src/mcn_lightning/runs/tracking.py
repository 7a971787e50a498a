"""Logging of metrics: ``metrics.csv`` in the run's folder with any logger, and wandb."""

from __future__ import annotations

import csv
import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from mcn_lightning.errors import one_line
from mcn_lightning.files import read_text, replacing
from mcn_lightning.runs.lightning import (
    csv_logger,
    fixed_version,
    set_wandb_option,
    set_writer,
    wandb_mode,
    wandb_name,
)
from mcn_lightning.runs.saved import read_rows

WANDB_ID = "wandb_id"
SUMMARY = ("hardware", "processes", "started", "hours", "memory_gb")
"""Fields of ``run.json`` that go to wandb's summary, as ``run.hours`` and the like; the others are in its config."""


def wandb_loggers(trainer: Trainer) -> list[WandbLogger]:
    """Return the wandb loggers of a run."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def add_csv_logger(trainer: Trainer) -> None:
    """Put a CSVLogger before all other loggers, as the first logger decides the folder of the run."""
    if not trainer.loggers or getattr(trainer, "fast_dev_run", False):
        return
    own = next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)
    if own is None:
        first = trainer.loggers[0]
        name = wandb_name(first) if isinstance(first, WandbLogger) else first.name
        # beside the first logger's files, under the same name
        own = CSVLogger(first.save_dir or trainer.default_root_dir, name=str(name))
    trainer.loggers = [own, *(logger for logger in trainer.loggers if logger is not own)]


class MetricsFile(ExperimentWriter):
    """Writer of ``metrics.csv`` that appends to the file of a resumed run. Lightning's writer deletes the file.

    Args:
        log_dir: folder of the run. An incomplete last line, which a killed run may leave, is removed.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path, self._present = Path(self.metrics_file_path), set[tuple[int, frozenset[str]]]()
        rows = read_rows(self.path) if self.path.is_file() and self.path.stat().st_size else []
        self.metrics_keys = sorted({name for row in rows for name in row})
        self._write(rows)

    def _check_log_dir_exists(self) -> None:
        """Do not delete the existing file."""

    def truncate(self, steps: int) -> None:
        """Drop the rows after the checkpoint that the run resumes from.

        The checkpoint may have been saved between a step and its evaluation. The evaluation then runs again, and its
        metrics are not written a second time.

        Args:
            steps: of the checkpoint.
        """
        rows = read_rows(self.path) if self.path.is_file() else []
        self._write([row for row in rows if float(row.get("step", 0)) < steps])
        # rows of the last step are known by their columns, as training and evaluation log different metrics
        self._present = {(steps - 1, _names(row)) for row in rows if float(row.get("step", 0)) == steps - 1}

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """Record metrics, unless the file has them already."""
        if step is None or (step, _names(metrics_dict)) not in self._present:
            super().log_metrics(metrics_dict, step)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Rewrite the file with more columns, atomically. Lightning's method could lose it if the process is killed."""
        self._write(read_rows(self.path))

    def _write(self, rows: Sequence[Mapping[str, str]]) -> None:
        if not rows:
            return self.path.unlink(missing_ok=True)
        with replacing(self.path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)


def _names(metrics: Mapping[str, object]) -> frozenset[str]:
    return frozenset(metrics) - {"step"}


def append_metrics(trainer: Trainer) -> None:
    """Make a run append to an existing ``metrics.csv``. Call it on the first process only."""
    logger = csv_logger(trainer)
    if logger is not None and fixed_version(logger) is not None:
        set_writer(logger, MetricsFile(logger.log_dir))


def drop_later_metrics(trainer: Trainer, steps: int) -> None:
    """Drop the metrics after the steps from which a run resumes; 0 drops all. Call it on the first process only."""
    logger = csv_logger(trainer)
    if logger is not None and isinstance(logger.experiment, MetricsFile):
        logger.experiment.truncate(steps)


def read_wandb_id(folder: Path) -> str | None:
    """Return the id of the wandb run that belongs to a run's folder, or ``None``."""
    path = folder / WANDB_ID
    return read_text(path, "the id of a wandb run").strip() or None if path.is_file() else None


def write_wandb_id(trainer: Trainer, folder: Path) -> None:
    """Write the id of the wandb run into the run's folder, if there is one."""
    # one id: several wandb loggers in one process share a run
    for logger in wandb_loggers(trainer)[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WANDB_ID).write_text(f"{logger.version}\n")


def start_wandb(trainer: Trainer, options: Mapping[str, object], run_id: str | None = None) -> None:
    """Start or continue the wandb run, with the options as its config. Without a connection it runs offline.

    Call it on the first process only. An id from the user or an agent is not replaced.

    Args:
        trainer: with or without a WandbLogger.
        options: config of the wandb run, by dotted name.
        run_id: wandb run to continue.
    """
    for logger in wandb_loggers(trainer):
        import wandb

        # an id from outside wins: a sweep has made its run already
        if run_id and logger.version is None and not os.environ.get("WANDB_RUN_ID"):
            set_wandb_option(logger, "id", run_id)
        Path(logger.save_dir or ".").mkdir(parents=True, exist_ok=True)
        if wandb_mode(logger) == "offline":  # Lightning sets it too late, after wandb has read its settings
            set_wandb_option(logger, "mode", "offline")
        if _is_online(logger) and not _has_key():
            _go_offline(logger, "no API key was found (WANDB_API_KEY, wandb login)")
        try:
            run = logger.experiment
        except wandb.errors.Error as error:
            # a server that does not answer must not cost a training run
            if not _is_online(logger):
                raise
            _go_offline(logger, one_line(error))
            run = logger.experiment
        # values that a sweep has set are locked in wandb's config, and equal to these
        news = {name: value for name, value in options.items() if name not in run.config or run.config[name] != value}
        run.config.update(news, allow_val_change=True)


def update_wandb_summary(trainer: Trainer, record: Mapping[str, object]) -> None:
    """Update the summary of the wandb run, if there is one. Call it on the first process only.

    Args:
        trainer: with or without a WandbLogger.
        record: as in ``run.json``, with hours and memory over all starts.
    """
    for logger in wandb_loggers(trainer):
        logger.experiment.summary.update({f"run.{name}": record[name] for name in SUMMARY})


def _is_online(logger: WandbLogger) -> bool:
    import wandb

    # WANDB_MODE and wandb's files of settings, which the logger does not read itself
    mode = wandb_mode(logger) or wandb.setup().settings.mode
    return mode not in ("offline", "dryrun", "disabled")


def _go_offline(logger: WandbLogger, reason: str) -> None:
    set_wandb_option(logger, "mode", "offline")
    folder = Path(logger.save_dir or ".") / "wandb"
    print(
        f"warning: wandb: {reason}; the run goes on offline, and `wandb sync` sends what is in {folder} later",
        file=sys.stderr,
    )


def _has_key() -> bool:
    """Return whether wandb can log in without a prompt."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or getattr(settings, "identity_token_file", None):
        return True
    files = [Path.home() / ".netrc", Path.home() / "_netrc"]
    if given := os.environ.get("NETRC"):
        files = [Path(given).expanduser()]
    for path in files:
        try:
            if netrc.netrc(str(path)).authenticators(urlsplit(settings.base_url).netloc):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
