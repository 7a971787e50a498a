"""Clustering while training: queue, centroids and counters of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mcn_lightning.clustering.kmeans import KMeans, KMeansReport, assign
from mcn_lightning.clustering.queue import FeatureQueue

KINDS = (
    "kmeans",
    "kmeans_joint",
    "kmeans_per_modality",
    "sinkhorn",
    "sinkhorn_hard",
    "sinkhorn_swapped",
    "sinkhorn_swapped_hard",
    "none",
)


@dataclass(frozen=True)
class ClusteringConfig:
    """How clips are clustered in training; the defaults are the released recipe but for what is noted.

    Args:
        kind: kmeans (each modality is drawn to centroids of the mean), kmeans_joint (the mean is), kmeans_per_modality
            (each to centroids of its own), sinkhorn (each predicts the mean's code over learned prototypes),
            sinkhorn_swapped (each predicts the others' codes), both with soft codes or, ending in _hard, hard ones; or
            none.
        num_clusters: clusters K.
        queue_rows: fused features, one a row, of past steps that are clustered with the batch (20 steps of 128 videos
            of 16 clips); 0 for none.
        queue_share: share of each video's clips that is pushed to the queue, rounded up.
        max_iterations: rounds of k-means at most.
        tolerance: k-means stops when the squared moves of its centroids sum to this or less.
        engine: torch, faiss (of use on a CPU only: on a GPU torch is taken), or auto (faiss where it is of use).
        reseed_empty: split the largest cluster when one is empty (released: no, it becomes the zero vector).
        restart_each_epoch: start from random rows at every epoch (released: yes).
        epsilon: sinkhorn only: the smaller, the harder the codes.
        sinkhorn_iterations: sinkhorn only: rounds of normalising.
    """

    kind: Literal[
        "kmeans",
        "kmeans_joint",
        "kmeans_per_modality",
        "sinkhorn",
        "sinkhorn_hard",
        "sinkhorn_swapped",
        "sinkhorn_swapped_hard",
        "none",
    ] = "kmeans"
    num_clusters: int = 256
    queue_rows: int = 40960
    queue_share: float = 0.5
    max_iterations: int = 100
    tolerance: float = 1e-4
    engine: Literal["auto", "torch", "faiss"] = "auto"
    reseed_empty: bool = True
    restart_each_epoch: bool = False
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3

    def __post_init__(self) -> None:
        flag = "--model.clustering"
        for name, choices in (("kind", KINDS), ("engine", ("auto", "torch", "faiss"))):
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise ValueError(f"{flag}.{name}: expected one of {', '.join(choices)}, found {found!r}; choose one")
        if not self.epsilon > 0:
            raise ValueError(f"{flag}.epsilon: expected more than 0, found {self.epsilon}; 0.05 is usual")
        least_of = {"num_clusters": 1, "queue_rows": 0, "max_iterations": 1, "tolerance": 0, "sinkhorn_iterations": 1}
        for name, least in least_of.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{flag}.{name}: expected at least {least}, found {getattr(self, name)}; raise it")
        if not 0 < self.queue_share <= 1:
            raise ValueError(
                f"{flag}.queue_share: expected a share in (0, 1], found {self.queue_share}; "
                f"set {flag}.queue_rows to 0 for no queue"
            )


class OnlineClustering(nn.Module):
    """k-means on the queue and the current batch, with all its state in buffers.

    Args:
        config: how to cluster.
        dim: width D of the fused feature.
    """

    centroids: Tensor
    ready: Tensor
    runs: Tensor
    reseeded: Tensor

    def __init__(self, config: ClusteringConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        active = config.kind != "none"
        self.queue = FeatureQueue(config.queue_rows if active else 0, dim)
        self.register_buffer("centroids", torch.zeros(config.num_clusters if active else 0, dim))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        self.register_buffer("runs", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.int64))
        self._ready = False
        self.kmeans = KMeans(
            config.num_clusters, config.max_iterations, config.tolerance, config.engine, config.reseed_empty
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = bool(self.ready)

    @property
    def has_centroids(self) -> bool:
        """Whether k-means ran: the buffer ``ready`` as a Python value, read without waiting for the GPU."""
        return self._ready

    def cluster(
        self, mean: Tensor, fresh: bool = False, generator: torch.Generator | None = None
    ) -> KMeansReport | None:
        """Run k-means on ``[queue ; batch]`` once the queue is full, on the batch alone before.

        Args:
            mean: fused features ``(B, D)`` of the global batch.
            fresh: start from random rows and not from the previous centroids.
            generator: source of the random rows.

        Returns:
            The report; ``None`` for the kind none, or as long as the queue is not full and B is below K.

        Raises:
            ValueError: if even the full queue and the batch have fewer than K rows.
        """
        if self.config.kind == "none":
            return None
        clusters, most = self.config.num_clusters, self.config.queue_rows + len(mean)
        if most < clusters:
            raise ValueError(
                f"--model.clustering.num_clusters: expected at most the {most} rows of queue and batch, found "
                f"{clusters}; lower it or raise --model.clustering.queue_rows (now {self.config.queue_rows})"
            )
        if not self.queue.full and len(mean) < clusters:
            return None
        rows = mean.detach().float()
        if self.queue.full and self.queue.rows:
            rows = torch.cat([self.queue.contents().to(rows), rows])
        init = self.centroids if self._ready and not fresh else None
        centroids, _, report = self.kmeans.fit(rows, init, generator)
        self.set_centroids(centroids)
        self.runs += 1
        self.reseeded += report.reseeded
        return report

    @torch.no_grad()
    def set_centroids(self, centroids: Tensor) -> None:
        """Take centroids ``(K, D)`` made elsewhere (on another process, say)."""
        self.centroids.copy_(centroids)
        self.ready.fill_(True)
        self._ready = True

    def labels(self, mean: Tensor) -> Tensor:
        """Return the nearest centroid by cosine ``(B,)`` int64 of fused features ``(B, D)``.

        Raises:
            RuntimeError: if no k-means ran yet.
        """
        if not self._ready:
            raise RuntimeError("there are no centroids yet: ask has_centroids first, or call cluster")
        return assign(mean.detach(), self.centroids)

    def push(self, mean: Tensor, clips_per_video: int) -> None:
        """Push the first clips of each video to the queue.

        Args:
            mean: fused features ``(B, D)``, the clips of a video next to each other.
            clips_per_video: clips n of each video; B is a multiple of it.

        Raises:
            ValueError: if B is no multiple of ``clips_per_video``.
        """
        if len(mean) % clips_per_video:
            raise ValueError(f"expected a multiple of {clips_per_video} clips to push, found {len(mean)}")
        # 1e-9: a product that is whole but for rounding is not rounded up once more
        first = math.ceil(clips_per_video * self.config.queue_share - 1e-9)
        self.queue.push(mean.detach().reshape(-1, clips_per_video, mean.shape[1])[:, :first].flatten(0, 1))
