"""The commands around several runs: ``results``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from mcn_lightning.results import check_metrics, check_plot, collect, draw_curves, results_table, rows_of, write_csv

METRICS = ("val/t->va/R@1", "val/t->va/R@5", "val/t->va/R@10")


class CommandParser(ArgumentParser):
    """A parser whose errors are one line, without pages of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the command with the message."""
        sys.exit("error: " + " ".join(message.split()))


def results(words: Sequence[str]) -> None:
    """Print what runs reached as a Markdown table: a row for each recipe, mean and spread over its runs (seeds).

    Args:
        words: those after ``results``.

    Raises:
        InputError: if there is no run, or a file cannot be read or written.
    """
    parser = CommandParser(prog="mcn-lightning results", description=" ".join((results.__doc__ or "").split()[:18]))
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folder of a run, or of runs at any depth (metrics.csv and config.yaml, run.json where there is one); or "
        "wandb:entity/project",
    )
    parser.add_argument(
        "--metrics",
        type=list[str],
        default=list(METRICS),
        help="columns, by the names that were logged, for instance '[val/t->va/R@10, val/nmi]'",
    )
    parser.add_argument("--csv", type=str, help="file to write the table to as well, mean and spread in own columns")
    parser.add_argument(
        "--plot",
        type=str,
        help="picture to draw (.svg, .png): training loss and the last of the metrics against steps, a line a row",
    )
    parser.add_argument("--unfinished", type=bool, default=False, help="whether runs that did not end count as well")
    options = parser.parse_args(list(words))
    if options.plot:
        check_plot(Path(options.plot))
    every = rows_of(collect(options.runs))
    check_metrics(every, options.metrics)
    rows = every if options.unfinished else [done for row in every if (done := row.finished()).runs]
    print(results_table(rows, options.metrics))
    if short := [run.place for row in every for run in row.runs if not run.finished]:
        what = "counted though not finished" if options.unfinished else "left out, not finished"
        print(f"\n{what}: " + ", ".join(short))
    if options.csv:
        write_csv(Path(options.csv), rows, options.metrics)
    if options.plot:
        draw_curves(Path(options.plot), rows, options.metrics[-1])
