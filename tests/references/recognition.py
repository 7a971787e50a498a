"""Recognition measures by sorting in every order that ties allow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence


def hit_over_orders(values: Sequence[float], own: Sequence[bool], k: int) -> float:
    """Share of all ways to break ties in which an own candidate is among the first k: N! sorts, so N <= 6."""
    hits, orders = 0, list(itertools.permutations(range(len(values))))
    for order in orders:
        ranking = sorted(range(len(values)), key=lambda item: (-values[item], order[item]))
        hits += any(own[item] for item in ranking[:k])
    return hits / len(orders)


def summary(hits: Sequence[Sequence[float]], labels: Sequence[int], classes: int, ks: Sequence[int]) -> dict:
    """Means over clips and classes, in per cent; ``hits`` holds those at 1 and then at each k for each clip."""
    per_class = []
    for number in range(classes):
        mine = [row[0] for row, label in zip(hits, labels, strict=True) if label == number]
        per_class.append(100 * sum(mine) / len(mine) if mine else math.nan)
    present = [value for value in per_class if not math.isnan(value)]
    means = [100 * sum(row[1 + position] for row in hits) / len(hits) for position in range(len(ks))]
    return {f"top{k}": mean for k, mean in zip(ks, means, strict=True)} | {
        "per_class": per_class,
        "mean_class": sum(present) / len(present),
    }


def class_metrics(scores: Sequence[Sequence[float]], labels: Sequence[int], ks: Sequence[int]) -> dict:
    """Accuracy by classes sorted in every order."""
    hits = [
        [hit_over_orders(row, [number == label for number in range(len(row))], k) for k in (1, *ks)]
        for row, label in zip(scores, labels, strict=True)
    ]
    return summary(hits, labels, len(scores[0]), ks)


def neighbour_metrics(
    cosines: Sequence[Sequence[float]], labels: Sequence[int], train_labels: Sequence[int], ks: Sequence[int]
) -> dict:
    """Accuracy by training clips sorted in every order, from cosines (N, M)."""
    hits = [
        [hit_over_orders(row, [other == label for other in train_labels], k) for k in (1, *ks)]
        for row, label in zip(cosines, labels, strict=True)
    ]
    return summary(hits, labels, 1 + max(*labels, *train_labels), ks)
