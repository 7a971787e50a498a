"""A callback that lets a job wait for the signal that a test sends."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.runs.resume import Resume


class Hold(Callback):
    """Wait before a step until a signal has come, and say with a file ``held-<start>-<process or task>`` that it does.

    Args:
        folder: of the file.
        steps: of the first start of the job, the second and so on; negative in one that does not wait.
    """

    def __init__(self, folder: str, steps: list[int]) -> None:
        self.folder, self.steps = Path(folder), steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Wait, if this is the step."""
        start = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        if trainer.global_step not in self.steps[start : start + 1]:
            return
        (resume,) = (each for each in trainer.callbacks if isinstance(each, Resume))
        name = os.environ.get("SLURM_ARRAY_TASK_ID", os.environ["SLURM_PROCID"])
        (self.folder / f"held-{start}-{name}").touch()
        while not resume._received:
            time.sleep(0.05)
