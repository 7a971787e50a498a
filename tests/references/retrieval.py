"""Retrieval and cluster-quality measures by brute force."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence

from torch import Tensor


def scores(queries: Tensor, gallery: Tensor) -> list[list[float]]:
    """Dot products (N_q, N), correctly rounded sums of float64 products."""
    return [
        [math.fsum(a * b for a, b in zip(query, item, strict=True)) for item in gallery.double().tolist()]
        for query in queries.double().tolist()
    ]


def expected_rank(row: Sequence[float], target: int) -> float:
    """Number scored higher + 1 + half the number of other items scored the same."""
    higher = sum(1 for value in row if value > row[target])
    equal = sum(1 for index, value in enumerate(row) if value == row[target] and index != target)
    return higher + 1 + equal / 2


def expected_rank_over_orders(row: Sequence[float], target: int) -> float:
    """1-based position of the target averaged over every way to break ties: N! sorts, so N <= 7."""
    positions = []
    for tie_order in itertools.permutations(range(len(row))):
        ranking = sorted(range(len(row)), key=lambda item: (-row[item], tie_order[item]))
        positions.append(ranking.index(target) + 1)
    return sum(positions) / len(positions)


def expected_ranks(queries: Tensor, gallery: Tensor, targets: Sequence[int]) -> list[float]:
    """`expected_rank` of each query's target."""
    return [expected_rank(row, target) for row, target in zip(scores(queries, gallery), targets, strict=True)]


def query_density(gallery: Tensor, queries: Tensor, temperature: float) -> list[float]:
    """Inverted softmax over a bank of single queries: temperature * log(mean of exp(score / temperature))."""
    bank = scores(gallery, queries)
    return [temperature * math.log(math.fsum(math.exp(x / temperature) for x in row) / len(row)) for row in bank]


def recall_at(ranks: Sequence[float], k: int) -> float:
    """Fraction (0 to 1) of the queries whose expected rank is at most k."""
    return sum(1 for rank in ranks if rank <= k) / len(ranks)


def median_rank(ranks: Sequence[float]) -> float:
    """Middle rank; mean of the two middle ones for an even number."""
    ordered = sorted(ranks)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def entropy(labels: Sequence[Hashable]) -> float:
    """Shannon entropy of the label frequencies, in nats."""
    return -math.fsum(n / len(labels) * math.log(n / len(labels)) for n in Counter(labels).values())


def nmi(assignments: Sequence[int], labels: Sequence[int]) -> float:
    """Mutual information over the arithmetic mean of the two entropies; 0 where the mutual information is 0."""
    pairs = list(zip(assignments, labels, strict=True))
    information = 0.0
    for (cluster, label), count in Counter(pairs).items():
        joint = count / len(pairs)
        p_cluster = list(assignments).count(cluster) / len(pairs)
        p_label = list(labels).count(label) / len(pairs)
        information += joint * math.log(joint / (p_cluster * p_label))
    if information < 1e-12:
        return 0.0
    return information / ((entropy(assignments) + entropy(labels)) / 2)


def members(assignments: Sequence[int], labels: Sequence[int]) -> list[list[int]]:
    """The labels found in each non-empty cluster."""
    return [[y for a, y in zip(assignments, labels, strict=True) if a == c] for c in sorted(set(assignments))]


def purity(assignments: Sequence[int], labels: Sequence[int]) -> float:
    """Fraction of the items that carry their cluster's most frequent label."""
    return sum(max(Counter(found).values()) for found in members(assignments, labels)) / len(labels)


def mean_entropy(assignments: Sequence[int], labels: Sequence[int]) -> float:
    """Entropy in nats of the labels in a cluster, averaged over the non-empty clusters."""
    found = members(assignments, labels)
    return sum(entropy(cluster) for cluster in found) / len(found)


def adjusted_rand_index(assignments: Sequence[int], labels: Sequence[int]) -> float:
    """Hubert and Arabie 1985, counted over all pairs of items; 1 where both partitions are the same."""
    together_both = together_clusters = together_labels = pairs = 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        same_cluster, same_label = assignments[i] == assignments[j], labels[i] == labels[j]
        pairs += 1
        together_clusters += same_cluster
        together_labels += same_label
        together_both += same_cluster and same_label
    if together_both == together_clusters == together_labels:
        return 1.0
    chance = together_clusters * together_labels / pairs
    return (together_both - chance) / ((together_clusters + together_labels) / 2 - chance)
