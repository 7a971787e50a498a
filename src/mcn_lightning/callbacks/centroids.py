"""When the clips are clustered anew."""

from __future__ import annotations

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.data.batch import InputError


class CentroidUpdate(Callback):
    """Re-run k-means on the queue every n steps or every n epochs.

    The run takes place inside the training step that follows, between embedding and loss, so that the current batch is
    clustered together with the queue as in the released recipe.

    Args:
        every_n_steps: steps between two runs; 0 turns this off (released: 20).
        every_n_epochs: epochs between two runs, at the first step of the epoch; 0 turns this off.
    """

    def __init__(self, every_n_steps: int = 20, every_n_epochs: int = 0) -> None:
        if every_n_steps < 0 or every_n_epochs < 0 or (every_n_steps > 0) == (every_n_epochs > 0):
            raise InputError(
                "--centroids: expected exactly one of every_n_steps and every_n_epochs above 0, "
                f"found {every_n_steps} and {every_n_epochs}"
            )
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self._started = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ask the module for a run when one is due."""
        self._started = time.perf_counter()
        clustering = getattr(pl_module, "clustering", None)
        if clustering is None:
            return
        fresh = clustering.config.restart_each_epoch and batch_idx == 0
        step = trainer.fit_loop.total_batch_idx
        due = (self.every_n_steps > 0 and step % self.every_n_steps == 0) or (
            self.every_n_epochs > 0 and batch_idx == 0 and trainer.current_epoch % self.every_n_epochs == 0
        )
        if due or fresh:
            pl_module.request_clustering(fresh)  # type: ignore[operator]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how the last run of k-means went."""
        for feature, report in getattr(pl_module, "cluster_reports", {}).items():
            share = report.counts.float() / report.counts.sum()
            values = {
                "objective": report.objective,
                "iterations": report.iterations,
                "reseeded": report.reseeded,
                "size_entropy": torch.special.entr(share).sum(),
                "step_seconds": time.perf_counter() - self._started,
            }
            where = "clustering" if feature == "mean" else f"clustering_{feature}"
            pl_module.log_dict({f"{where}/{name}": float(value) for name, value in values.items()}, batch_size=1)
        pl_module.cluster_reports = {}  # type: ignore[assignment]
