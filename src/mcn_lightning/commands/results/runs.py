"""Logged runs: their options, metrics and records, read from folders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.runs.saved import (
    CONFIG,
    METRICS,
    Options,
    Record,
    logged_name,
    read_metrics,
    read_options,
    read_record,
    version_order,
)

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """A logged run.

    Args:
        name: the name that the user gave, else the folders above it. Runs of one recipe with other seeds share a name.
        location: folder of the run, or its address in wandb.
        options: as in ``config.yaml``; empty if they were not saved.
        last: the last value of every metric.
        record: contents of ``run.json``: commit, hardware, hours and memory; empty without this file.
        finished: whether the run finished. A local run without ``run.json`` counts as finished.
        curve: returns the points (step, value) of a metric.
    """

    name: str
    location: str
    options: Options
    last: Mapping[str, float]
    record: Record
    finished: bool
    curve: Callable[[str], Points]

    @property
    def seed(self) -> int | None:
        """Seed of the run; ``None`` if it was random or is not known."""
        seed = self.options.get("seed_everything")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def local_runs(folder: Path) -> list[Run]:
    """Return the runs in a folder, which may be that of one run. Runs that cannot be read give a warning.

    Raises:
        InputError: if there is no run, or none can be read.
    """
    alone = folder / METRICS
    files = [alone] if alone.is_file() else sorted(folder.rglob(METRICS), key=lambda path: version_order(path.parent))
    if not files:
        raise InputError(f"RUN {folder}: expected the folder of runs, found no metrics.csv at any depth")
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


def _local_run(folder: Path, given: Path) -> Run:
    location = folder.resolve()
    above = folder.parent.relative_to(given).parts if folder.is_relative_to(given) and folder != given else ()
    options, record = read_options(folder / CONFIG), read_record(folder)
    rows = read_metrics(folder / METRICS)
    # later rows overwrite earlier ones, and a row has only some of the metrics
    last = {name: value for row in rows for name, value in row.items()}
    return Run(
        name=logged_name(options) or "/".join(above) or location.parent.name,
        location=str(location),
        options=options,
        last=last,
        record=record,
        finished=bool(record.get("finished", True)),
        curve=lambda metric: sorted(
            {row["step"]: row[metric] for row in rows if {"step", metric} <= row.keys()}.items()
        ),
    )
