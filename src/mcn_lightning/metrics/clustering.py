"""Metrics of cluster assignments against known labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.clustering import normalized_mutual_info_score

from mcn_lightning.metrics.checks import check_arrays
from mcn_lightning.metrics.items import concatenated, first_of_each, gather_rows, hash_ids


def _contingency(assignments: Tensor, labels: Tensor) -> Tensor:
    """Return the number of items of each label in each non-empty cluster, ``(clusters, labels)`` float64 on the CPU."""
    check_arrays(assignments=(assignments, "(B,)"), labels=(labels, "(B,)"))
    from sklearn.metrics.cluster import contingency_matrix  # imported here, as it takes a quarter of a second

    return torch.from_numpy(contingency_matrix(assignments.cpu().numpy(), labels.cpu().numpy())).double()


def purity(assignments: Tensor, labels: Tensor) -> Tensor:
    """Return the share of items that have the most frequent label of their cluster.

    Args:
        assignments: cluster of each item, ``(B,)`` int64.
        labels: known label of each item, ``(B,)`` int64.

    Returns:
        0 to 1, 0-d float64.

    Raises:
        ValueError: if the lengths differ or there is no item.
    """
    table = _contingency(assignments, labels)
    return table.max(dim=1).values.sum() / table.sum()


def mean_entropy(assignments: Tensor, labels: Tensor) -> Tensor:
    """Return the entropy of the labels in a cluster, averaged over the non-empty clusters with equal weight.

    Args:
        assignments: cluster of each item, ``(B,)`` int64.
        labels: known label of each item, ``(B,)`` int64.

    Returns:
        In nats, 0 where every cluster holds one label; 0-d float64.

    Raises:
        ValueError: if the lengths differ or there is no item.
    """
    table = _contingency(assignments, labels)
    return torch.special.entr(table / table.sum(dim=1, keepdim=True)).sum(dim=1).mean()


def adjusted_rand_index(assignments: Tensor, labels: Tensor) -> Tensor:
    """Return the agreement of two partitions over pairs of items, corrected for chance (Hubert and Arabie 1985).

    It uses scikit-learn, as the function of torchmetrics overflows from about 50,000 items.

    Args:
        assignments: cluster of each item, ``(B,)`` int64.
        labels: known label of each item, ``(B,)`` int64.

    Returns:
        1 for the same partition, about 0 for independent ones; 0-d float64.

    Raises:
        ValueError: if the lengths differ or there is no item.
    """
    check_arrays(assignments=(assignments, "(B,)"), labels=(labels, "(B,)"))
    from sklearn.metrics import adjusted_rand_score

    return torch.tensor(adjusted_rand_score(labels.cpu().numpy(), assignments.cpu().numpy()), dtype=torch.float64)


def _nmi(assignments: Tensor, labels: Tensor) -> Tensor:
    # torchmetrics builds a sparse table, and torch warns unless the check of sparse tensors is set explicitly
    with torch.sparse.check_sparse_tensor_invariants():
        return normalized_mutual_info_score(assignments, labels, average_method="arithmetic")


CLUSTER_METRICS = {
    "nmi": _nmi,
    "adjusted_rand_index": adjusted_rand_index,
    "purity": purity,
    "mean_entropy": mean_entropy,
}
"""The metrics of ``cluster_quality`` by name."""


def cluster_quality(assignments: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Compute all metrics of cluster assignments against known labels.

    Args:
        assignments: cluster of each item, ``(B,)`` int64.
        labels: known label of each item, ``(B,)`` int64.

    Returns:
        0-d float32 tensors on the CPU: ``nmi``, mutual information over the arithmetic mean of the entropies;
        ``adjusted_rand_index``; ``purity``; ``mean_entropy`` in nats.

    Raises:
        ValueError: if the lengths differ or there is no item.
    """
    # once for all metrics, which scikit-learn computes on the CPU
    assignments, labels = assignments.cpu(), labels.cpu()
    return {name: metric(assignments, labels).float() for name, metric in CLUSTER_METRICS.items()}


class ClusterQuality(Metric):
    """Metrics of cluster assignments against known labels over all items seen, each id once.

    Args:
        **kwargs: of ``torchmetrics.Metric``.
    """

    full_state_update = False
    is_differentiable = False

    ids: list[Tensor]
    assignments: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        # lists of rows, gathered over processes at the end: an item may be seen by two of them
        self.add_state("ids", default=[], dist_reduce_fx="cat")
        self.add_state("assignments", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, ids: Sequence[str], assignments: Tensor, labels: Tensor) -> None:
        """Add items.

        Args:
            ids: B names.
            assignments: cluster of each item, ``(B,)``, integers.
            labels: known label of each item, ``(B,)``, integers.

        Raises:
            ValueError: if the shapes do not fit or the tensors hold no integers.
        """
        forms = {"assignments": (assignments, "(B,) integers"), "labels": (labels, "(B,) integers")}
        check_arrays(True, ids=(ids, "(B,)"), **forms)
        self.ids.append(hash_ids(ids, labels.device))
        self.assignments.append(assignments.detach().long())
        self.labels.append(labels.detach().long())

    def compute(self) -> dict[str, Tensor]:
        """Return the result of ``cluster_quality``.

        Raises:
            ValueError: without any item.
        """
        once = first_of_each(concatenated(self.ids, "ClusterQuality"))
        assignments, labels = (concatenated(rows, "ClusterQuality")[once] for rows in (self.assignments, self.labels))
        return cluster_quality(assignments, labels)


class LabelledFeatures(Metric):
    """Features and labels of all items, each id once, gathered from every process.

    ``compute`` returns features ``(N, D)`` and labels ``(N,)``. Their order does not depend on batches and processes,
    so that a clustering of them does not either.
    """

    full_state_update = False
    is_differentiable = False

    ids: list[Tensor]
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        for name in ("ids", "features", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, ids: Sequence[str], features: Tensor, labels: Tensor) -> None:
        """Add items.

        Args:
            ids: B names.
            features: ``(B, D)``.
            labels: known label of each item, ``(B,)``, integers.

        Raises:
            ValueError: if the numbers of rows differ.
        """
        check_arrays(True, ids=(ids, "(B,)"), features=(features, "(B, D)"), labels=(labels, "(B,)"))
        self.ids.append(hash_ids(ids, labels.device))
        # one type on all processes, whatever autocast gave
        self.features.append(features.detach().float())
        self.labels.append(labels.detach().long())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the features and the labels.

        Raises:
            ValueError: without any item.
        """
        once = first_of_each(concatenated(self.ids, "LabelledFeatures"))
        features, labels = (concatenated(rows, "LabelledFeatures") for rows in (self.features, self.labels))
        return features[once], labels[once]
