"""k-means during training, with queue, centroids and counters as buffers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mcn_lightning.clustering.kmeans import KMeans, KMeansReport, check_row_count
from mcn_lightning.clustering.nearest import assign
from mcn_lightning.clustering.options import ClusteringConfig
from mcn_lightning.clustering.queue import FeatureQueue
from mcn_lightning.distributed import row_counts
from mcn_lightning.errors import InputError


class OnlineClustering(nn.Module):
    """k-means on the queue and the current batch, with all its state in buffers.

    With several processes each passes its own clips, and holds the queue or a share of it.

    Args:
        config: options of the clustering.
        dim: width D of the fused feature.

    Raises:
        InputError: if the queue has fewer rows than there are clusters.
    """

    centroids: Tensor
    sizes: Tensor
    ready: Tensor
    runs: Tensor
    reseeded: Tensor

    def __init__(self, config: ClusteringConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        # a smaller queue, once full, would replace its oldest rows and never hold K
        if 0 < config.queue_rows < config.num_clusters:
            wanted = f"at least {config.option}.num_clusters ({config.num_clusters}), or 0 for no queue"
            raise InputError(f"{config.option}.queue_rows: expected {wanted}, found {config.queue_rows}; raise it")
        self.queue = FeatureQueue(config.queue_rows, dim, getattr(torch, config.queue_dtype), config.queue_device)
        self.register_buffer("centroids", torch.zeros(config.num_clusters, dim))
        self.register_buffer("sizes", torch.zeros(len(self.centroids), dtype=torch.int64))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        # the seed of the next initial rows, so it must be in checkpoints
        self.register_buffer("runs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.int64))
        # a Python copy of the buffer: reading the buffer would wait for the GPU in each step
        self._ready = False
        self.kmeans = KMeans(
            config.num_clusters,
            config.max_iterations,
            config.tolerance,
            config.reseed_empty,
            metric=config.metric,
            init_method=config.init,
        )

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # the only read of the buffer: afterwards set_centroids keeps the copy equal
        self._ready = bool(self.ready)

    @property
    def has_centroids(self) -> bool:
        """Whether k-means has run: the buffer ``ready`` as a Python value, which needs no wait for the GPU."""
        return self._ready

    def cluster(
        self,
        features: Tensor,
        fresh: bool = False,
        generator: torch.Generator | None = None,
        batch_rows: int | None = None,
    ) -> KMeansReport | None:
        """Run k-means on ``[queue ; batch]``, or on the batch alone until the queue is full.

        Args:
            features: fused features ``(n, D)`` of this process's share of the global batch; n may be 0.
            fresh: start from new rows (by ``config.init``) instead of the previous centroids.
            generator: random generator for new rows, on process 0.
            batch_rows: rows B of the global batch; counted over the processes when ``None``.

        Returns:
            The report; ``None`` if the queue is not full and B is below K.

        Raises:
            InputError: if even the full queue and the batch have fewer than K rows.
        """
        batch = sum(row_counts(len(features), features.device)) if batch_rows is None else batch_rows
        clusters, most = self.config.num_clusters, self.config.queue_rows + batch
        advice = f"raise --model.clustering.queue_rows (now {self.config.queue_rows})"
        check_row_count(clusters, most, "rows of queue and batch", advice)
        if not self.queue.full and batch < clusters:
            return None
        init = self.centroids if self._ready and not fresh else None
        generator = self._generator() if generator is None else generator
        return self._apply_report(*self.kmeans.fit(self._rows(features), init, generator, features.device))

    def fit(self, rows: Sequence[Tensor], fresh: bool = False) -> KMeansReport:
        """Run k-means on given rows, for instance of a pass over the training set.

        Args:
            rows: this process's rows, in any number of tensors ``(n, D)``.
            fresh: start from new rows instead of the previous centroids.

        Returns:
            The report.

        Raises:
            InputError: if all processes together have fewer than K rows, or a value is not finite.
        """
        # rows of a whole pass take as much memory as a large queue, so they have its precision
        parts = [part.to(self.queue.data.dtype) for part in rows]
        total = sum(row_counts(sum(map(len, parts)), self.centroids.device))
        check_row_count(self.config.num_clusters, total, "clips embedded", "raise --centroids.share")
        init = self.centroids if self._ready and not fresh else None
        most = max(row_counts(len(parts), self.centroids.device))  # as many tensors on every process
        parts += [self.queue.data[:0]] * (most - len(parts))
        return self._apply_report(*self.kmeans.fit(parts, init, self._generator(), self.centroids.device))

    def _generator(self) -> torch.Generator:
        """Return the generator for initial rows. It is the same for any number of processes and after resuming."""
        # on the CPU: generators of a GPU give other numbers
        return torch.Generator().manual_seed(int(self.runs))

    def _apply_report(self, centroids: Tensor, labels: Tensor, report: KMeansReport) -> KMeansReport:
        self.set_centroids(centroids, report.counts)
        self.runs += 1
        self.reseeded += report.reseeded
        return report

    def _rows(self, features: Tensor) -> list[Tensor]:
        """Return this process's shares of the queue and of the batch, so that no row is counted twice."""
        # a queue of size 0 counts as full
        return [self.queue.share(), features] if self.queue.full and self.queue.rows else [features]

    @torch.no_grad()
    def set_centroids(self, centroids: Tensor, sizes: Tensor | None = None) -> None:
        """Set centroids ``(K, D)`` and the rows of each ``(K,)``; by default all have the same number of rows."""
        self.centroids.copy_(centroids)
        self.sizes.copy_(torch.ones_like(self.sizes) if sizes is None else sizes)
        self.ready.fill_(True)
        self._ready = True

    def labels(self, mean: Tensor) -> Tensor:
        """Return the nearest centroid ``(B,)`` int64 of fused features ``(B, D)``.

        Raises:
            RuntimeError: if k-means has not run yet.
        """
        if not self._ready:
            raise RuntimeError("there are no centroids yet: ask has_centroids first, or call cluster")
        return assign(mean.detach(), self.centroids, metric=self.config.metric)

    def push(
        self, mean: Tensor, clips_per_video: int, counts: Sequence[int] | None = None, kept: Tensor | None = None
    ) -> None:
        """Push the first clips of each video to the queue, for all processes in the order of ranks.

        Args:
            mean: fused features ``(n, D)`` of this process's clips; the clips of a video are adjacent.
            clips_per_video: clips of each video; n is a multiple of it.
            counts: clips of each process from ``distributed.row_counts``; ``None`` for this process alone.
            kept: clips that have the feature, ``(n,)`` bool on the CPU; only these are pushed. ``None`` for all.

        Raises:
            ValueError: if n is no multiple of ``clips_per_video``.
        """
        if len(mean) % clips_per_video:
            raise ValueError(f"expected a multiple of {clips_per_video} clips to push, found {len(mean)}")
        # 1e-9: a product that exceeds an integer by rounding alone must not be rounded up
        first = math.ceil(clips_per_video * self.config.queue_share - 1e-9)
        if kept is not None:
            chosen = (kept & (torch.arange(len(mean)) % clips_per_video < first)).nonzero()[:, 0]
            rows = mean.detach()[chosen.to(mean.device)]
            self.queue.push(rows, None if counts is None else row_counts(len(rows), rows.device))
            return
        rows = mean.detach().reshape(-1, clips_per_video, mean.shape[1])[:, :first].flatten(0, 1)
        if counts is not None:  # a process without clips does not know how many a video has
            known = 0 not in counts
            counts = [count // clips_per_video * first for count in counts] if known else None
            counts = row_counts(len(rows), rows.device) if counts is None else counts
        self.queue.push(rows, counts)
