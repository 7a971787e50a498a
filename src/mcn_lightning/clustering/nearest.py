"""The nearest centroid of each row, by torch or by faiss."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Metric = Literal["cosine", "euclidean"]
Nearest = Callable[[Tensor], tuple[Tensor, Tensor]]


class Index(Protocol):
    """What is used of an index of faiss, which has no types of its own."""

    def reset(self) -> None:
        """Remove all rows."""

    def add(self, rows: np.ndarray) -> None:
        """Add rows ``(K, D)``."""

    def search(self, rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the values and indices ``(n, count)`` of the nearest added rows."""


def has_faiss() -> bool:
    """Return whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def torch_nearest(centroids: Tensor, metric: Metric) -> Nearest:
    """Return a function from rows ``(n, D)`` to the largest product ``(n,)`` and the nearest centroid's index ``(n,)``.

    For cosine the product is with the centroid at length 1. Rows need not have length 1, which scales all products of a
    row alike. For squared distances the square of the row is left out, as it is the same for all centroids.
    """
    if metric == "cosine":
        targets, bias = F.normalize(centroids, dim=1), None
    else:
        targets, bias = centroids, -0.5 * centroids.square().sum(dim=1)
    # max with indices, not argmax: it also returns the first of equal ones, and is several times as fast on a CPU
    return lambda rows: F.linear(rows, targets, bias).max(dim=1)


def faiss_index(width: int, metric: Metric) -> Index:
    """Return an empty index for rows of a width, on the GPUs if faiss supports them."""
    import faiss

    index = faiss.IndexFlatIP(width) if metric == "cosine" else faiss.IndexFlatL2(width)
    # builds for the CPU may lack get_num_gpus; int() is 0
    return faiss.index_cpu_to_all_gpus(index) if getattr(faiss, "get_num_gpus", int)() else index


def faiss_nearest(index: Index, centroids: Tensor, metric: Metric) -> Nearest:
    """Return the same function as ``torch_nearest``, using a faiss index of the centroids."""
    targets = F.normalize(centroids, dim=1) if metric == "cosine" else centroids
    index.reset()
    index.add(targets.contiguous().cpu().numpy())

    def nearest(rows: Tensor) -> tuple[Tensor, Tensor]:
        products, labels = index.search(rows.contiguous().cpu().numpy(), 1)
        return torch.from_numpy(products[:, 0]).to(rows.device), torch.from_numpy(labels[:, 0]).to(rows.device)

    return nearest


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
