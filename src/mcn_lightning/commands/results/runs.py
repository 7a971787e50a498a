"""Runs as they were logged: options, metrics and what is known of how they ran."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError
from mcn_lightning.runs.saved import CONFIG, METRICS, logged_name, read_metrics, read_options, read_record

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        name: what the user called it, else the folders above; runs of one recipe with other seeds share a name.
        place: its folder, or its address in wandb.
        options: as in ``config.yaml``; empty where they were not saved.
        last: the last value of every metric.
        record: what ``run.json`` says of commit, hardware, hours and memory; empty where there is none.
        finished: whether it went on to its end.
        curve: gives the points (step, value) of a metric.
    """

    name: str
    place: str
    options: Mapping[str, Any]
    last: Mapping[str, float]
    record: Mapping[str, Any]
    finished: bool
    curve: Callable[[str], Points]

    @property
    def seed(self) -> int | None:
        """The seed; none where it was drawn or is not known."""
        seed = self.options.get("seed_everything")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def local_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder, or the one whose folder it is; those that cannot be read are told and left out.

    Raises:
        InputError: if there is none, or none that can be read.
    """
    alone = folder / METRICS
    files = [alone] if alone.is_file() else sorted(folder.rglob(METRICS), key=_age)
    if not files:
        raise InputError(
            f"RUN {folder}: expected the folder of a run, or one that holds some, found no metrics.csv at any depth"
        )
    runs, wrong = [], []
    for path in files:
        try:
            runs.append(_local_run(path.parent, folder))
        except InputError as error:
            wrong.append(str(error))
    if not runs:
        raise InputError(wrong[0])
    for reason in wrong:
        print(f"warning: {reason}; the run is left out", file=sys.stderr)
    return runs


def _age(path: Path) -> tuple[Path, int, int]:
    """Return by what the metrics of runs of one name are in order."""
    number = path.parent.name.removeprefix("version_")
    return path.parent.parent, int(number) if number.isdecimal() else -1, path.stat().st_mtime_ns


def _local_run(folder: Path, given: Path) -> Run:
    place = folder.resolve()
    above = folder.parent.relative_to(given).parts if folder.is_relative_to(given) and folder != given else ()
    options, record = read_options(folder / CONFIG), read_record(folder)
    rows = read_metrics(folder / METRICS)
    last = {name: value for row in rows for name, value in row.items()}
    return Run(
        name=logged_name(options) or "/".join(above) or place.parent.name,
        place=str(place),
        options=options,
        last=last,
        record=record,
        finished=bool(record["finished"]) if "finished" in record else not _cut_short(options, last),
        curve=lambda metric: sorted(
            {row["step"]: row[metric] for row in rows if {"step", metric} <= row.keys()}.items()
        ),
    )


def _cut_short(options: Mapping[str, Any], last: Mapping[str, float]) -> bool:
    """Return whether a run logged fewer epochs than it should have had, where nothing else was to end it."""
    trainer = options.get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if epochs in (None, -1) or steps not in (None, -1) or trainer.get("max_time") is not None:
        return False
    if "EarlyStopping" in str(trainer.get("callbacks")):
        return False
    return "epoch" in last and last["epoch"] + 1 < epochs
