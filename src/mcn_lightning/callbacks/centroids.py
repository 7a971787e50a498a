"""When the clips are clustered anew, and on what."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.clustering import CentroidClustering, KMeansReport
from mcn_lightning.data.batch import InputError
from mcn_lightning.distributed import broadcast


class CentroidUpdate(Callback):
    """Re-run k-means every n steps or every n epochs, on the queue or on a pass over the training set.

    On the queue, the run takes place inside the training step that follows, between embedding and loss, so that the
    current batch is clustered together with the queue as in the released recipe. On a pass, every process embeds its
    part of the videos before the epoch begins, and keeps it: only sums travel between processes.

    Args:
        every_n_steps: optimiser steps between two runs; 0 turns this off (released: 20).
        every_n_epochs: epochs between two runs, at the start of the epoch; 0 turns this off.
        source: queue (with the current batch), or training_set (needs every_n_epochs).
        share: share of the training videos, 0 to 1, that a pass embeds; drawn anew for each.
        start: warm (from the present centroids) or fresh.
    """

    def __init__(
        self,
        every_n_steps: int = 20,
        every_n_epochs: int = 0,
        source: Literal["queue", "training_set"] = "queue",
        share: float = 1.0,
        start: Literal["warm", "fresh"] = "warm",
    ) -> None:
        if every_n_steps < 0 or every_n_epochs < 0 or (every_n_steps > 0) == (every_n_epochs > 0):
            raise InputError(
                "--centroids: expected exactly one of every_n_steps and every_n_epochs above 0, "
                f"found {every_n_steps} and {every_n_epochs}"
            )
        if source == "training_set" and not every_n_epochs:
            raise InputError(
                "--centroids.source: expected queue with every_n_steps, found training_set; "
                "set --centroids.every_n_epochs, and every_n_steps to 0"
            )
        if not 0 < share <= 1:
            raise InputError(f"--centroids.share: expected a share in (0, 1], found {share}")
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.source = source
        self.share = share
        self.start = start
        self._step = -1
        self._pass_seconds: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when a queue is kept that no k-means reads."""
        self._step = -1
        clustering = getattr(pl_module, "clustering", None)
        if self.source == "training_set" and isinstance(clustering, CentroidClustering):
            if rows := clustering.config.queue_rows:
                rank_zero_warn(
                    f"--model.clustering.queue_rows: the {rows} rows of the queue are not read with "
                    "--centroids.source training_set, and take memory; set it to 0"
                )

    def _due_by_epoch(self, trainer: Trainer) -> bool:
        return self.every_n_epochs > 0 and trainer.current_epoch % self.every_n_epochs == 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cluster a pass over the training set when one is due; Lightning skips this when resuming in mid-epoch."""
        clustering = getattr(pl_module, "clustering", None)
        if self.source == "queue" or not isinstance(clustering, CentroidClustering):
            return
        if self._due_by_epoch(trainer):
            started = time.perf_counter()
            features = self._embed(trainer, pl_module)
            fresh = self.start == "fresh" or clustering.config.restart_each_epoch
            reports = pl_module.fit_centroids(features, fresh)  # type: ignore[operator]
            pl_module.cluster_reports = reports  # type: ignore[assignment]
            self._pass_seconds = time.perf_counter() - started

    @torch.no_grad()
    def _embed(self, trainer: Trainer, module: LightningModule) -> dict[str, list[Tensor]]:
        """Return this process's embeddings by feature, a tensor a batch."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.pass_dataloader(self.share)
        rows: dict[str, list[Tensor]] = defaultdict(list)
        training = module.training
        for name, buffer in module.named_buffers():  # every process embeds with the statistics of the first
            if not name.startswith("clustering."):
                buffer.copy_(broadcast(buffer))
        module.eval()
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        for batch in tqdm(loader, desc="embedding for k-means", unit="batch", leave=False, disable=not shown):
            if len(batch):
                with trainer.precision_plugin.forward_context():
                    found = module.clustered_features(batch.to(module.device).ready())  # type: ignore[operator]
                for name, feature in found.items():
                    rows[name].append(feature)
        module.train(training)
        return rows

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Ask the module for a run on the queue when one is due."""
        clustering = getattr(pl_module, "clustering", None)
        if not isinstance(clustering, CentroidClustering):
            return
        fresh = self.source == "queue" and clustering.config.restart_each_epoch and batch_idx == 0
        step, before = trainer.global_step, self._step  # several batches make one step when gradients are accumulated
        self._step = step
        due = (self.every_n_steps > 0 and step != before and step % self.every_n_steps == 0) or (
            self.source == "queue" and batch_idx == 0 and self._due_by_epoch(trainer)
        )
        if due or fresh:
            pl_module.request_clustering(fresh or self.start == "fresh")  # type: ignore[operator]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log how the last run of k-means went."""
        self._log(pl_module, getattr(pl_module, "cluster_reports", {}))
        pl_module.cluster_reports = {}  # type: ignore[assignment]
        if self._pass_seconds is not None:
            pl_module.log("clustering/pass_seconds", self._pass_seconds, batch_size=1)
            self._pass_seconds = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when k-means never ran: the queue was not filled, and no batch had K clips."""
        clustering = getattr(pl_module, "clustering", None)
        if isinstance(clustering, CentroidClustering) and not clustering.has_centroids:
            config = clustering.config
            rank_zero_warn(
                f"k-means never ran: the queue (--model.clustering.queue_rows {config.queue_rows}) was not filled and "
                f"no batch had --model.clustering.num_clusters ({config.num_clusters}) clips; lower one of them"
            )

    @staticmethod
    def _log(module: LightningModule, reports: Mapping[str, KMeansReport]) -> None:
        for feature, report in reports.items():
            share = report.counts.float() / report.counts.sum()
            values = {
                "objective": report.objective,
                "iterations": report.iterations,
                "changed": report.changed,
                "size_entropy": float(torch.special.entr(share).sum()),
                "reseeded": report.reseeded,
                "empty": int((report.counts == 0).sum()),
                "seconds": report.seconds,
            }
            where = "clustering" if feature == "mean" else f"clustering_{feature}"
            found = {f"{where}/{name}": float(value) for name, value in values.items() if value is not None}
            module.log_dict(found, batch_size=1)
