"""k-means by cosine similarity with centroids that are plain means."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class KMeansReport:
    """What a run of k-means did.

    Args:
        iterations: rounds of assignment and mean.
        objective: mean cosine similarity of the rows to their centroid.
        reseeded: how often an emptied cluster was given rows of the largest one.
        counts: rows of each cluster ``(K,)`` int64 in the returned assignment.
    """

    iterations: int
    objective: float
    reseeded: int
    counts: Tensor


def _has_faiss() -> bool:
    return importlib.util.find_spec("faiss") is not None


def _nearest(features: Tensor, centroids: Tensor, engine: str, chunk: int) -> tuple[Tensor, Tensor]:
    """Return the nearest centroid of each row ``(N,)`` int64 and the row's product with its direction ``(N,)``.

    The length of a row scales all its products alike, so that only the centroids need length 1.
    """
    directions = F.normalize(centroids, dim=1)
    if engine == "faiss":
        import faiss

        index = faiss.IndexFlatIP(directions.shape[1])
        index.add(directions.contiguous().numpy())
        found, indices = index.search(features.contiguous().numpy(), 1)
        return torch.from_numpy(indices[:, 0]), torch.from_numpy(found[:, 0])
    labels = torch.empty(len(features), dtype=torch.int64, device=features.device)
    products = torch.empty(len(features), dtype=features.dtype, device=features.device)
    for start in range(0, len(features), chunk):
        similarity = features[start : start + chunk] @ directions.T
        best = similarity.argmax(dim=1)
        labels[start : start + chunk] = best
        products[start : start + chunk] = similarity.gather(1, best[:, None])[:, 0]
    return labels, products


@torch.no_grad()
def assign(features: Tensor, centroids: Tensor, chunk: int = 8192) -> Tensor:
    """Return the nearest centroid of each row by cosine similarity.

    Args:
        features: ``(N, D)``.
        centroids: ``(K, D)``; a zero centroid has similarity 0 to everything.
        chunk: rows that are compared at a time.

    Returns:
        ``(N,)`` int64; of equally near centroids the one with the lowest index.
    """
    with torch.autocast(features.device.type, enabled=False):
        return _nearest(features.float(), centroids.float(), "torch", chunk)[0]


def _split_largest(features: Tensor, labels: Tensor, means: Tensor, counts: Tensor) -> int:
    """Give every empty cluster half of the rows of the largest one; return how many there were.

    The half that is most similar to the row farthest from the mean moves: were it the half least similar to the mean, a
    ring around the mean would move, whose own mean points the same way, and the cluster would be empty again.
    ``labels``, ``means`` and ``counts`` are the caller's own and change in place. As N >= K, an empty cluster means
    that another has two rows.
    """
    empty = (counts == 0).nonzero()[:, 0].tolist()
    for cluster in empty:
        largest = int(counts.argmax())
        members = (labels == largest).nonzero()[:, 0]
        directions = F.normalize(features[members], dim=1)
        farthest = (directions @ F.normalize(means[largest], dim=0)).argmin()
        order = members[(directions @ directions[farthest]).argsort(descending=True, stable=True)]
        moved, kept = order[: len(order) // 2], order[len(order) // 2 :]
        labels[moved] = cluster
        for index, rows in ((cluster, moved), (largest, kept)):
            means[index] = features[rows].mean(dim=0)
            counts[index] = len(rows)
    return len(empty)


class KMeans:
    """k-means of MCN (Chen et al., ICCV 2021): assignment by cosine, centroids not re-normalised.

    The released code lets an emptied cluster become the zero vector, which never recovers; here the largest cluster is
    split instead, unless ``reseed_empty`` is off.

    Args:
        num_clusters: K.
        max_iterations: rounds at most.
        tolerance: stop when the squared moves of all centroids sum to this or less.
        engine: torch, faiss (CPU; features on a GPU are still compared by torch), or auto: faiss for features on the
            CPU where it is installed.
        reseed_empty: split the largest cluster when one is empty.
        chunk: rows that torch compares at a time.

    Raises:
        ValueError: if faiss is asked for and not installed.
    """

    def __init__(
        self,
        num_clusters: int,
        max_iterations: int = 100,
        tolerance: float = 1e-4,
        engine: Literal["auto", "torch", "faiss"] = "auto",
        reseed_empty: bool = True,
        chunk: int = 8192,
    ) -> None:
        if engine == "faiss" and not _has_faiss():
            raise ValueError(
                "--model.clustering.engine: found faiss, which is not installed; "
                "run pip install 'mcn-lightning[faiss-cpu]' or choose torch"
            )
        self.num_clusters = num_clusters
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.engine = engine
        self.reseed_empty = reseed_empty
        self.chunk = chunk

    @torch.no_grad()
    def fit(
        self, features: Tensor, init: Tensor | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, KMeansReport]:
        """Cluster the rows.

        Args:
            features: ``(N, D)``, N at least K.
            init: centroids to start from ``(K, D)``; K random rows when ``None``.
            generator: source of the random rows.

        Returns:
            Centroids ``(K, D)`` float32; nearest of them for each row ``(N,)`` int64; a report.

        Raises:
            ValueError: if there are fewer rows than clusters, a value is not finite, or ``init`` has another shape.
        """
        shape = (self.num_clusters, features.shape[1])
        if len(features) < self.num_clusters:
            raise ValueError(
                f"--model.clustering.num_clusters: expected at most the {len(features)} rows to cluster, "
                f"found {self.num_clusters}; lower it or give larger batches"
            )
        if init is not None and tuple(init.shape) != shape:
            raise ValueError(f"k-means: expected start centroids of shape {shape}, found {tuple(init.shape)}")
        if not bool(torch.isfinite(features).all()):
            raise ValueError("k-means: the features hold values that are not finite; lower the learning rate")
        with torch.autocast(features.device.type, enabled=False):
            return self._fit(features.detach().float(), init, generator)

    def _fit(
        self, features: Tensor, init: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, KMeansReport]:
        if init is None:
            device = generator.device if generator is not None else None
            rows = torch.randperm(len(features), generator=generator, device=device)[: self.num_clusters]
            centroids = features[rows.to(features.device)]
        else:
            centroids = init.detach().to(features)
        use_faiss = features.device.type == "cpu" and self.engine != "torch" and _has_faiss()
        engine = "faiss" if use_faiss else "torch"
        iterations = reseeded = 0
        while iterations < self.max_iterations:
            labels, _ = _nearest(features, centroids, engine, self.chunk)
            counts = labels.bincount(minlength=self.num_clusters)
            updated = torch.zeros_like(centroids).index_add_(0, labels, features) / counts.clamp(min=1)[:, None]
            if self.reseed_empty:
                reseeded += _split_largest(features, labels, updated, counts)
            move = float((updated - centroids).square().sum())
            centroids, iterations = updated, iterations + 1
            if move <= self.tolerance:
                break
        labels, products = _nearest(features, centroids, engine, self.chunk)
        objective = float((products / features.norm(dim=1).clamp(min=1e-12)).mean())
        counts = labels.bincount(minlength=self.num_clusters)
        return centroids, labels, KMeansReport(iterations, objective, reseeded, counts)
