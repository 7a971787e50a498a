"""The base class of clusterings: embeddings of a batch in, prototypes and codes to predict out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from mcn_lightning.clustering.kmeans import KMeansReport
from mcn_lightning.clustering.options import ClusteringConfig
from mcn_lightning.distributed import Presence, Subset

MEAN = "mean"
"""Name of the fused feature among the embeddings."""


class Target(NamedTuple):
    """What one feature should predict.

    Args:
        prototypes: of the clusters, ``(K, D)``.
        codes: cluster of each clip ``(B,)`` int64, or its distribution over the clusters ``(B, K)``.
        cosine: whether the prediction is by cosine similarity, whatever the options of the loss say.
        some: the clips that should predict, whose codes these are; ``None`` for all.
    """

    prototypes: Tensor
    codes: Tensor
    cosine: bool = False
    some: Subset | None = None


@dataclass(frozen=True)
class Step:
    """What is known of the clips of a step beside their features.

    Args:
        counts: clips of every process; ``None`` for those of this process alone.
        present: which clips have which embeddings; ``None`` where all have all.
        clips_per_video: clips of each video, which lie next to each other.
    """

    counts: Sequence[int] | None = None
    present: Presence | None = None
    clips_per_video: int = 1

    def having(self, name: str) -> Subset | None:
        """Return the clips that have a feature, ``mean`` or an embedding; ``None`` for all."""
        if self.present is None:
            return None
        return self.present.having_any() if name == MEAN else self.present.having(name)


EVERY = Step()
"""A step of one process whose clips have all embeddings."""


def rows_of(feature: Tensor, some: Subset | None) -> Tensor:
    """Return the rows ``(m, D)`` of the clips that have a feature ``(n, D)``."""
    return feature if some is None else feature[some.rows]


def or_none(labels: Tensor, present: Mapping[str, Tensor] | None, name: str) -> Tensor:
    """Return labels ``(B,)``, -1 for clips without the feature."""
    if present is None:
        return labels
    return labels.masked_fill(~present[name].to(labels.device, non_blocking=True), -1)


class Clustering(nn.Module, ABC):
    """Clusters of clips, whose prototypes the embeddings should predict.

    A clustering of one's own derives from this class and writes ``targets`` and ``assignments``. All its state is
    buffers and parameters that ``__init__`` makes: then checkpoints hold it, and a resumed run is the same run.

    Features are float32 embeddings ``(n, D)`` of this process's clips by name (``video``, ``audio``, ``text``, or
    ``audio_text``) and their mean, ``mean``, without gradient. A feature that no clip has may be missing; the rows of
    clips that lack one are zeros, and ``step.having(name)`` says which clips have it. A training step calls
    ``cluster`` if it is due, then ``targets``, then ``push``. On several processes all call each method together, and
    every process must come to the same prototypes: sum with ``distributed.sum_all``, or gather with ``gather_rows``.

    Args:
        config: number of clusters, queue and constants; own arguments follow by name and come from ``init_args``.
        dim: width D of the embeddings.
        names: names of the embeddings.
    """

    runs_kmeans: ClassVar[bool] = False
    """Whether the callback ``CentroidUpdate`` asks for ``cluster`` every n steps, or for ``fit`` every n epochs."""

    def __init__(self, config: ClusteringConfig, dim: int, names: Sequence[str]) -> None:
        super().__init__()
        self.config, self.dim, self.names = config, dim, tuple(names)

    @classmethod
    def queue_bytes(cls, config: ClusteringConfig, dim: int, names: Sequence[str]) -> int:
        """Return the bytes of the queue that such a clustering keeps."""
        return 0

    @property
    def has_centroids(self) -> bool:
        """Whether there are clusters yet."""
        return True

    @property
    def queue_rows(self) -> int:
        """Rows of the queue that is to be full before the first k-means; 0 for no queue."""
        return 0

    @abstractmethod
    def targets(self, features: Mapping[str, Tensor], step: Step = EVERY) -> dict[str, Target]:
        """Return what each feature should predict; features that are left out predict no cluster.

        Args:
            features: see the class.
            step: processes, and clips that lack a modality.
        """

    @abstractmethod
    def assignments(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64; ``None`` while there are no clusters.

        Args:
            features: see the class.
            present: which clips have each feature, ``(B,)`` bool by name; the cluster of the others is -1.
        """

    def cluster(
        self, features: Mapping[str, Tensor], step: Step = EVERY, fresh: bool = False
    ) -> dict[str, KMeansReport]:
        """Find the clusters anew from a queue and the batch, where ``runs_kmeans``.

        Args:
            features: see the class.
            step: processes, and clips that lack a modality.
            fresh: start anew and not from the present centroids.

        Returns:
            A report for each feature that was clustered; empty where there were too few clips, and the next step tries.
        """
        return {}

    def fit(self, rows: Mapping[str, Sequence[Tensor]], fresh: bool = False) -> dict[str, KMeansReport]:
        """Find the clusters anew from rows of a pass over the training set, where ``runs_kmeans``.

        Args:
            rows: this process's rows of each feature, in any number of tensors ``(n, D)``.
            fresh: start anew and not from the present centroids.
        """
        return {}

    def push(self, features: Mapping[str, Tensor], step: Step = EVERY) -> None:
        """Take in the clips of a step, once their targets are known: a queue, or a moving average."""

    def clusters(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return centroids ``(K, D)`` near which embeddings of a modality lie, and the rows of each ``(K,)`` int64."""
        return None

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return what the writer of embeddings saves beside them, ``(K, D)`` by name."""
        return {}
