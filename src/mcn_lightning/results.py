"""A table of what runs reached, from the files that they logged."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.data.batch import InputError


def last_values(path: Path) -> dict[str, float]:
    """Return the last value of every metric in the ``metrics.csv`` of a run.

    Args:
        path: the file, as Lightning's CSVLogger writes it: a column a metric, empty where it was not logged.

    Raises:
        InputError: if it cannot be read.
    """
    values: dict[str, float] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values.update({name: float(value) for name, value in row.items() if name and value})
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected the metrics of a run, found something else ({error})") from None
    return values


def find_runs(folders: Sequence[str]) -> dict[str, list[Path]]:
    """Return the metrics files of all runs in some folders, by the name of the run.

    The name is the folder above ``version_<n>``, from the given folder on: the runs of one recipe with other seeds are
    the versions of one name.

    Raises:
        InputError: if a folder holds no run.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        files = sorted(Path(folder).rglob("version_*/metrics.csv"))
        if not files:
            raise InputError(f"--runs: expected folders of runs, found no version_*/metrics.csv in {folder}")
        for path in files:
            name = path.parent.parent.relative_to(folder)
            found[str(name) if name.parts else Path(folder).name].append(path)
    return found


def spread(values: Sequence[float], digits: int) -> str:
    """Return mean and sample standard deviation, or the single value."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def results_table(runs: Sequence[str], metrics: Sequence[str]) -> str:
    """Lay out the last value of some metrics, a recipe a row: mean and standard deviation over its runs (seeds).

    Args:
        runs: folders of runs.
        metrics: names as they were logged, for instance ``val/t->va/R@10``; percentages get one digit, others three.

    Returns:
        A table in Markdown.

    Raises:
        InputError: if a folder holds no run, or no run logged a metric.
    """
    rows = {name: [last_values(path) for path in paths] for name, paths in sorted(find_runs(runs).items())}
    logged = {metric for values in rows.values() for run in values for metric in run}
    if missing := [metric for metric in metrics if metric not in logged]:
        known = ", ".join(sorted(metric for metric in logged if metric.startswith(("val/", "test/"))))
        raise InputError(f"--metrics: expected some of {known}, found {missing[0]}")
    lines = ["| run | runs | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
    for name, values in rows.items():
        cells = []
        for metric in metrics:
            digits = 1 if "/R@" in metric or metric.endswith("median_rank") else 3
            cells.append(spread([run[metric] for run in values if metric in run], digits))
        lines.append(f"| {name} | {len(values)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
