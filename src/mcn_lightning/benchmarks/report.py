"""The table of all benchmark results: printed, and written as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.benchmarks.base import Benchmark, Result
from mcn_lightning.callbacks.evaluation_table import aligned
from mcn_lightning.callbacks.progress import print_message
from mcn_lightning.files import replacing, writing
from mcn_lightning.metrics.clustering import CLUSTER_METRICS
from mcn_lightning.runs.folder import run_folder
from mcn_lightning.runs.lightning import callbacks_of


def _number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in CLUSTER_METRICS else f"{value:.1f}"


def wide_table(results: Sequence[Result]) -> list[list[str]]:
    """Arrange results as a table with a row for each benchmark and setting, and a column for each metric.

    A published result stands in brackets beside the run's own.

    Args:
        results: of all benchmarks; counts and details are left out.

    Returns:
        Rows of cells, the header first.
    """
    shown = [result for result in results if result.kind == "metric"]
    metrics = list(dict.fromkeys(result.metric for result in shown))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for result in shown:
        beside = "" if result.published is None else f" ({_number(result.metric, result.published)})"
        cells.setdefault((result.benchmark, result.setting), {})[result.metric] = (
            _number(result.metric, result.value) + beside
        )
    rows = [
        [f"{name} {setting}".strip(), *(row.get(metric, "") for metric in metrics)]
        for (name, setting), row in cells.items()
    ]
    return [["benchmark", *metrics], *rows]


def notes(results: Sequence[Result]) -> list[str]:
    """Return a line of counts for each benchmark, and a line for each source of published results."""
    counted: dict[str, list[str]] = {}
    for result in results:
        if result.kind == "count":
            counted.setdefault(result.benchmark, []).append(f"{result.value:g} {result.key}")
    lines = [f"{name}: {', '.join(what)}" for name, what in counted.items()]
    return lines + [f"in brackets, {what}: {source}" for source, what in _sourced(results).items()]


def _sourced(results: Sequence[Result]) -> dict[str, str]:
    """Return the published results of each source: names of benchmarks, with keys if only some are from it."""
    names: dict[str, dict[str, list[str]]] = {}
    sources_of: dict[str, set[str]] = {}
    for result in results:
        if result.source:
            names.setdefault(result.source, {}).setdefault(result.benchmark, []).append(result.key)
            sources_of.setdefault(result.benchmark, set()).add(result.source)
    return {
        source: ", ".join(
            name if len(sources_of[name]) == 1 else f"{name} ({', '.join(keys)})" for name, keys in found.items()
        )
        for source, found in names.items()
    }


def as_text(results: Sequence[Result]) -> str:
    """Format the table for a terminal."""
    lines = aligned(wide_table(results))
    return "\n".join([*lines, *notes(results)])


def as_markdown(results: Sequence[Result]) -> str:
    """Format the table in Markdown."""
    head, *rows = wide_table(results)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(results))]) + "\n"


def as_csv(results: Sequence[Result]) -> str:
    """Format all results, with details, as CSV: one line for each."""
    text = io.StringIO()
    names = ("benchmark", "setting", "metric", "value", "kind", "published", "source")
    # the csv module writes \r\n by default, also on Linux
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = asdict(result)
        writer.writerow(row | {"published": "" if result.published is None else result.published})
    return text.getvalue()


class BenchmarkReport(Callback):
    """Print one table of all benchmarks after every validation and after ``test``, and write the last one to files.

    Args:
        path: of the files without ``.csv``, ``.json`` and ``.md``; a relative path starts at the run's folder.
    """

    def __init__(self, path: str = "benchmarks") -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of this validation."""
        self._show(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of the test."""
        self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        results = [result for benchmark in _benchmarks(trainer) for result in benchmark.results]
        if results and trainer.is_global_zero and not trainer.sanity_checking:
            print_message("\n" + as_text(results))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the last results of the run."""
        benchmarks = _benchmarks(trainer)
        results = [result for benchmark in benchmarks for result in benchmark.results]
        if not results or not trainer.is_global_zero:
            return
        path = run_folder(trainer) / self.path
        written = {".csv": as_csv(results), ".json": as_json(results), ".md": as_markdown(results)}
        with writing(f"--report.path {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix, text in written.items():
                with replacing(Path(f"{path}{suffix}")) as partial:
                    partial.write_text(text, encoding="utf-8")
        print(f"{len(results)} results -> {path}.csv, .json, .md")
        # a second fit or test with the same trainer must not write these results again
        for benchmark in benchmarks:
            benchmark.results = []


def _benchmarks(trainer: Trainer) -> list[Benchmark]:
    return [each for each in callbacks_of(trainer) if isinstance(each, Benchmark)]


def as_json(results: Sequence[Result]) -> str:
    """Format all results, with details, as a JSON list. Infinite values become null, as JSON has no infinity."""
    rows = [asdict(result) for result in results]
    rows = [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in rows]
    return json.dumps(rows, indent=1) + "\n"
