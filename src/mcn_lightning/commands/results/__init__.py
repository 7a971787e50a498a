"""What runs reached: collected from folders or from wandb, as a table and as curves."""

from mcn_lightning.commands.results.collect import collect
from mcn_lightning.commands.results.curves import check_plot, draw_curves
from mcn_lightning.commands.results.rows import Row, rows_of
from mcn_lightning.commands.results.runs import Run, local_runs
from mcn_lightning.commands.results.table import check_metrics, columns, results_table, write_csv

__all__ = [
    "Row",
    "Run",
    "check_metrics",
    "check_plot",
    "collect",
    "columns",
    "draw_curves",
    "local_runs",
    "results_table",
    "rows_of",
    "write_csv",
]
