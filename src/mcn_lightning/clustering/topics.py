"""Clusters of held-out features, as many as there are known topics."""

from __future__ import annotations

import torch
from torch import Tensor

from mcn_lightning.clustering.kmeans import KMeans, assign
from mcn_lightning.distributed import rank

RESTARTS = 4
"""Starts of the k-means that looks for the known topics; the one with the best objective counts."""


def find_topics(features: Tensor, topics: int) -> Tensor:
    """Cluster held-out features into as many clusters as there are topics, and return the cluster of each ``(N,)``.

    So embeddings are compared whatever they were trained with: k-means by cosine from k-means++ starts with seeds of
    their own.

    Args:
        features: ``(N, D)``, the same on every process.
        topics: number of clusters.
    """
    best, found = -float("inf"), torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for start in range(RESTARTS):
        kmeans = KMeans(topics, engine="torch", init_method="kmeans++")
        mine = features if rank() == 0 else features[:0]  # sums in one order, so that processes do not change them
        centroids, _, report = kmeans.fit(mine, generator=torch.Generator().manual_seed(start))
        if report.objective > best:
            best, found = report.objective, assign(features, centroids)
    return found
