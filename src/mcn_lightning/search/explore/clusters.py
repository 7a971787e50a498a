"""The page of clusters: what each cluster holds, how far modalities agree in it, and which clips lie between two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.search.vectors import Vectors

SAMPLE = 100_000
"""Clips that are compared with the clusters, at most."""
CHUNK = 4_096
NEAREST, BETWEEN = 6, 6
"""Clips of each kind that the page shows for a cluster."""
MODALITIES = ("video", "audio", "text")


@dataclass(frozen=True)
class Cluster:
    """What the page shows of a cluster.

    Args:
        agreement: share of its clips with several modalities whose modalities are all nearest to one cluster; ``None``
            without such clips.
        nearest: rows of the clips nearest to its centroid.
        between: rows and the other cluster of the clips that are about as near to another cluster.
    """

    agreement: float | None
    nearest: list[int]
    between: list[tuple[int, int]]


def describe_clusters(vectors: Vectors, codes: np.ndarray, nearest: int = NEAREST) -> dict[int, Cluster]:
    """Compare clips with the clusters of an index.

    The centroid of a cluster is the mean of its clips' joint embeddings, scaled to length 1. The joint embedding is the
    sum of the modalities, each scaled to length 1. A modality falls into the cluster with the nearest centroid by
    cosine. Above 100,000 clips, a sample at equal distances stands for all.

    Args:
        vectors: the embeddings.
        codes: cluster of each clip ``(N,)``; -1 for none.
        nearest: clips nearest to the centroid of each cluster.

    Returns:
        What the page shows, by cluster.
    """
    rows = np.flatnonzero(codes >= 0)
    if len(rows) > SAMPLE:
        rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
    if len(rows) == 0:
        return {}
    names = [name for name in MODALITIES if name in vectors.names]
    groups, inverse = np.unique(codes[rows], return_inverse=True)
    own = torch.from_numpy(inverse.astype(np.int64))
    centroids = _centroids(vectors, names, rows, own, len(groups))
    agreeing, scores = [], []
    for first in range(0, len(rows), CHUNK):
        parts = _parts(vectors, names, rows[first : first + CHUNK])
        agreeing.append(_agreement(parts, centroids))
        scores.append(F.normalize(sum(parts, torch.zeros(1)), dim=1) @ centroids.T)
    return _describe(groups, rows, own, torch.cat(agreeing), torch.cat(scores), nearest)


def _parts(vectors: Vectors, names: list[str], rows: np.ndarray) -> list[Tensor]:
    """Return each modality of some clips, ``(n, D)`` of length 1, or 0 where a clip lacks it."""
    return [F.normalize(vectors.rows([name], rows), dim=1) for name in names]


def _centroids(vectors: Vectors, names: list[str], rows: np.ndarray, own: Tensor, count: int) -> Tensor:
    total = torch.zeros(count, vectors.width)
    for first in range(0, len(rows), CHUNK):
        parts = _parts(vectors, names, rows[first : first + CHUNK])
        total.index_add_(0, own[first : first + CHUNK], F.normalize(sum(parts, torch.zeros(1)), dim=1))
    return F.normalize(total, dim=1)


def _agreement(parts: list[Tensor], centroids: Tensor) -> Tensor:
    """Return 1 where all modalities of a clip are nearest to one cluster, 0 where not, -1 for a single modality."""
    there = torch.stack([part.any(dim=1) for part in parts])
    nearest = torch.stack([(part @ centroids.T).argmax(dim=1) for part in parts])
    # equal lowest and highest numbers: all modalities that are there agree
    low = nearest.masked_fill(~there, len(centroids)).amin(dim=0)
    high = nearest.masked_fill(~there, -1).amax(dim=0)
    return torch.where(there.sum(dim=0) > 1, (low == high).long(), -1)


def _describe(
    groups: np.ndarray, rows: np.ndarray, own: Tensor, agreeing: Tensor, scores: Tensor, count: int
) -> dict[int, Cluster]:
    best = scores.topk(min(2, len(groups)), dim=1)
    margin = best.values[:, 0] - best.values[:, -1]
    found = {}
    for number, group in enumerate(groups.tolist()):
        mine = (own == number).nonzero()[:, 0]
        judged = agreeing[mine][agreeing[mine] >= 0]
        nearest = mine[scores[mine, number].argsort(descending=True, stable=True)[:count]]
        close = mine[margin[mine].argsort(stable=True)[:BETWEEN]] if len(groups) > 1 else mine[:0]
        others = [next(each for each in pair if each != number) for pair in best.indices[close].tolist()]
        found[group] = Cluster(
            float(judged.float().mean()) if len(judged) else None,
            [int(rows[place]) for place in nearest.tolist()],
            [(int(rows[place]), int(groups[other])) for place, other in zip(close.tolist(), others, strict=True)],
        )
    return found
