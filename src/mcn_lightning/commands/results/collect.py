"""Collection of runs from folders and from wandb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.commands.results.runs import Run, local_runs
from mcn_lightning.commands.results.wandb_runs import PREFIX, wandb_runs


def collect(places: Sequence[str]) -> list[Run]:
    """Return the runs of folders and wandb projects, each run once.

    Args:
        places: folders with runs at any depth, or ``wandb:entity/project`` (``wandb:entity/project/run`` for one run).

    Raises:
        InputError: if a place has no run, or a run cannot be read.
    """
    found: dict[str, Run] = {}
    for place in places:
        runs = wandb_runs(place) if place.startswith(PREFIX) else local_runs(Path(place))
        found.update({run.place: run for run in runs if run.place not in found})
    return list(found.values())
