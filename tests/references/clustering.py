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


def closeness(a: list[float], b: list[float], metric: str = "cosine") -> float:
    """Cosine similarity, or minus the squared Euclidean distance."""
    return cosine(a, b) if metric == "cosine" else -math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def assign(rows: Tensor, centroids: Tensor, metric: str = "cosine") -> Tensor:
    """Index (N,) of the closest centroid; of equally close ones the lowest index."""
    centroid_list = centroids.double().tolist()
    labels = []
    for row in rows.double().tolist():
        best, highest = 0, -math.inf
        for index, centroid in enumerate(centroid_list):
            value = closeness(row, centroid, metric)
            if value > highest:
                best, highest = index, value
        labels.append(best)
    return torch.tensor(labels, dtype=torch.int64)


def objective(rows: Tensor, centroids: Tensor, metric: str = "cosine") -> float:
    """Mean cosine of the rows to their closest centroid, or mean squared distance from it."""
    values = [
        max(closeness(row, centroid, metric) for centroid in centroids.double().tolist())
        for row in rows.double().tolist()
    ]
    mean = math.fsum(values) / len(values)
    return mean if metric == "cosine" else -mean


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


def split_largest(rows: Tensor, labels: Tensor, clusters: int, metric: str) -> tuple[Tensor, int]:
    """Labels after every empty cluster, lowest index first, got half of the rows of the then largest; how many did.

    Of the largest cluster (the lowest index of equal ones) the row least close to the mean is found; the half of the
    members that is closest to this row, rounded down, moves.
    """
    values, found = rows.double().tolist(), labels.tolist()
    empty = [k for k in range(clusters) if k not in found]
    for cluster in empty:
        largest = max(range(clusters), key=lambda k: (found.count(k), -k))
        members = [n for n, label in enumerate(found) if label == largest]
        mean = [math.fsum(column) / len(members) for column in zip(*(values[n] for n in members), strict=True)]
        farthest = min(members, key=lambda n: closeness(values[n], mean, metric))
        order = sorted(members, key=lambda n: -closeness(values[n], values[farthest], metric))
        for n in order[: len(order) // 2]:
            found[n] = cluster
    return torch.tensor(found), len(empty)


def kmeans(
    rows: Tensor,
    centroids: Tensor,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    zero_empty: bool = True,
    metric: str = "cosine",
    reseed: bool = False,
) -> KMeansTrace:
    """Assignment and plain means until the summed squared move of the centroids is at most `tolerance`.

    `zero_empty=True` follows the released code: a cluster without members becomes the zero vector. With False it stays
    where it was. `reseed` splits the largest cluster instead, which `emptied` then counts.
    """
    centroids = centroids.double()
    moves: list[float] = []
    empties: list[int] = []
    labels = assign(rows, centroids, metric)
    for iteration in range(max_iterations):
        if iteration:
            labels = assign(rows, centroids, metric)
        split = 0
        if reseed:
            labels, split = split_largest(rows, labels, len(centroids), metric)
        updated, emptied = means(rows, labels, centroids, zero_empty)
        coordinates = zip(updated.flatten().tolist(), centroids.flatten().tolist(), strict=True)
        move = math.fsum((new - old) ** 2 for new, old in coordinates)
        centroids = updated
        moves.append(move)
        empties.append(emptied + split)
        if move <= tolerance:
            break
    return KMeansTrace(centroids, assign(rows, centroids, metric), labels, moves, empties)


def plus_plus(rows: Tensor, shares: list[float], metric: str) -> list[int]:
    """k-means++: numbers of K rows, drawn where the running sum of squared distances passes a share of its end.

    The distance is that from the nearest row drawn so far, for cosine between rows of length 1, where its square is
    twice 1 - cosine. The first row is drawn uniformly.
    """
    values = rows.double().tolist()
    weights = [1.0] * len(values)
    drawn: list[int] = []
    for share in shares:
        goal = share * math.fsum(weights)
        number, running = 0, weights[0]
        while running <= goal and number < len(weights) - 1:
            number += 1
            running += weights[number]
        drawn.append(number)
        for n, row in enumerate(values):
            value = closeness(row, values[number], metric)
            distance = max(0.0, 1 - value if metric == "cosine" else -value)
            weights[n] = distance if len(drawn) == 1 else min(weights[n], distance)
    return drawn


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
