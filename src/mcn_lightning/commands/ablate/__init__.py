"""A folder of ablation files over seeds: what there is to run, what is already finished, and one run after another."""

from mcn_lightning.commands.ablate.past import OptionsOf, Past
from mcn_lightning.commands.ablate.runner import Runner
from mcn_lightning.commands.ablate.tasks import Task, belongs, plan, sweep

__all__ = ["OptionsOf", "Past", "Runner", "Task", "belongs", "plan", "sweep"]
