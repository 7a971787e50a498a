"""Runs as they were logged: options, metrics and what is known of how they ran."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mcn_lightning.data.batch import InputError

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        name: what the user called it; runs of one recipe with other seeds share a name.
        place: its folder, or its address in wandb.
        options: as in ``config.yaml``; empty where they were not saved.
        last: the last value of every metric.
        record: what ``run.json`` says of commit, hardware, hours and memory; empty where there is none.
        finished: whether it went on to its end.
        curve: gives the points (step, value) of a metric.
        group: runs of which only one with the same options and seed counts, as a run that was continued leaves several.
    """

    name: str
    place: str
    options: Mapping[str, Any]
    last: Mapping[str, float]
    record: Mapping[str, Any]
    finished: bool
    curve: Callable[[str], Points]
    group: str

    @property
    def seed(self) -> int | None:
        """The seed; none where it was drawn or is not known."""
        seed = self.options.get("seed_everything")
        return None if seed is None or isinstance(seed, bool) else int(seed)


def local_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder, or the one whose folder it is.

    Raises:
        InputError: if there is none, or one cannot be read.
    """
    files = sorted(folder.rglob("metrics.csv"))
    if not files:
        raise InputError(
            f"RUN {folder}: expected the folder of a run, or one that holds some, found no metrics.csv at any depth"
        )
    return [_local_run(path.parent, folder) for path in files]


def _local_run(folder: Path, given: Path) -> Run:
    place = folder.resolve()
    above = folder.parent.relative_to(given).parts if folder != given else ()
    options, record = read_options(folder), read_record(folder)
    rows = read_metrics(folder / "metrics.csv")
    last = {name: value for row in rows for name, value in row.items()}
    return Run(
        name="/".join(above) or place.parent.name,
        place=str(place),
        options=options,
        last=last,
        record=record,
        finished=bool(record["finished"]) if "finished" in record else not _cut_short(options, last),
        curve=lambda metric: [(row["step"], row[metric]) for row in rows if "step" in row and metric in row],
        group=str(place.parent),
    )


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a ``metrics.csv`` as Lightning's CSVLogger writes it, without the empty cells.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                {name: float(value) for name, value in row.items() if name and value} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: expected the metrics of a run, found something else ({error})") from None


def read_options(folder: Path) -> dict[str, Any]:
    """Return the options in ``config.yaml``; empty where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    return _mapping(folder / "config.yaml", yaml.safe_load, "the options of a run")


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of how a run ran; empty where there is none, as in older runs.

    Raises:
        InputError: if it cannot be read.
    """
    return _mapping(folder / "run.json", json.loads, "the record of a run")


def _mapping(path: Path, parse: Callable[[str], Any], what: str) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected {what}, found something else ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected {what}, found no names with values; remove the file to go without it")
    return found


def _cut_short(options: Mapping[str, Any], last: Mapping[str, float]) -> bool:
    """Return whether a run logged fewer epochs than it should have had, where nothing else was to end it."""
    trainer = options.get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if epochs in (None, -1) or steps not in (None, -1) or trainer.get("max_time") is not None:
        return False
    if "EarlyStopping" in str(trainer.get("callbacks")):
        return False
    return "epoch" in last and last["epoch"] + 1 < epochs
