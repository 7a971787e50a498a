"""One table of what the benchmarks gave: printed, and written as CSV, JSON and Markdown."""

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
from mcn_lightning.callbacks.progress import say
from mcn_lightning.callbacks.protocols import callbacks_of
from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing
from mcn_lightning.runs.folder import run_folder
from mcn_lightning.tables import aligned

_OF_ONE = ("nmi", "adjusted_rand_index", "purity", "mean_entropy")  # not in per cent


def _number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in _OF_ONE else f"{value:.1f}"


def wide_table(results: Sequence[Result]) -> list[list[str]]:
    """Lay out results as benchmark x metric: a row for each setting, the published result in brackets beside ours.

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
    """Return a line for each benchmark with what was counted, and one for each source of published results."""
    counted: dict[str, list[str]] = {}
    for result in results:
        if result.kind == "count":
            counted.setdefault(result.benchmark, []).append(f"{result.value:g} {result.key}")
    lines = [f"{name}: {', '.join(what)}" for name, what in counted.items()]
    return lines + [f"in brackets, {what}: {source}" for source, what in _sourced(results).items()]


def _sourced(results: Sequence[Result]) -> dict[str, str]:
    """Return by source which published results are from there: all of some benchmarks, or single ones."""
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
    """Lay out the table for a terminal."""
    lines = aligned(wide_table(results))
    return "\n".join([*lines, *notes(results)])


def as_markdown(results: Sequence[Result]) -> str:
    """Lay out the table in Markdown."""
    head, *rows = wide_table(results)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(results))]) + "\n"


def as_csv(results: Sequence[Result]) -> str:
    """Write every result, details among them, as one line of CSV."""
    text = io.StringIO()
    names = ("benchmark", "setting", "metric", "value", "kind", "published", "source")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = asdict(result)
        writer.writerow(row | {"published": "" if result.published is None else result.published})
    return text.getvalue()


class BenchmarkReport(Callback):
    """Print one table of all benchmarks after every validation and after ``test``; write the last one of the run.

    Args:
        path: name of the files without ``.csv``, ``.json`` and ``.md``; in the run's folder when relative.
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
            say("\n" + as_text(results))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the last results of the run."""
        benchmarks = _benchmarks(trainer)
        results = [result for benchmark in benchmarks for result in benchmark.results]
        if not results or not trainer.is_global_zero:
            return
        path = run_folder(trainer) / self.path
        written = {".csv": as_csv(results), ".json": as_json(results), ".md": as_markdown(results)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix, text in written.items():
                with replacing(Path(f"{path}{suffix}")) as partial:
                    partial.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--report.path: expected a place to write {path}.csv, found {error}") from None
        print(f"{len(results)} results -> {path}.csv, .json, .md")
        for benchmark in benchmarks:
            benchmark.results = []


def _benchmarks(trainer: Trainer) -> list[Benchmark]:
    return [each for each in callbacks_of(trainer) if isinstance(each, Benchmark)]


def as_json(results: Sequence[Result]) -> str:
    """Write every result, details among them, as a JSON list; null stands for an infinite one, which JSON lacks."""
    rows = [asdict(result) for result in results]
    rows = [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in rows]
    return json.dumps(rows, indent=1) + "\n"
