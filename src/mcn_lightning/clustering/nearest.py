"""The nearest centroid of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "euclidean"]
Nearest = Callable[[Tensor], tuple[Tensor, Tensor]]
TILE = 1024
"""Rows that one thread compares at a time, so that their products stay in its cache."""
NearestAt = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""The same, given the places of the rows among all rows too."""


def factors(centroids: Tensor, metric: Metric) -> tuple[Tensor, Tensor | None]:
    """Return factors ``(K, D)`` and addends ``(K,)``: of ``rows @ factors.T + addends`` the nearest has the largest.

    For cosine the factors are the centroids at length 1, without addends. Rows need not have length 1, which scales all
    products of a row alike. For squared distances the square of the row is left out, as it is the same for all.
    """
    if metric == "cosine":
        return F.normalize(centroids, dim=1), None
    return centroids, -0.5 * centroids.square().sum(dim=1)


def torch_nearest(centroids: Tensor, metric: Metric) -> Nearest:
    """Return a function from rows ``(n, D)`` to the largest product ``(n,)`` and the nearest centroid's index ``(n,)``.

    The products are those of ``factors``.
    """
    targets, addends = factors(centroids, metric)
    # max with indices, not argmax: it also returns the first of equal ones, and is several times as fast on a CPU
    return lambda rows: F.linear(rows, targets, addends).max(dim=1)


class KeptProducts:
    """The nearest centroids of the same rows in every round of a k-means on a CPU.

    The products with a centroid are kept until it moves. A centroid stays where it is when its cluster neither gains
    nor loses a row. In later rounds most centroids do, and only the others are multiplied.

    Args:
        count: n, the number of rows.
        shape: that of the centroids, ``(K, D)``.
        metric: see ``factors``.
    """

    def __init__(self, count: int, shape: torch.Size, metric: Metric) -> None:
        self.products = torch.empty(count, shape[0])
        self.metric: Metric = metric
        # NaN differs from every number, so that all move at first
        self._factors = torch.full(shape, torch.nan)

    def move(self, centroids: Tensor) -> None:
        """Set the centroids of a round."""
        targets, self._addends = factors(centroids, self.metric)
        # for squared distances the factors are the centroids, so the addends stay where these do
        self._moved = (targets != self._factors).any(dim=1).nonzero()[:, 0]
        self._factors, self._columns = targets, targets.T.contiguous()

    def nearest(self, places: slice, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ``torch_nearest`` does for the rows ``(m, D)`` at some places among the n."""
        kept = self.products[places]
        # one thread is fastest where the products stay in its cache; several lose time where they wait for one another
        size = TILE if torch.get_num_threads() == 1 else max(1, len(rows))
        found = [self._update(*some).max(dim=1) for some in zip(kept.split(size), rows.split(size), strict=True)]
        return torch.cat([best for best, _ in found]), torch.cat([index for _, index in found])

    def _update(self, kept: Tensor, rows: Tensor) -> Tensor:
        """Compute the products ``(m, K)`` with the centroids that moved, in place."""
        moved, addends = self._moved, self._addends
        if 8 * len(moved) <= 7 * len(self._factors):
            some = None if addends is None else addends[moved]
            return kept.index_copy_(1, moved, F.linear(rows, self._factors[moved], some))
        # all in one product: faster than to pick the few that stay
        if addends is None:
            return torch.mm(rows, self._columns, out=kept)
        return torch.addmm(addends, rows, self._columns, out=kept)


@torch.no_grad()
def assign(features: Tensor, centroids: Tensor, chunk: int = 8192, metric: Metric = "cosine") -> Tensor:
    """Return the nearest centroid of each row.

    Args:
        features: ``(N, D)``.
        centroids: ``(K, D)``; a zero centroid has cosine similarity 0 to everything.
        chunk: rows that are compared at a time.
        metric: cosine similarity or Euclidean distance.

    Returns:
        ``(N,)`` int64; of equally near centroids the one with the lowest index.
    """
    with torch.autocast(features.device.type, enabled=False):
        nearest = torch_nearest(centroids.float(), metric)
        labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
        for first in range(0, len(features), chunk):
            labels[first : first + chunk] = nearest(features[first : first + chunk].float())[1]
        return labels
