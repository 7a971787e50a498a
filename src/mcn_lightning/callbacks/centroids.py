"""The callback that runs k-means: when, and on which embeddings."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from mcn_lightning.callbacks.progress import progress
from mcn_lightning.callbacks.protocols import EmbeddingModule, clip_data, embedding_module
from mcn_lightning.clustering import Clustering, ClusteringConfig, KMeansReport
from mcn_lightning.distributed import broadcast
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.ranges import NonNegativeInt, PositiveShare, checked
from mcn_lightning.runs.lightning import log_at


def kmeans_metrics(feature: str, report: KMeansReport) -> dict[str, float]:
    """Return the metrics of a run of k-means, by name.

    Args:
        feature: what was clustered: mean, or a modality.
        report: of the run.
    """
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
    return {f"{where}/{name}": float(value) for name, value in values.items() if value is not None}


def kmeans_clustering(module: LightningModule) -> Clustering | None:
    """Return the clustering of a module, if it uses k-means."""
    found = embedding_module(module).clustering
    return found if found is not None and found.runs_kmeans else None


class CentroidUpdate(Callback):
    """Run k-means every n steps or every n epochs, on the queue or on a pass over the training set.

    On the queue, k-means runs inside the next training step, between embedding and loss. So the current batch is
    clustered together with the queue, as in the released recipe. On a pass, every process embeds its part of the
    videos before the epoch begins and keeps the embeddings. Processes exchange only sums.

    Steps are counted over the whole run. With ``restart_each_epoch`` they are counted from 0 in each epoch, as the
    released script counts its batches. Each epoch then begins with k-means.

    Args:
        every_n_steps: optimiser steps between two runs of k-means; 0 turns this off (released: 20).
        every_n_epochs: epochs between two runs, at the start of the epoch; 0 turns this off.
        source: queue (with the current batch), or training_set (needs every_n_epochs).
        share: share of the training videos, 0 to 1, that a pass embeds. Each pass samples other videos.
        start: warm (from the current centroids) or fresh.
    """

    def __init__(
        self,
        every_n_steps: NonNegativeInt = 20,
        every_n_epochs: NonNegativeInt = 0,
        source: Literal["queue", "training_set"] = "queue",
        share: PositiveShare = 1.0,
        start: Literal["warm", "fresh"] = "warm",
    ) -> None:
        self.every_n_steps = checked(NonNegativeInt, every_n_steps, "--centroids.every_n_steps")
        self.every_n_epochs = checked(NonNegativeInt, every_n_epochs, "--centroids.every_n_epochs")
        self.share = checked(PositiveShare, share, "--centroids.share")
        check_rules(
            (
                (every_n_steps > 0) == (every_n_epochs > 0),
                "--centroids: expected exactly one of every_n_steps and every_n_epochs above 0, "
                f"found {every_n_steps} and {every_n_epochs}",
            ),
            (
                source == "training_set" and not every_n_epochs,
                "--centroids.source: expected queue with every_n_steps, found training_set; "
                "set --centroids.every_n_epochs, and every_n_steps to 0",
            ),
        )
        self.source, self.start = source, start
        self._step = -1
        self._pass_seconds: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the queue wastes memory: k-means does not read it, or the run ends before it is full."""
        self._step = -1
        clustering = kmeans_clustering(pl_module)
        if clustering is None or not (rows := clustering.queue_rows):
            return
        if self.source == "training_set":
            rank_zero_warn(
                f"--model.clustering.queue_rows: the {rows} rows of the queue are not read with "
                "--centroids.source training_set, and take memory; set it to 0"
            )
        elif 0 < (pushed := self._rows_pushed(trainer, clustering.config.queue_share)) < rows:
            rank_zero_warn(
                f"--model.clustering.queue_rows: expected at most the {pushed:.0f} rows that this run pushes, found "
                f"{rows}; the queue is never full, and k-means has the clips of a single step, or too few; lower it"
            )

    @staticmethod
    def _rows_pushed(trainer: Trainer, share: float) -> float:
        """Return how many rows the run pushes to the queue; infinity if the length of the run is not known."""
        if (data := clip_data(trainer)) is None:
            return math.inf
        # the queue rounds its share of a video's clips up in the same way, 1e-9 guards against rounding of the product
        clips = data.batch_size * math.ceil(data.clip_config.n_pair * share - 1e-9) * trainer.world_size
        # rows are pushed in every batch, also where several batches make one optimiser step
        return trainer.estimated_stepping_batches * trainer.accumulate_grad_batches * clips

    def _due_by_epoch(self, trainer: Trainer) -> bool:
        return self.every_n_epochs > 0 and trainer.current_epoch % self.every_n_epochs == 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run k-means on a pass over the training set if it is due.

        Lightning skips this hook when a run resumes in mid-epoch, whose centroids are in the checkpoint.
        """
        module = embedding_module(pl_module)
        clustering = kmeans_clustering(pl_module)
        if self.source == "queue" or clustering is None:
            return
        if self._due_by_epoch(trainer):
            started = time.perf_counter()
            features = self._embed(trainer, module, clustering.config)
            fresh = self.start == "fresh" or clustering.config.restart_each_epoch
            module.cluster_reports = module.fit_centroids(features, fresh)
            self._pass_seconds = time.perf_counter() - started

    @torch.no_grad()
    def _embed(self, trainer: Trainer, module: EmbeddingModule, config: ClusteringConfig) -> dict[str, list[Tensor]]:
        """Return the embeddings of this process by feature, one tensor for each batch."""
        if (data := clip_data(trainer)) is None:
            raise InputError("--centroids.source training_set: expected a data module of clips, found none")
        loader = data.pass_dataloader(self.share)
        rows: dict[str, list[Tensor]] = defaultdict(list)
        training = module.training
        # batch-norm statistics differ between processes: all embed with those of the first
        for name, buffer in module.named_buffers():
            if not name.startswith("clustering."):
                buffer.copy_(broadcast(buffer))
        module.train(False)
        shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
        for batch in progress(loader, "embedding for k-means", "batches", shown):
            if len(batch):
                with trainer.precision_plugin.forward_context():
                    found = module.clustered_features(batch.to(module.device).ready())
                for name, feature in found.items():
                    # kept like rows of the queue, whose options say where rows fit into memory
                    device = "cpu" if config.queue_device == "cpu" else feature.device
                    rows[name].append(feature.to(device, getattr(torch, config.queue_dtype)))
        module.train(training)
        return rows

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Ask the module to run k-means on the queue if it is due."""
        module = embedding_module(pl_module)
        clustering = kmeans_clustering(pl_module)
        if clustering is None:
            return
        restart, first = clustering.config.restart_each_epoch, batch_idx == 0
        fresh = self.source == "queue" and restart and first
        step, before = trainer.global_step, self._step
        self._step = step
        # with gradient accumulation several batches make one step, and only the first of them may run k-means
        in_epoch, part = divmod(batch_idx, trainer.accumulate_grad_batches)
        counted, begins = (in_epoch, True) if restart else (step, step != before)
        due = self.every_n_steps > 0 and part == 0 and begins and counted % self.every_n_steps == 0
        if due or fresh or (self.source == "queue" and first and self._due_by_epoch(trainer)):
            module.request_clustering(fresh or self.start == "fresh")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log the metrics of the last run of k-means."""
        module, values = embedding_module(pl_module), dict[str, float]()
        for feature, report in module.cluster_reports.items():
            values |= kmeans_metrics(feature, report)
        if self._pass_seconds is not None:
            values["clustering/pass_seconds"] = self._pass_seconds
        module.cluster_reports, self._pass_seconds = {}, None
        if values:  # written for this step: Lightning would drop steps between log_every_n_steps
            module.log_dict(values, batch_size=1, logger=False)
            log_at(trainer, values, self._step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if k-means never ran: the queue was not filled, and no batch had K clips."""
        clustering = kmeans_clustering(pl_module)
        if clustering is not None and not clustering.has_centroids:
            config = clustering.config
            rank_zero_warn(
                f"k-means never ran: the queue (--model.clustering.queue_rows {config.queue_rows}) was not filled and "
                f"no batch had --model.clustering.num_clusters ({config.num_clusters}) clips; lower one of them"
            )
