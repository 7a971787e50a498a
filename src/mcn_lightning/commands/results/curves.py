"""Plots of the curves of several runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcn_lightning.commands.results.rows import Row
from mcn_lightning.plots.figures import check_ending, new_figure, save_figure

LOSS = "train/loss"
STYLES = ("-", "--", ":", "-.")
COLOURS = 10  # colours in matplotlib's cycle "tab10"; further rows use another line style


def check_plot(path: Path) -> None:
    """Check that the plot can be made, before runs are read.

    Raises:
        InputError: if matplotlib is not installed, or the suffix of the name is not supported.
    """
    check_ending(path, "--plot")
    new_figure("--plot")


def plot_curves(path: Path, rows: Sequence[Row], metric: str) -> None:
    """Plot training loss and a metric against steps. Each row is a line, the mean of its runs, with a band of all runs.

    Args:
        path: of the plot, ending in .svg, .png or .pdf.
        rows: groups of runs.
        metric: logged name, for instance ``val/t->va/R@10``.

    Raises:
        InputError: if matplotlib is not installed, or the plot cannot be written.
    """
    figure = new_figure("--plot", figsize=(11, 4.5 + 0.2 * max(0, len(rows) - 4)), layout="constrained")
    for panel, name in zip(figure.subplots(1, 2), (LOSS, metric), strict=True):
        for number, row in enumerate(rows):
            _line(panel, row, name, number)
        panel.set(xlabel="step", title=name)
        panel.grid(alpha=0.3)
    handles, labels = panel.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    save_figure(figure, path, "--plot")


def _line(panel: Any, row: Row, metric: str, number: int) -> None:
    points = defaultdict(list)
    for run in row.runs:
        for step, value in run.curve(metric):
            points[step].append(value)
    most = max(map(len, points.values()), default=0)
    # only steps that the most runs have: the mean would jump where an unfinished run ends
    shared = {step: points[step] for step in sorted(points) if len(points[step]) == most}
    colour, style = f"C{number % COLOURS}", STYLES[number // COLOURS % len(STYLES)]
    means = [statistics.fmean(values) for values in shared.values()]
    panel.plot([*shared], means, style, color=colour, label=row.label, marker="." if len(shared) < 30 else "")
    if most > 1:
        lows, highs = [min(values) for values in shared.values()], [max(values) for values in shared.values()]
        panel.fill_between([*shared], lows, highs, color=colour, alpha=0.15, linewidth=0)
