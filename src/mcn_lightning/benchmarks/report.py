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

from mcn_lightning.benchmarks.base import Benchmark, Figure
from mcn_lightning.callbacks.progress import say
from mcn_lightning.callbacks.protocols import callbacks_of
from mcn_lightning.errors import InputError
from mcn_lightning.runs.folder import run_folder
from mcn_lightning.tables import aligned

_OF_ONE = ("nmi", "adjusted_rand_index", "purity", "mean_entropy")  # not in per cent


def _number(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in _OF_ONE else f"{value:.1f}"


def wide_table(figures: Sequence[Figure]) -> list[list[str]]:
    """Lay out figures as benchmark x metric: a row for each setting, the published figure in brackets beside ours.

    Args:
        figures: of all benchmarks; counts and details are left out.

    Returns:
        Rows of cells, the header first.
    """
    shown = [figure for figure in figures if figure.kind == "metric"]
    metrics = list(dict.fromkeys(figure.metric for figure in shown))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for figure in shown:
        beside = "" if figure.published is None else f" ({_number(figure.metric, figure.published)})"
        cells.setdefault((figure.benchmark, figure.setting), {})[figure.metric] = (
            _number(figure.metric, figure.value) + beside
        )
    rows = [
        [f"{name} {setting}".strip(), *(row.get(metric, "") for metric in metrics)]
        for (name, setting), row in cells.items()
    ]
    return [["benchmark", *metrics], *rows]


def notes(figures: Sequence[Figure]) -> list[str]:
    """Return a line for each benchmark with what was counted, and one for each source of published figures."""
    counted: dict[str, list[str]] = {}
    for figure in figures:
        if figure.kind == "count":
            counted.setdefault(figure.benchmark, []).append(f"{figure.value:g} {figure.key}")
    lines = [f"{name}: {', '.join(what)}" for name, what in counted.items()]
    return lines + [f"in brackets, {what}: {source}" for source, what in _sourced(figures).items()]


def _sourced(figures: Sequence[Figure]) -> dict[str, str]:
    """Return by source which published figures are from there: all of some benchmarks, or single ones."""
    names: dict[str, dict[str, list[str]]] = {}
    sources_of: dict[str, set[str]] = {}
    for figure in figures:
        if figure.source:
            names.setdefault(figure.source, {}).setdefault(figure.benchmark, []).append(figure.key)
            sources_of.setdefault(figure.benchmark, set()).add(figure.source)
    return {
        source: ", ".join(
            name if len(sources_of[name]) == 1 else f"{name} ({', '.join(keys)})" for name, keys in found.items()
        )
        for source, found in names.items()
    }


def as_text(figures: Sequence[Figure]) -> str:
    """Lay out the table for a terminal."""
    lines = aligned(wide_table(figures))
    return "\n".join([*lines, *notes(figures)])


def as_markdown(figures: Sequence[Figure]) -> str:
    """Lay out the table in Markdown."""
    head, *rows = wide_table(figures)
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in notes(figures))]) + "\n"


def as_csv(figures: Sequence[Figure]) -> str:
    """Write every figure, details among them, as one line of CSV."""
    text = io.StringIO()
    names = ("benchmark", "setting", "metric", "value", "kind", "published", "source")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for figure in figures:
        row = asdict(figure)
        writer.writerow(row | {"published": "" if figure.published is None else figure.published})
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
        figures = [figure for benchmark in _benchmarks(trainer) for figure in benchmark.figures]
        if figures and trainer.is_global_zero and not trainer.sanity_checking:
            say("\n" + as_text(figures))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the last figures of the run."""
        benchmarks = _benchmarks(trainer)
        figures = [figure for benchmark in benchmarks for figure in benchmark.figures]
        if not figures or not trainer.is_global_zero:
            return
        path = run_folder(trainer) / self.path
        written = {".csv": as_csv(figures), ".json": as_json(figures), ".md": as_markdown(figures)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for suffix, text in written.items():
                Path(f"{path}{suffix}").write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"--report.path: expected a place to write {path}.csv, found {error}") from None
        print(f"{len(figures)} figures -> {path}.csv, .json, .md")
        for benchmark in benchmarks:
            benchmark.figures = []


def _benchmarks(trainer: Trainer) -> list[Benchmark]:
    return [each for each in callbacks_of(trainer) if isinstance(each, Benchmark)]


def as_json(figures: Sequence[Figure]) -> str:
    """Write every figure, details among them, as a JSON list; null stands for an infinite one, which JSON lacks."""
    rows = [asdict(figure) for figure in figures]
    rows = [row | {"value": row["value"] if math.isfinite(row["value"]) else None} for row in rows]
    return json.dumps(rows, indent=1) + "\n"
