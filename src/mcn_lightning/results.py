"""A table of what runs reached, from the files that they logged."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

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


def _options(path: Path) -> dict[str, Any]:
    """Return the options of the run that logged a file, from ``config.yaml`` beside it; empty where there is none."""
    config = path.with_name("config.yaml")
    try:
        found = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{config}: expected the options of a run, found something else ({error})") from None
    return found if isinstance(found, dict) else {}


def _once_each(paths: Sequence[Path]) -> list[Path]:
    """Return one file of each run, the one that goes on longest: a run that was continued has several.

    Those of one run lie in one folder and have the same options, but for the checkpoint, and a seed.
    """
    chosen: dict[tuple[Path, str], tuple[float, Path]] = {}
    for path in paths:
        options = {name: value for name, value in _options(path).items() if name != "ckpt_path"}
        seed = options.get("seed_everything")
        drawn = seed is None or isinstance(seed, bool)  # each is a run of its own
        key = path.parent if drawn else path.parent.parent, yaml.safe_dump(options)
        found = last_values(path).get("step", 0.0), path
        chosen[key] = max(chosen.get(key, found), found)
    return [path for _, path in chosen.values()]


def _cut_short(path: Path, values: Mapping[str, float]) -> bool:
    """Return whether a run logged fewer epochs than it should have had, where nothing else was to end it."""
    trainer = _options(path).get("trainer") or {}
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps")
    if epochs is None or steps not in (None, -1) or trainer.get("max_time") is not None:
        return False
    return "epoch" in values and values["epoch"] + 1 < epochs


def find_runs(folders: Sequence[str]) -> dict[str, list[Path]]:
    """Return the metrics files of all runs in some folders, by the name of the run.

    The name is the folder above ``version_<n>``, from the given folder on: the runs of one recipe with other seeds are
    the versions of one name. Of several versions with the same options and seed, as a run that was continued has, the
    one that went furthest counts.

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
    return {name: _once_each(paths) for name, paths in found.items()}


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
        A table in Markdown, and below it the runs that logged less than ``trainer.max_epochs``.

    Raises:
        InputError: if a folder holds no run, or no run logged a metric.
    """
    files = dict(sorted(find_runs(runs).items()))
    rows = {name: [last_values(path) for path in paths] for name, paths in files.items()}
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
    short = [path for name in rows for path, run in zip(files[name], rows[name], strict=True) if _cut_short(path, run)]
    if short:
        lines += ["", "logged less than trainer.max_epochs: " + ", ".join(str(path.parent) for path in short)]
    return "\n".join(lines)
