"""How fast a run goes, and how much of its time it waits for data."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.callbacks.protocols import embedding_module
from mcn_lightning.runs.lightning import logs_this_step


class Throughput(Callback):
    """Log ``train/clips_per_second`` and ``train/data_wait_share`` every ``trainer.log_every_n_steps`` steps.

    Clips are those of all processes; the share (0 to 1) is that of the first one's time in which it had no batch. Both
    are of the steps since they were logged last, by the clock of the host between the hooks, so that nothing waits for
    the device. The start of the workers at the beginning of an epoch counts as waiting; validation and the writing of
    checkpoints between steps do not count at all.
    """

    def __init__(self) -> None:
        self._left: float | None = None
        self._entered = 0.0
        self._reset()

    def _reset(self) -> None:
        self._waited, self._worked, self._clips = 0.0, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait for the first batch; a run that goes on in mid-epoch has no beginning of that epoch."""
        self._reset()
        self._left = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to wait for the first batch of the epoch."""
        self._left = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """End the wait."""
        self._entered = time.perf_counter()
        if self._left is not None:
            self._waited += self._entered - self._left

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """End the step, and log when it is time to."""
        self._left = time.perf_counter()
        self._worked += self._left - self._entered
        self._clips += embedding_module(pl_module).step_clips
        if logs_this_step(trainer) and (seconds := self._waited + self._worked) > 0:
            values = {
                "train/clips_per_second": self._clips / seconds,
                "train/data_wait_share": self._waited / seconds,
            }
            pl_module.log_dict(values, batch_size=1)
            self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count no wait until the next batch."""
        self._left = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count no wait until the next batch."""
        self._left = None
