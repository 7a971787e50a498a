"""The results table as Markdown and as CSV."""

from __future__ import annotations

import csv
import difflib
import statistics
from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.commands.results.rows import Row
from mcn_lightning.commands.results.runs import Run
from mcn_lightning.errors import InputError
from mcn_lightning.files import writing
from mcn_lightning.runs.saved import Record, starts_of

FIRST = ("run", "options", "runs", "seeds")
MAX_SHOWN = 4  # metrics named in a message
LAST = ("commit", "hardware", "hours", "memory GB")


def columns(metrics: Sequence[str]) -> list[str]:
    """Return the column headers."""
    return [*FIRST, *metrics, *LAST]


def check_metrics(rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Check that every metric was logged by a run.

    Raises:
        InputError: naming the first metric that was not.
    """
    logged = {metric for row in rows for run in row.runs for metric in run.last}
    if missing := [metric for metric in metrics if metric not in logged]:
        evaluated = sorted(metric for metric in logged if metric.startswith(("val/", "test/")))
        close = difflib.get_close_matches(missing[0], evaluated, MAX_SHOWN, 0.3) or evaluated[:MAX_SHOWN]
        known = f"such as {', '.join(close)}" if close else "of an evaluation, and none is logged"
        advice = "the first line of a run's metrics.csv lists all"
        raise InputError(f"--metrics: expected logged metrics, {known}, found {missing[0]}; {advice}")


def results_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Format the last values of metrics with a row for each recipe: mean and sample standard deviation over its runs.

    Args:
        rows: groups of runs.
        metrics: logged names, for instance ``val/t->va/R@10``. Percentages have one decimal, others three.

    Returns:
        A table in Markdown. Hours are the mean of the runs, memory is the maximum.
    """
    heads = columns(metrics)
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        cells = [row.name, row.options, str(len(row.runs)), _seeds(row.runs, ", ")]
        for metric in metrics:
            digits = 1 if "/R@" in metric or metric.endswith("median_rank") else 3
            cells.append(format_mean([run.last[metric] for run in row.runs if metric in run.last], digits))
        hours, memory = _hours(row.runs), _memory(row.runs)
        cells += [commits(row.runs), hardware(row.runs)]
        cells += [
            "" if hours is None else f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}",
            "" if memory is None else f"{memory:.1f}",
        ]
        # a bar would end the cell of a Markdown table
        lines.append([cell.replace("|", "\\|") for cell in cells])
    return "\n".join("|---" * len(heads) + "|" if "---" in line else "| " + " | ".join(line) + " |" for line in lines)


def write_csv(path: Path, rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Write the table as CSV, with mean and standard deviation of a metric in separate columns.

    Raises:
        InputError: if the file cannot be written.
    """
    heads = [*FIRST, *(head for metric in metrics for head in (metric, f"{metric} sd")), *LAST]
    with writing(f"--csv {path}"), open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for row in rows:
            cells: list[float | str] = []
            for metric in metrics:
                values = [run.last[metric] for run in row.runs if metric in run.last]
                cells += [statistics.fmean(values) if values else ""]
                cells += [statistics.stdev(values) if len(values) > 1 else ""]
            head = [row.name, row.options, len(row.runs), _seeds(row.runs, " ")]
            tail = [commits(row.runs), hardware(row.runs), _hours(row.runs), _memory(row.runs)]
            writer.writerow([*head, *cells, *tail])


def format_mean(values: Sequence[float], digits: int) -> str:
    """Format mean and sample standard deviation, or the single value."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def commits(runs: Sequence[Run]) -> str:
    """Return the short commits of runs, with a mark for uncommitted changes."""
    found = (start for run in runs for start in starts_of(run.record) if start.get("commit"))
    return _each([str(one["commit"])[:7] + (" + changes" if one.get("changed") else "") for one in found])


def hardware(runs: Sequence[Run]) -> str:
    """Return the hardware of runs, and the number of processes if there were several."""
    return _each([_machine(record) for run in runs for record in starts_of(run.record) if record.get("hardware")])


def _machine(record: Record) -> str:
    processes = record.get("processes") or 1
    return str(record["hardware"]) + (f", {processes} processes" if processes > 1 else "")


def _each(texts: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _seeds(runs: Sequence[Run], between: str) -> str:
    return between.join(str(run.seed) for run in runs if run.seed is not None)


def _hours(runs: Sequence[Run]) -> float | None:
    hours = [float(run.record["hours"]) for run in runs if run.record.get("hours") is not None]
    return statistics.fmean(hours) if hours else None


def _memory(runs: Sequence[Run]) -> float | None:
    return max(
        (float(run.record["memory_gb"]) for run in runs if run.record.get("memory_gb") is not None), default=None
    )
