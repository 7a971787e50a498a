"""The command ``ablate``: the list of runs, the search for finished ones, and running the others one by one."""

from mcn_lightning.commands.ablate.past import PastRuns, ResolveOptions
from mcn_lightning.commands.ablate.runner import Runner
from mcn_lightning.commands.ablate.tasks import Task, belongs_to_base, plan, sweep

__all__ = ["PastRuns", "ResolveOptions", "Runner", "Task", "belongs_to_base", "plan", "sweep"]
