"""k-means on held-out features, with as many clusters as known topics."""

from __future__ import annotations

import torch
from torch import Tensor

from mcn_lightning.clustering.kmeans import KMeans
from mcn_lightning.clustering.nearest import assign
from mcn_lightning.distributed import rank

RESTARTS = 4
"""Number of k-means runs with different seeds; the one with the best objective counts."""


def find_topics(features: Tensor, topics: int) -> Tensor:
    """Cluster held-out features into as many clusters as there are topics, and return the cluster of each ``(N,)``.

    It is k-means by cosine from k-means++ with fixed seeds. So embeddings can be compared whatever clustering they were
    trained with.

    Args:
        features: ``(N, D)``, the same on every process.
        topics: number of clusters.
    """
    best, found = -float("inf"), torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for start in range(RESTARTS):
        kmeans = KMeans(topics, init_method="kmeans++")
        own_rows = features if rank() == 0 else features[:0]  # one order of summation for any number of processes
        centroids, _, report = kmeans.fit(own_rows, generator=torch.Generator().manual_seed(start))
        if report.objective > best:
            best, found = report.objective, assign(features, centroids)
    return found
