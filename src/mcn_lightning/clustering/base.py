"""The base class of clusterings: from the embeddings of a batch to prototypes and the codes to predict."""

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
"""Name of the fused feature, the mean of the embeddings."""


class Target(NamedTuple):
    """The target of one feature in the clustering loss.

    Args:
        prototypes: of the clusters, ``(K, D)``.
        codes: cluster of each clip ``(B,)`` int64, or its distribution over the clusters ``(B, K)``.
        cosine: whether the loss always uses cosine similarity, whatever its options are.
        some: the clips that have a target, to which the codes belong; ``None`` for all.
    """

    prototypes: Tensor
    codes: Tensor
    cosine: bool = False
    some: Subset | None = None


@dataclass(frozen=True)
class Step:
    """Information about the clips of a step, besides their features.

    Args:
        counts: clips of each process; ``None`` for this process alone.
        present: which clips have which embeddings; ``None`` if all have all.
        clips_per_video: number of adjacent clips of each video.
    """

    counts: Sequence[int] | None = None
    present: Presence | None = None
    clips_per_video: int = 1

    def having(self, name: str) -> Subset | None:
        """Return the clips that have a feature, ``mean`` or an embedding; ``None`` for all."""
        if self.present is None:
            return None
        # the mean is over the embeddings that a clip has, so one is enough
        return self.present.having_any() if name == MEAN else self.present.having(name)


ALL_PRESENT = Step()
"""A step of one process whose clips have all embeddings."""


def present_rows(feature: Tensor, some: Subset | None) -> Tensor:
    """Return the rows ``(m, D)`` of the clips that have a feature ``(n, D)``."""
    return feature if some is None else feature[some.rows]


def mask_absent(labels: Tensor, present: Mapping[str, Tensor] | None, name: str) -> Tensor:
    """Return labels ``(B,)``, -1 for clips without the feature."""
    if present is None:
        return labels
    # -1: metrics and losses leave negative labels out
    return labels.masked_fill(~present[name].to(labels.device, non_blocking=True), -1)


class Clustering(nn.Module, ABC):
    """Clusters of clips with prototypes that attract the embeddings.

    A custom clustering derives from this class and implements ``targets`` and ``assignments``. All its state must be
    buffers and parameters made in ``__init__``. Then checkpoints hold it, and a resumed run is the same run.

    Features are float32 embeddings ``(n, D)`` of this process's clips by name (``video``, ``audio``, ``text``, or
    ``audio_text``) and their mean, ``mean``, without gradient. A feature that no clip has may be missing. Rows of clips
    that lack a feature are zeros, and ``step.having(name)`` returns the clips that have it.

    A training step calls ``cluster`` if it is due, then ``targets``, then ``push``. With several processes all call
    each method together. Every process must get the same prototypes: use ``distributed.sum_all`` or ``gather_rows``.

    Args:
        config: number of clusters, queue and constants. Arguments from ``init_args`` follow by name.
        dim: width D of the embeddings.
        names: names of the embeddings.
    """

    runs_kmeans: ClassVar[bool] = False
    """Whether the callback ``CentroidUpdate`` requests ``cluster`` every n steps, or ``fit`` every n epochs."""

    def __init__(self, config: ClusteringConfig, dim: int, names: Sequence[str]) -> None:
        super().__init__()
        self.config, self.dim, self.names = config, dim, tuple(names)

    @classmethod
    def queue_bytes(cls, config: ClusteringConfig, dim: int, names: Sequence[str]) -> int:
        """Return the bytes of the queue that such a clustering keeps."""
        return 0

    @property
    def has_centroids(self) -> bool:
        """Whether clusters have been found."""
        return True

    @property
    def queue_rows(self) -> int:
        """Rows of the queue that must be full before the first k-means; 0 without a queue."""
        return 0

    @abstractmethod
    def targets(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> dict[str, Target]:
        """Return the target of each feature. A feature without a target is not in the clustering loss.

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
        self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT, fresh: bool = False
    ) -> dict[str, KMeansReport]:
        """Find new clusters in a queue and the batch, if ``runs_kmeans``.

        Args:
            features: see the class.
            step: processes, and clips that lack a modality.
            fresh: start from random rows instead of the current centroids.

        Returns:
            A report for each feature that was clustered. If it is empty, as there were too few clips, the next step
            tries again.
        """
        return {}

    def fit(self, rows: Mapping[str, Sequence[Tensor]], fresh: bool = False) -> dict[str, KMeansReport]:
        """Find new clusters in the rows of a pass over the training set, if ``runs_kmeans``.

        Args:
            rows: this process's rows of each feature, in any number of tensors ``(n, D)``.
            fresh: start from random rows instead of the current centroids.
        """
        return {}

    def push(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> None:
        """Add the clips of a step to the state, such as a queue or a moving average, after their targets are found."""

    def clusters(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the centroids ``(K, D)`` of a modality and the rows of each ``(K,)`` int64, if there are any."""
        return None

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return the centroids that ``predict`` saves, ``(K, D)`` by name."""
        return {}
