"""The list of runs: each ablation file of a folder with each seed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.errors import InputError


@dataclass(frozen=True)
class Task:
    """One run: an ablation file with a seed.

    Args:
        number: index in the list.
        base: recipe that the file is layered over.
        file: the options that differ from the recipe.
        seed: of the run.
        more: further arguments of ``fit``.
    """

    number: int
    base: Path
    file: Path
    seed: int
    more: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Name of the run in messages."""
        return f"{self.file.stem}, seed {self.seed}"

    @property
    def args(self) -> list[str]:
        """Arguments of ``fit``, without the checkpoint."""
        args = ["--config", str(self.base), "--config", str(self.file), "--seed_everything", str(self.seed)]
        # after the user's arguments, so that runs are always found by the name of their file
        return [*args, *self.more, "--trainer.logger.init_args.name", self.file.stem]

    def command(self, last: bool = True) -> list[str]:
        """Return the command of the run. With ``last`` it resumes a run that was stopped."""
        # by module, as another package could own the script `lightning`
        args = [sys.executable, "-m", "mcn_lightning", "fit", *self.args]
        return [*args, "--ckpt_path", "last"] if last else args


def plan(base: Path, folder: Path, seeds: Sequence[int], files: Sequence[str], more: Sequence[str]) -> list[Task]:
    """Return the list of runs, file by file.

    Args:
        base: recipe. Ablation files that begin with the name of another recipe beside it are left out.
        folder: with the ablation files.
        seeds: for each file.
        files: names of files to run, without .yaml; all when empty.
        more: further arguments for every run.

    Raises:
        InputError: if the list is empty, or a name is not in the folder.
    """
    if not base.is_file():
        raise InputError(f"--base: expected a recipe, found no file at {base}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: expected different numbers, found {list(seeds)}")
    found = {path.stem: path for path in sorted(folder.glob("*.yaml")) if belongs_to_base(path, base)}
    if not found:
        raise InputError(f"--folder: expected ablation files for {base} in {folder}, found none")
    if absent := [name for name in files if name not in found]:
        raise InputError(f"--files: expected some of {', '.join(found)}, found {absent[0]}")
    pairs = [(path, seed) for name, path in found.items() if not files or name in files for seed in seeds]
    return [Task(number, base, path, seed, tuple(more)) for number, (path, seed) in enumerate(pairs)]


def sweep(tasks: Sequence[Task], folder: Path) -> dict[str, object]:
    """Return the config of a wandb sweep whose agents run each file with each seed.

    Args:
        tasks: the list of runs.
        folder: with the ablation files.
    """
    files, seeds = dict.fromkeys(task.file.stem for task in tasks), dict.fromkeys(task.seed for task in tasks)
    return {
        "program": "mcn_lightning",
        "method": "grid",
        "metric": {"name": "val/t->va/R@10", "goal": "maximize"},
        # as lists of one, since ${args} passes --files=[mms] --seeds=[0]
        "parameters": {
            "files": {"values": [f"[{name}]" for name in files]},
            "seeds": {"values": [f"[{seed}]" for seed in seeds]},
        },
        "command": [
            *("${env}", "${interpreter}", "-m", "mcn_lightning", "ablate"),
            *(f"--base={tasks[0].base}", f"--folder={folder}", "${args}"),
            *("--", "--config=configs/trainer/wandb.yaml", *tasks[0].more),
        ],
    }


def belongs_to_base(path: Path, base: Path) -> bool:
    """Return whether an ablation file belongs to a recipe: its name begins with the recipe's name, or with none."""
    recipes = [recipe.stem for recipe in base.parent.glob("*.yaml") if path.stem.startswith(f"{recipe.stem}_")]
    # the longest name: grid_small_mms belongs to grid_small and not to grid
    return not recipes or max(recipes, key=len) == base.stem
