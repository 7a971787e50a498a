"""Rows of a table: runs that differ in nothing but the seed, and labels that tell the rows apart."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mcn_lightning.commands.results.runs import Run
from mcn_lightning.runs.saved import counting_options

SHOWN = 4  # options in a label, unless it takes more to tell rows apart
WIDTH = 40  # letters of a value


@dataclass(frozen=True)
class Row:
    """Runs with the same name and options but for the seed.

    Args:
        name: theirs.
        options: those in which the row is unlike most others, in short.
        runs: the runs that count, one a seed.
        again: other runs with the seed of one that counts.
    """

    name: str
    options: str
    runs: Sequence[Run]
    again: Sequence[Run] = ()

    @property
    def label(self) -> str:
        """Name and options in one."""
        return f"{self.name} ({self.options})" if self.options else self.name

    def finished(self) -> Row:
        """Return the row without the runs that did not go on to their end."""
        return replace(self, runs=[run for run in self.runs if run.finished])


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Return the rows, sorted by name; of several runs with one seed one counts, so that spread is that of seeds."""
    grouped: dict[tuple[str, str], list[Run]] = defaultdict(list)
    options: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        flat = counting_options(run.options)
        key = run.name, json.dumps(flat, sort_keys=True)
        grouped[key].append(run)
        options[key] = flat
    keys = sorted(grouped)
    texts = _labels([name for name, _ in keys], [options[key] for key in keys])
    return [Row(key[0], text, *_once_each(grouped[key])) for key, text in zip(keys, texts, strict=True)]


def _once_each(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return one run of those with the same seed, one that finished or went on longest, by seed; and the others."""
    chosen: dict[int | str, Run] = {}
    for run in runs:
        key = run.place if run.seed is None else run.seed  # seeds that were drawn: each a run of its own
        other = chosen.get(key, run)
        if (run.finished, run.last.get("step", 0.0)) >= (other.finished, other.last.get("step", 0.0)):
            chosen[key] = run
    counted = sorted(chosen.values(), key=lambda run: (run.seed is None, run.seed or 0))
    return counted, [run for run in runs if run not in counted and run.finished]


def _labels(names: Sequence[str], options: Sequence[Mapping[str, str]]) -> list[str]:
    """Return for every row the options in which it is unlike most rows, as few as tell all rows apart."""
    paths = sorted({path for one in options for path in one})
    unlike: list[list[tuple[int, str, str]]] = [[] for _ in options]
    for path in paths:
        values = [one.get(path, "-") for one in options]
        times = Counter(values)
        usual, count = times.most_common(1)[0]
        for row, value in zip(unlike, values, strict=True):
            if value != usual or (count * 2 <= len(values)):  # one of two rows: both are shown
                row.append((times[value], path, value))
    short, shown = _short(paths), SHOWN
    while True:
        texts = [_text(sorted(row), short, shown) for row in unlike]  # what few others have comes first
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
    """Return the shortest end of every path that no other path has."""
    every = {path: [".".join(path.split(".")[-count:]) for count in range(1, path.count(".") + 2)] for path in paths}
    times = Counter(end for ends in every.values() for end in ends)
    return {path: next((end for end in ends if times[end] == 1), path) for path, ends in every.items()}
