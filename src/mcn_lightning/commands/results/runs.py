"""Runs as they were logged: options, metrics and what is known of how they ran."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError
from mcn_lightning.runs.options import differences, logged_name, read_options
from mcn_lightning.text_files import read_json, read_text

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One run, or a part of one that was stopped and went on.

    Args:
        name: what the user called it, else the folders above; runs of one recipe with other seeds share a name.
        place: its folder, or its address in wandb.
        options: as in ``config.yaml``; empty where they were not saved.
        last: the last value of every metric.
        records: what ``run.json`` says of commit, hardware, hours and memory, of each part, the last one's with the
            sums of all; empty where there is none.
        finished: whether it went on to its end.
        curve: gives the points (step, value) of a metric.
        group: runs of which only one with the same options and seed counts.
        first: the first step that was logged.
    """

    name: str
    place: str
    options: Mapping[str, Any]
    last: Mapping[str, float]
    records: Sequence[Mapping[str, Any]]
    finished: bool
    curve: Callable[[str], Points]
    group: str
    first: float = 0.0

    @property
    def seed(self) -> int | None:
        """The seed; none where it was drawn or is not known."""
        seed = self.options.get("seed_everything")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    @property
    def record(self) -> Mapping[str, Any]:
        """The record of the last part."""
        return self.records[-1] if self.records else {}


def local_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder, or the one whose folder it is; those that cannot be read are told and left out.

    Raises:
        InputError: if there is none, or none that can be read.
    """
    alone = (folder / "metrics.csv").is_file()  # its earlier parts lie beside it
    files = [*folder.resolve().parent.glob("*/metrics.csv")] if alone else [*folder.rglob("metrics.csv")]
    if not files:
        raise InputError(
            f"RUN {folder}: expected the folder of a run, or one that holds some, found no metrics.csv at any depth"
        )
    runs, wrong = [], []
    for path in sorted(files, key=_age):
        try:
            runs.append(_local_run(path.parent, folder))
        except InputError as error:
            wrong.append(str(error))
    asked = [run for run in joined(runs) if not alone or run.place == str(folder.resolve())]
    if not asked:
        raise InputError(wrong[0])
    for reason in wrong:
        print(f"warning: {reason}; the run is left out", file=sys.stderr)
    return asked


def _age(path: Path) -> tuple[Path, int, int]:
    """Return by what the metrics of the parts of a run are in order."""
    number = path.parent.name.removeprefix("version_")
    return path.parent.parent, int(number) if number.isdecimal() else -1, path.stat().st_mtime_ns


def joined(runs: Sequence[Run]) -> list[Run]:
    """Return runs with what their earlier parts logged before they went on, and without those parts.

    A run that was stopped and went on has a folder for each part, all with the same time of the first start. A part
    that went on to its end, and was made longer afterwards, is a run as well.

    Args:
        runs: parts of a run from the oldest to the newest.
    """
    found: list[Run] = []
    for number, run in enumerate(runs):
        before = [part for part in runs[:number] if _are_parts(part, run)]
        if run.finished or not any(_are_parts(run, later) for later in runs[number + 1 :]):
            found.append(_join([*before, run]))
    return found


def _are_parts(one: Run, other: Run) -> bool:
    began = one.record.get("started")
    same = began is not None and began == other.record.get("started") and one.group == other.group
    return same and not differences(one.options, other.options)


def _join(parts: Sequence[Run]) -> Run:
    def curve(metric: str) -> Points:
        points: dict[float, float] = {}
        for part in parts:  # what came after the checkpoint that the next part went on from is void
            points = {step: value for step, value in points.items() if step <= part.first} | dict(part.curve(metric))
        return sorted(points.items())

    return replace(
        parts[-1],
        last={name: value for part in parts for name, value in part.last.items()},
        records=[record for part in parts for record in part.records],
        curve=curve,
    )


def _local_run(folder: Path, given: Path) -> Run:
    place = folder.resolve()
    above = folder.parent.relative_to(given).parts if folder.is_relative_to(given) and folder != given else ()
    options, record = read_options(folder / "config.yaml"), read_record(folder)
    rows = read_metrics(folder / "metrics.csv")
    last = {name: value for row in rows for name, value in row.items()}
    return Run(
        name=logged_name(options) or "/".join(above) or place.parent.name,
        place=str(place),
        options=options,
        last=last,
        records=[record] if record else [],
        finished=bool(record["finished"]) if "finished" in record else not _cut_short(options, last),
        curve=lambda metric: _points(rows, metric),
        group=str(place.parent),
        first=min((row["step"] for row in rows if "step" in row), default=0.0),
    )


def _points(rows: Sequence[Mapping[str, float]], metric: str) -> Points:
    points: dict[float, float] = {}
    before = 0.0
    for row in rows:
        step = row.get("step", before)
        if step < before:  # a run that went on in the same folder
            points = {at: value for at, value in points.items() if at <= step}
        if metric in row and "step" in row:
            points[step] = row[metric]
        before = step
    return list(points.items())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Return the lines of a ``metrics.csv`` as Lightning's CSVLogger writes it, without the empty cells.

    A last line that was not written to its end, as when a run is killed, is told and left out.

    Raises:
        InputError: if it cannot be read.
    """
    text = read_text(path, "the metrics of a run")
    if not text:
        raise InputError(f"{path}: expected the metrics of a run, found an empty file")
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        print(f"warning: {path}: the last line breaks off and is left out", file=sys.stderr)
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return [{name: float(value) for name, value in row.items() if name and value} for row in rows]
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: expected the metrics of a run, found something else ({error})") from None


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of how a run ran; empty where there is none, as in older runs.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / "run.json"
    found = read_json(path, "the record of a run") if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(found.get(name, 0), Real) for name in ("hours", "memory_gb")):
        raise InputError(f"{path}: expected the record of a run, found something else; remove the file to go without")
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
