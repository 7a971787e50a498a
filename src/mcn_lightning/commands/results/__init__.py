"""The command ``results``: runs from folders or from wandb, as a table and as curves."""

from mcn_lightning.commands.results.collect import collect
from mcn_lightning.commands.results.curves import check_plot, plot_curves
from mcn_lightning.commands.results.rows import Row, group_runs
from mcn_lightning.commands.results.runs import Run, local_runs
from mcn_lightning.commands.results.table import check_metrics, columns, results_table, write_csv

__all__ = [
    "Row",
    "Run",
    "check_metrics",
    "check_plot",
    "collect",
    "columns",
    "group_runs",
    "local_runs",
    "plot_curves",
    "results_table",
    "write_csv",
]
