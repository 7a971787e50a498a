"""Throughput of training, and the share of time that it waits for data."""

from __future__ import annotations

import time

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.callbacks.protocols import embedding_module
from mcn_lightning.runs.lightning import CheckpointContents, logs_this_step


class Throughput(Callback):
    """Log ``train/clips_per_second`` and ``train/data_wait_share`` every ``trainer.log_every_n_steps`` steps.

    Clips are those of all processes. The share (0 to 1) is the part of the first process's time without a batch. Both
    cover the steps since the last logging. They are measured by the host's clock between hooks, so that nothing waits
    for the device. Starting the workers of an epoch counts as waiting. Validation and checkpoints between steps are not
    counted.
    """

    def __init__(self) -> None:
        self._left: float | None = None
        self._entered = 0.0
        self._reset()

    def _reset(self) -> None:
        self._waited, self._worked, self._clips = 0.0, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to wait for the first batch. A run that resumes in mid-epoch calls no ``on_train_epoch_start``."""
        self._reset()
        self._left = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to wait for the first batch of the epoch."""
        self._left = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Stop waiting: the batch has come."""
        self._entered = time.perf_counter()
        if self._left is not None:
            self._waited += self._entered - self._left

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """End the step, and log if it is due."""
        self._left = time.perf_counter()
        self._worked += self._left - self._entered
        self._clips += embedding_module(pl_module).step_clips
        if logs_this_step(trainer) and (seconds := self._waited + self._worked) > 0:
            values = {
                "train/clips_per_second": self._clips / seconds,
                "train/data_wait_share": self._waited / seconds,
            }
            # written by the device: Lightning would copy a plain number there, and wait
            there = {name: torch.full((), value, device=pl_module.device) for name, value in values.items()}
            pl_module.log_dict(there, batch_size=1)
            self._reset()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not count the time until the next batch as waiting."""
        self._left = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Do not count the time until the next batch as waiting."""
        self._left = None
