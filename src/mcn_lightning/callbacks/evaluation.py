"""Evaluation on held-out clips: retrieval between any modalities, and cluster quality where topics are known."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks.evaluation_table import format_table
from mcn_lightning.callbacks.held_out import HeldOutEmbeddings
from mcn_lightning.callbacks.monitors import check_monitors
from mcn_lightning.callbacks.progress import print_message
from mcn_lightning.callbacks.protocols import EmbeddingModule, clip_data, embedding_module
from mcn_lightning.clustering.topics import find_topics
from mcn_lightning.distributed import gather_integers, gather_rows, row_counts, world_size
from mcn_lightning.errors import InputError, naming
from mcn_lightning.metrics import ClusterQuality, LabelledFeatures, Ranking, cluster_quality
from mcn_lightning.metrics.directions import (
    DEFAULT_DIRECTIONS,
    divide_directions,
    parse_direction,
    possible_directions,
)
from mcn_lightning.metrics.items import hash_ids
from mcn_lightning.metrics.scoring import Fusion, Scoring
from mcn_lightning.models import MCNOutput
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveFloat


class RetrievalEvaluation(Callback):
    """Evaluate retrieval and clusters on the held-out clips in fit, validate and test.

    Retrieval gives recall at k and the median rank of each direction. Where topics are known, ``nmi``, ``purity`` and
    others compare them with the clusters of training. ``topics_nmi`` compares them with new clusters: k-means finds as
    many as there are topics among the mean embeddings of the held-out clips.

    Args:
        directions: queries and galleries in letters, for instance t->va for text against video + audio. The default is
            t->va and all pairs (with one joint embedding of audio and text: v->ta and ta->v). ModelCheckpoint can
            monitor val/t->va/R@10 and the like.
        combine: how the modalities of one side are fused: sum of the embeddings (released), normalized_mean (mean of
            the embeddings at length 1) or normalized_sum (their sum, scaled to length 1). A plain sum prefers clips
            whose modalities agree, as their sums are long.
        audio_weight: factor of the audio embedding where it is summed with others (released: 1). Speech often describes
            a clip less well than its images.
        calibrate: share of the density of queries that is subtracted from the scores of a gallery item, see
            ``metrics.query_density``: 0 turns it off (released), 0.5 is a good start. It needs k-means of the query's
            modality (kmeans_per_modality) or of the mean, and queries of one modality.
        calibrate_temperature: of the similarities in the density.
    """

    def __init__(
        self,
        directions: list[str] | None = None,
        combine: Fusion = "sum",
        audio_weight: PositiveFloat = 1.0,
        calibrate: NonNegativeFloat = 0.0,
        calibrate_temperature: PositiveFloat = 0.05,
    ) -> None:
        for direction in directions or ():
            parse_direction(direction)
        self.scoring = Scoring(combine, audio_weight, calibrate, calibrate_temperature)
        self.directions = directions
        self._chosen: list[str] = []
        self._kept = HeldOutEmbeddings()
        self._quality = ClusterQuality()
        self._labelled = LabelledFeatures()
        self._items: set[str] = set()
        self._unknown: set[str] = set()
        self._left_out: dict[str, list[str]] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an evaluation, and choose its directions by the modalities of the data."""
        module, data = embedding_module(pl_module), clip_data(trainer)
        config = module.network_config
        there = [name for name in config.modalities if data is None or name in data.modalities]
        chosen, left_out = divide_directions(self.directions, DEFAULT_DIRECTIONS, there, config.fuse_audio_text)
        # training on fewer modalities is a choice: the default directions that need others are no news in the table
        self._left_out = {} if trainer.state.fn == TrainerFn.FITTING and self.directions is None else left_out
        if not chosen and len(there) > 1:  # raises an error that gives the reason
            possible_directions(self.directions, DEFAULT_DIRECTIONS, there, config.fuse_audio_text)
        if warning := self.scoring.calibration_warning(module.clusters_of, chosen, config.fuse_audio_text):
            rank_zero_warn(warning)
        self._chosen, self._kept = chosen, HeldOutEmbeddings()
        self._quality.reset()
        self._labelled.reset()
        self._items, self._unknown = set(), set()

    on_test_epoch_start = on_validation_epoch_start

    def _update(self, module: EmbeddingModule, output: MCNOutput, batch: ClipBatch) -> None:
        if len(batch) == 0:  # an empty batch stands for the held-out clips where only benchmarks are evaluated
            return
        embeddings = output.embeddings()
        if not self._chosen and batch.labels is None:
            found = f"{' '.join(embeddings)} alone, and no topics for clusters; predict embeds one modality"
            raise InputError(f"--data.modalities: expected two or more to retrieve one by another, found {found}")
        self._items.update(batch.items or batch.ids)
        self._unknown.update(batch.without_known_word())
        if self._chosen:
            self._kept.add(batch.ids, batch.items, embeddings, output.present)
        if batch.labels is not None:
            known = (batch.labels >= 0).tolist()
            self._label(module, output, batch, [row for row, is_known in enumerate(known) if is_known])

    def _label(self, module: EmbeddingModule, output: MCNOutput, batch: ClipBatch, rows: list[int]) -> None:
        """Add the features and clusters of the clips whose topic is known."""
        if not rows or batch.labels is None:
            return
        ids, labels = [batch.ids[row] for row in rows], batch.labels[rows]
        self._labelled.update(ids, output.mean()[rows], labels)
        if (clusters := module.assignments(output)) is not None:
            # -1 is no cluster: the clip lacks the clustered feature
            clustered = [position for position, cluster in enumerate(clusters[rows].tolist()) if cluster >= 0]
            if clustered:
                names = [ids[position] for position in clustered]
                self._quality.update(names, clusters[rows][clustered], labels[clustered])

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        module = embedding_module(pl_module)
        # counted on all processes before any may return: the count is a collective
        if trainer.sanity_checking or (count := self._count(module, self._items)) == 0:
            return
        self._leave_out_empty(module)
        with naming(f"evaluation at step {trainer.global_step}", ValueError):
            metrics, rankings = self._metrics(module)
        self._kept = HeldOutEmbeddings()  # training needs the memory
        shown = next(iter(self._chosen), "") + "/R@10"
        for name, value in metrics.items():
            module.log(
                f"{stage}/{name}", value, prog_bar=name in (shown, "nmi"), batch_size=1, sync_dist=world_size() > 1
            )
        data = clip_data(trainer)
        dropped = "" if data is None else data.dropped_captions(stage)
        unknown = self._count(module, self._unknown)
        if trainer.is_global_zero:
            table = format_table(metrics, rankings, count, _describe_time(trainer), dropped, unknown, self._left_out)
            print_message("\n" + table)

    def _metrics(self, module: EmbeddingModule) -> tuple[dict[str, float], dict[str, Ranking]]:
        """Return the metrics of all clips by name, and the ranking of each direction.

        The metrics of a direction are ``<direction>/<metric>``.

        Raises:
            ValueError: if an embedding is not finite.
        """
        metrics, rankings = dict[str, float](), dict[str, Ranking]()
        for direction in self._chosen:
            found, ranking = self._kept.rank(direction, self.scoring, module.clusters_of)
            metrics |= {f"{direction}/{name}": value for name, value in found.items()}
            if ranking is not None:
                rankings[direction] = ranking
        if self._quality.update_called:
            metrics |= {name: float(value) for name, value in self._quality.compute().items()}
        if self._labelled.update_called:
            features, labels = self._labelled.compute()
            topics = find_topics(features, len(labels.unique()))
            metrics["topics_nmi"] = float(cluster_quality(topics, labels)["nmi"])
        return metrics, rankings

    def _leave_out_empty(self, module: EmbeddingModule) -> None:
        """Remove the directions for which no clip on any process has both a query and a gallery item."""
        pairs = [self._kept.pairs(direction) for direction in self._chosen]
        found = gather_integers(pairs, module.device) if pairs else []
        for direction, *counts in zip(list(self._chosen), *found, strict=True):
            if sum(counts) == 0:
                self._chosen.remove(direction)
                self._left_out.setdefault("clip with both sides", []).append(direction)

    def _count(self, module: EmbeddingModule, clips: set[str]) -> int:
        """Return the number of distinct clips of all processes."""
        # distinct over the processes too: the sampler gives some clips to two of them
        ids = hash_ids(sorted(clips), module.device)
        return len(gather_rows(ids, row_counts(len(ids), module.device)).unique())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before hours of training that the held-out videos can be evaluated."""
        if (data := clip_data(trainer)) is not None:
            data.check_held_out()
        if trainer.limit_train_batches == 0:
            rank_zero_warn("--trainer.limit_train_batches 0: nothing is trained, and nothing is evaluated")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before training that a validation will run, and that it logs the metrics that callbacks monitor."""
        module, data = embedding_module(pl_module), clip_data(trainer)
        config, chosen = module.network_config, list[str]()
        if data is None or "val" in data.datasets:
            chosen = possible_directions(self.directions, DEFAULT_DIRECTIONS, config.modalities, config.fuse_audio_text)
        check_monitors(trainer, module, chosen, data is None or data.has_topics("val"))

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: ClipBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._update(embedding_module(pl_module), outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._finish(trainer, pl_module, "test")


def _describe_time(trainer: Trainer) -> str:
    """Return the epoch and step of an evaluation as text, epochs counted from 1; empty outside of training."""
    if trainer.state.fn != TrainerFn.FITTING:
        return ""
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return f"after epoch {trainer.current_epoch + 1}"
    return f"in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}"
