"""Collection of runs from folders and from wandb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.commands.results.runs import Run, local_runs
from mcn_lightning.commands.results.wandb_runs import PREFIX, wandb_runs


def collect(locations: Sequence[str]) -> list[Run]:
    """Return the runs of folders and wandb projects, each run once.

    Args:
        locations: folders with runs at any depth, or ``wandb:entity/project``, or ``wandb:entity/project/run``.

    Raises:
        InputError: if a location has no run, or a run cannot be read.
    """
    found: dict[str, Run] = {}
    for location in locations:
        runs = wandb_runs(location) if location.startswith(PREFIX) else local_runs(Path(location))
        # a folder may lie in another that was given too
        found.update({run.location: run for run in runs if run.location not in found})
    return list(found.values())
