"""The built-in clusterings by name."""

from __future__ import annotations

from collections.abc import Sequence

from mcn_lightning.clustering.base import Clustering
from mcn_lightning.clustering.centroids import KMeansJoint, KMeansOfMean, KMeansPerModality
from mcn_lightning.clustering.options import ClusteringConfig
from mcn_lightning.clustering.prototypes import Sinkhorn, SinkhornHard, SinkhornSwapped, SinkhornSwappedHard

KINDS: dict[str, type[Clustering]] = {
    "kmeans": KMeansOfMean,
    "kmeans_joint": KMeansJoint,
    "kmeans_per_modality": KMeansPerModality,
    "sinkhorn": Sinkhorn,
    "sinkhorn_hard": SinkhornHard,
    "sinkhorn_swapped": SinkhornSwapped,
    "sinkhorn_swapped_hard": SinkhornSwappedHard,
}
"""The class of each kind except none."""


def clustering_class(config: ClusteringConfig) -> type[Clustering] | None:
    """Return the class of a clustering; ``None`` for the kind none.

    Args:
        config: options with the kind, or the path of a custom class.

    Raises:
        InputError: if a custom class cannot be imported.
    """
    return config.find(Clustering, KINDS.get(config.kind))


def make_clustering(config: ClusteringConfig, dim: int, names: Sequence[str]) -> Clustering | None:
    """Make the clustering that the options name; ``None`` for the kind none.

    Args:
        config: options with the kind, or the path of a custom class.
        dim: width D of the embeddings.
        names: names of the embeddings.

    Raises:
        InputError: if a custom class cannot be imported or made.
    """
    found = clustering_class(config)
    return None if found is None else config.make(found, config=config, dim=dim, names=names)
