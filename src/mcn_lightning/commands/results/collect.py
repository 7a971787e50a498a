"""Runs from where the user says they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.commands.results.runs import Run, local_runs
from mcn_lightning.commands.results.wandb_runs import PREFIX, wandb_runs


def collect(places: Sequence[str]) -> list[Run]:
    """Return the runs in some places, each once.

    Args:
        places: folders of runs, folders that hold some at any depth, or ``wandb:entity/project`` (``/run`` for one).

    Raises:
        InputError: if a place holds no run, or one cannot be read.
    """
    found: dict[str, Run] = {}
    for place in places:
        runs = wandb_runs(place) if place.startswith(PREFIX) else local_runs(Path(place))
        found.update({run.place: run for run in runs if run.place not in found})
    return list(found.values())
