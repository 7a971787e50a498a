"""Rows of the results table: groups of runs that differ only in the seed, with labels that distinguish the rows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mcn_lightning.commands.results.runs import Run
from mcn_lightning.runs.saved import comparable_options

MAX_SHOWN = 4  # options in a label, unless more are needed to distinguish rows
WIDTH = 40  # characters of a value


@dataclass(frozen=True)
class Row:
    """A group of runs with the same name and options except the seed.

    Args:
        name: of the runs.
        options: text of the options in which the row differs from most others.
        runs: the runs that count, one for each seed.
        repeated: further runs with a seed that is already among ``runs``.
    """

    name: str
    options: str
    runs: Sequence[Run]
    repeated: Sequence[Run] = ()

    @property
    def label(self) -> str:
        """Name and options as one text."""
        return f"{self.name} ({self.options})" if self.options else self.name

    def finished(self) -> Row:
        """Return the row without its unfinished runs."""
        return replace(self, runs=[run for run in self.runs if run.finished])


def group_runs(runs: Sequence[Run]) -> list[Row]:
    """Group runs into rows, sorted by name. One run for each seed counts, so that the deviation is that over seeds."""
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    options: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        flat = comparable_options(run.options)
        # as text: options may hold lists, which cannot be keys
        key = run.name, json.dumps(flat, sort_keys=True)
        grouped[key].append(run)
        options[key] = flat
    keys = sorted(grouped)
    texts = _labels([name for name, _ in keys], [options[key] for key in keys])
    return [Row(key[0], text, *_once_each(grouped[key])) for key, text in zip(keys, texts, strict=True)]


def _once_each(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return one run for each seed, which finished or has the most steps, by seed; and the other finished ones."""
    chosen: dict[int | str, Run] = {}
    for run in runs:
        key = run.location if run.seed is None else run.seed  # unknown seeds are taken as different
        other = chosen.get(key, run)
        # >=: of equal runs the later one, which has the higher version
        if (run.finished, run.last.get("step", 0.0)) >= (other.finished, other.last.get("step", 0.0)):
            chosen[key] = run
    counted = sorted(chosen.values(), key=lambda run: (run.seed is None, run.seed or 0))
    return counted, [run for run in runs if run not in counted and run.finished]


def _labels(names: Sequence[str], options: Sequence[Mapping[str, str]]) -> list[str]:
    """Return for every row the options in which it differs from most rows, as few as distinguish all rows."""
    paths = sorted({path for one in options for path in one})
    unlike: list[list[tuple[int, str, str]]] = [[] for _ in options]
    for path in paths:
        values = [one.get(path, "-") for one in options]
        times = Counter(values)
        usual, count = times.most_common(1)[0]
        for row, value in zip(unlike, values, strict=True):
            if value != usual or (count * 2 <= len(values)):  # without a majority all values are shown
                row.append((times[value], path, value))
    short, shown = _short(paths), MAX_SHOWN
    while True:
        texts = [_text(sorted(row), short, shown) for row in unlike]  # sorted: the rarest values come first
        apart = len({*zip(names, texts, strict=True)}) == len(names)
        if apart or shown >= len(paths):
            return texts
        shown += 1


def _text(row: Sequence[tuple[int, str, str]], short: Mapping[str, str], shown: int) -> str:
    parts = []
    for _, path, value in row[:shown]:
        parts.append(f"{short[path]} {value if len(value) <= WIDTH else value[: WIDTH - 3] + '...'}")
    if len(row) > shown:
        parts.append(f"{len(row) - shown} more")
    return ", ".join(parts)


def _short(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest suffix of every dotted name that no other name has."""
    every = {path: [".".join(path.split(".")[-count:]) for count in range(1, path.count(".") + 2)] for path in paths}
    times = Counter(end for ends in every.values() for end in ends)
    return {path: next((end for end in ends if times[end] == 1), path) for path, ends in every.items()}
