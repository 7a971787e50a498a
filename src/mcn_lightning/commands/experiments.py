"""The commands for several runs: ``results`` and ``ablate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from mcn_lightning.commands.ablate import PastRuns, ResolveOptions, Runner, plan, sweep
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.commands.recipes import ablation_folder, find_recipe
from mcn_lightning.commands.results import (
    check_metrics,
    check_plot,
    collect,
    group_runs,
    plot_curves,
    results_table,
    write_csv,
)
from mcn_lightning.errors import InputError

METRICS = ("val/t->va/R@1", "val/t->va/R@5", "val/t->va/R@10")


def _first_line(command: Callable[..., None]) -> str:
    return (command.__doc__ or "").split("\n")[0]


def results(args: Sequence[str]) -> None:
    """Print the metrics of runs as a Markdown table: a row for each recipe, mean and deviation over its runs (seeds).

    Args:
        args: arguments after ``results``.

    Raises:
        InputError: if there is no run, or a file cannot be read or written.
    """
    parser = CommandParser(prog="lightning results", description=_first_line(results))
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folder of a run, or of runs at any depth (metrics.csv, config.yaml and, if present, run.json; "
        "links to folders below it are not followed), or wandb:entity/project",
    )
    parser.add_argument(
        "--metrics",
        type=list[str],
        default=list(METRICS),
        help="columns, by the names of logged metrics, for instance '[val/t->va/R@10, val/nmi]'",
    )
    parser.add_argument("--csv", type=str, help="CSV file for the table, with mean and deviation in separate columns")
    parser.add_argument(
        "--plot",
        type=str,
        help="file for a plot (.svg, .png): training loss and the last of the metrics against steps, a line for a row",
    )
    parser.add_argument("--unfinished", type=bool, default=False, help="whether unfinished runs count as well")
    options = parser.parse_args(list(args))
    # before runs are read, which takes long for many of them
    if options.plot:
        check_plot(Path(options.plot))
    every = group_runs(collect(options.runs))
    check_metrics(every, options.metrics)
    rows = every if options.unfinished else [done for row in every if (done := row.finished()).runs]
    print(results_table(rows, options.metrics))
    if short := [run.location for row in every for run in row.runs if not run.finished]:
        what = "counted though not finished" if options.unfinished else "left out, not finished"
        print(f"\n{what}: " + ", ".join(short))
    if repeated := [run.location for row in every for run in row.repeated]:
        print("\nleft out, a seed that counts already: " + ", ".join(repeated))
    if options.csv:
        write_csv(Path(options.csv), rows, options.metrics)
    if options.plot:
        plot_curves(Path(options.plot), rows, options.metrics[-1])


def ablate(args: Sequence[str], resolve_options: ResolveOptions) -> None:
    """Run a folder of ablation files over seeds, one run after another, without those that are finished already.

    Args:
        args: arguments after ``ablate``. Those after ``--`` are passed to every run.
        resolve_options: returns all options for given arguments of ``fit``.

    Raises:
        InputError: if there is no run, or an option is refused.
    """
    own, more = list(args), []
    # split by hand, as this parser does not know the options of `fit`
    if "--" in own:
        own, more = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = CommandParser(
        prog="lightning ablate",
        description=_first_line(ablate),
        epilog="Arguments after -- are passed to every run, as in: -- --data.root DATA --trainer.max_epochs 20",
    )
    parser.add_argument("--base", type=str, required=True, help="recipe that each file is layered over")
    parser.add_argument("--folder", type=str, default="experiments/ablations", help="ablation files (.yaml)")
    parser.add_argument("--seeds", type=list[int], default=[0], help="for each file, for instance '[0, 1, 2]'")
    parser.add_argument("--files", type=list[str], default=[], help="names of files to run, without .yaml; or all")
    parser.add_argument("--list", action="store_true", help="print the commands with their numbers, and run none")
    parser.add_argument("--sweep", action="store_true", help="print them as a sweep for `wandb sweep`, and run none")
    parser.add_argument("--only", type=int, help="run one of them, by its number, as in a task of a job array")
    options = parser.parse_args(own)
    folder = ablation_folder(options.folder)
    tasks = plan(find_recipe(options.base, "--base"), folder, options.seeds, options.files, more)
    if options.only is not None and not 0 <= options.only < len(tasks):
        raise InputError(f"--only: expected a number from 0 to {len(tasks) - 1}, found {options.only}; see --list")
    if options.only is not None:
        tasks = [tasks[options.only]]
    if options.list:
        for task in tasks:
            print(f"{task.number}: {shlex.join(['python', *task.command()[1:]])}")
    elif options.sweep:
        print(yaml.safe_dump(sweep(tasks, folder), sort_keys=False), end="")
    elif status := Runner(PastRuns(resolve_options)).run(tasks):
        sys.exit(status)
