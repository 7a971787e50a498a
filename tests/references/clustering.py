"""k-means and its queue with Python floats and lists, as in MCN (Chen et al. 2021, arXiv 2104.12671).

Letters: N rows, D width, K clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KMeansTrace:
    """What a run of `kmeans` did.

    centroids (K, D) float64; labels (N,) int64, nearest of these final centroids; last_assignment (N,) int64, the one
    whose means the centroids are; moves, the summed squared move of each iteration; emptied, how many clusters had no
    member in each iteration.
    """

    centroids: Tensor
    labels: Tensor
    last_assignment: Tensor
    moves: list[float]
    emptied: list[int]

    @property
    def iterations(self) -> int:
        return len(self.moves)


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine similarity of two vectors; 0 where either is the zero vector."""
    norm_a = math.sqrt(math.fsum(x * x for x in a))
    norm_b = math.sqrt(math.fsum(x * x for x in b))
    if norm_a == 0 or norm_b == 0:
        return 0.0
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / norm_a / norm_b


def assign(rows: Tensor, centroids: Tensor) -> Tensor:
    """Index (N,) of the centroid with the largest cosine; of equal ones the lowest index."""
    centroid_list = centroids.double().tolist()
    labels = []
    for row in rows.double().tolist():
        best, best_cosine = 0, -math.inf
        for index, centroid in enumerate(centroid_list):
            value = cosine(row, centroid)
            if value > best_cosine:
                best, best_cosine = index, value
        labels.append(best)
    return torch.tensor(labels, dtype=torch.int64)


def means(rows: Tensor, labels: Tensor, previous: Tensor, zero_empty: bool) -> tuple[Tensor, int]:
    """Plain mean (K, D) of each cluster's rows, and how many clusters were empty."""
    members: list[list[list[float]]] = [[] for _ in range(len(previous))]
    for row, label in zip(rows.double().tolist(), labels.tolist(), strict=True):
        members[label].append(row)
    result = []
    emptied = 0
    for old, cluster in zip(previous.double().tolist(), members, strict=True):
        if cluster:
            result.append([math.fsum(column) / len(cluster) for column in zip(*cluster, strict=True)])
        else:
            emptied += 1
            result.append([0.0] * len(old) if zero_empty else old)
    return torch.tensor(result, dtype=torch.float64), emptied


def kmeans(
    rows: Tensor, centroids: Tensor, max_iterations: int = 100, tolerance: float = 1e-4, zero_empty: bool = True
) -> KMeansTrace:
    """Cosine assignment and plain means until the summed squared move of the centroids is at most `tolerance`.

    `zero_empty=True` follows the released code: a cluster without members becomes the zero vector. With False it stays
    where it was. Neither re-seeds: compare with code that does on data where `emptied` is all 0.
    """
    centroids = centroids.double()
    moves: list[float] = []
    empties: list[int] = []
    labels = assign(rows, centroids)
    for iteration in range(max_iterations):
        if iteration:
            labels = assign(rows, centroids)
        updated, emptied = means(rows, labels, centroids, zero_empty)
        coordinates = zip(updated.flatten().tolist(), centroids.flatten().tolist(), strict=True)
        move = math.fsum((new - old) ** 2 for new, old in coordinates)
        centroids = updated
        moves.append(move)
        empties.append(emptied)
        if move <= tolerance:
            break
    return KMeansTrace(centroids, assign(rows, centroids), labels, moves, empties)


def push(queue: list[list[float]], rows: Tensor, size: int) -> list[list[float]]:
    """The queue after `rows` (n, D) came in: the last `size` rows, oldest first."""
    return (queue + rows.tolist())[-size:]


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft codes (B, K): exp(scores / epsilon) whose columns, then rows, are divided by their sums, again and again."""
    table = [[math.exp(value / epsilon) for value in row] for row in scores.double().tolist()]
    for _ in range(iterations):
        mass = [math.fsum(column) for column in zip(*table, strict=True)]
        table = [[value / total for value, total in zip(row, mass, strict=True)] for row in table]
        table = [[value / math.fsum(row) for value in row] for row in table]
    return torch.tensor(table, dtype=torch.float64)
