"""k-means by cosine similarity or Euclidean distance, with plain means as centroids, on one or several processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.clustering.nearest import KeptProducts, Metric, NearestAt, torch_nearest
from mcn_lightning.clustering.rows import Rows
from mcn_lightning.distributed import broadcast, gather_rows, rank, row_counts, sum_all, world_size
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.ranges import PositiveInt, checked


@dataclass(frozen=True)
class KMeansReport:
    """Statistics of a run of k-means over the rows of all processes.

    Args:
        iterations: rounds of assignment and mean.
        objective: mean cosine similarity of the rows to their centroids, or mean squared distance.
        reseeded: number of times that an empty cluster got rows of the largest one.
        counts: rows of each cluster ``(K,)`` int64 in the returned assignment.
        changed: share of rows whose cluster changed from that by the initial centroids; ``None`` without these.
        seconds: duration.
    """

    iterations: int
    objective: float
    reseeded: int
    counts: Tensor
    changed: float | None
    seconds: float


def _plan(rows: Rows, num_clusters: int) -> tuple[bool, int]:
    """Return whether products are kept, and the number of rounds between two questions whether k-means has ended.

    The result does not depend on the second. Each question makes the host wait for a GPU. Rounds after the end are lost
    time, and change no centroid.
    """
    if rows.device.type != "cpu":
        return False, 4
    # where K is larger than D, the products would take more memory than the rows
    return num_clusters <= rows.width, 1


def _closeness(rows: Tensor, point: Tensor, metric: Metric) -> Tensor:
    """Return cosine similarity or minus the squared distance ``(n,)`` of rows ``(n, D)`` to a point ``(1, D)``."""
    if metric == "cosine":
        # at least 1e-12: a row of zeros gets similarity 0 instead of NaN
        return rows @ F.normalize(point, dim=1)[0] / torch.linalg.vector_norm(rows, dim=1).clamp(min=1e-12)
    return -(rows - point).square().sum(dim=1)


def _sizes(labels: Tensor, num_clusters: int) -> Tensor:
    """Return the number of labels of each cluster ``(K,)`` int64. Unlike ``bincount`` it does not wait for a GPU."""
    return labels.new_zeros(num_clusters).scatter_add_(0, labels, torch.ones_like(labels))


def _sums(rows: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Return the sum ``(K, D)`` of the rows ``(n, D)`` of each cluster.

    It uses an embedding bag for each cluster: unlike ``index_add_`` it is deterministic on a GPU.
    """
    return F.embedding_bag(labels.argsort(stable=True), rows, counts.cumsum(0) - counts, mode="sum")


def _split_largest(rows: Rows, labels: Tensor, means: Tensor, counts: Tensor, metric: Metric) -> int:
    """Give every empty cluster half of the rows of the largest one, and return the number of empty clusters.

    The half that is most similar to the row farthest from the mean moves. The half least similar to the mean would be a
    ring around it. Its own mean points the same way, so that the cluster would be empty again.

    ``labels``, ``means`` and ``counts`` are changed in place. As N >= K, an empty cluster implies that another has two
    rows. Processes exchange one number for each row of the largest cluster, and a few rows.
    """
    empty = (counts == 0).nonzero()[:, 0].tolist()
    for cluster in empty:
        # counts are equal on all processes, so all choose the same cluster
        largest = int(counts.argmax())
        members = (labels == largest).nonzero()[:, 0]
        sizes = row_counts(len(members), rows.device)
        farthest = _farthest(rows, members, means[largest : largest + 1], metric)
        order = gather_rows(_closeness_of(rows, members, farthest, metric), sizes).argsort(descending=True, stable=True)
        moves = torch.zeros(len(order), dtype=torch.bool, device=rows.device)
        # the rows of all processes are in the order of ranks, so this process's own are one slice
        moves[order[: len(order) // 2]] = True
        moved = moves[sum(sizes[: rank()]) :][: len(members)]
        labels[members[moved]] = cluster
        halves = ((cluster, members[moved], len(order) // 2), (largest, members[~moved], -(-len(order) // 2)))
        for index, positions, size in halves:
            means[index] = sum_all(_sum_of(rows, positions)) / size
            counts[index] = size
    return len(empty)


def _closeness_of(rows: Rows, positions: Tensor, point: Tensor, metric: Metric) -> Tensor:
    pieces = [_closeness(some, point, metric) for some in rows.take(positions)]
    return torch.cat([torch.empty(0, device=rows.device), *pieces])


def _sum_of(rows: Rows, positions: Tensor) -> Tensor:
    # float64, as the number of processes changes the order of summation
    total = torch.zeros(rows.width, dtype=torch.float64, device=rows.device)
    for some in rows.take(positions):
        total += some.sum(dim=0)
    return total


def _farthest(rows: Rows, positions: Tensor, point: Tensor, metric: Metric) -> Tensor:
    """Return the row ``(1, D)`` that is least close to a point, among the rows at given places of all processes."""
    closeness = _closeness_of(rows, positions, point, metric)
    # infinity: a process without such rows never has the least
    row, value = torch.zeros(1, rows.width, device=rows.device), torch.full((1,), torch.inf, device=rows.device)
    if len(positions):
        least = closeness.argmin()
        row, value = next(rows.take(positions[least][None])), closeness[least][None]
    # the gathered values are the same on all processes, and so is the owner
    owner = int(gather_rows(value, [1] * world_size()).argmin())
    return broadcast(row, owner)


def _random_rows(rows: Rows, num_clusters: int, generator: torch.Generator | None) -> Tensor:
    """Return K random rows ``(K, D)``, sampled by process 0."""
    device = generator.device if generator is not None else None
    numbers = torch.empty(num_clusters, dtype=torch.int64, device=rows.device)
    if rank() == 0:
        numbers = torch.randperm(rows.total, generator=generator, device=device)[:num_clusters].to(rows.device)
    return rows.by_number(broadcast(numbers))


def _plus_plus_rows(rows: Rows, num_clusters: int, metric: Metric, generator: torch.Generator | None) -> Tensor:
    """Return K rows ``(K, D)`` by k-means++ (Arthur and Vassilvitskii 2007), sampled by process 0.

    Each row is sampled with a probability proportional to its squared distance from the nearest earlier row. For cosine
    it is the squared distance of the rows at length 1. If all distances are 0, rows are sampled uniformly.
    """
    device = generator.device if generator is not None else None
    shares = torch.empty(num_clusters, dtype=torch.float64, device=rows.device)
    if rank() == 0:
        shares = torch.rand(num_clusters, generator=generator, device=device, dtype=torch.float64).to(rows.device)
    # all random numbers at once: one exchange instead of K
    samples = broadcast(shares).tolist()
    centroids = torch.empty(num_clusters, rows.width, device=rows.device)
    distances = torch.zeros(rows.count, device=rows.device)
    for index, share in enumerate(samples):
        centroids[index] = rows.by_number(rows.sample_row(distances, share))[0]
        for chunk_slice, some in rows.chunks():
            closeness = _closeness(some, centroids[index : index + 1], metric)
            found = ((1 - closeness) if metric == "cosine" else -closeness).clamp(min=0)
            distances[chunk_slice] = found if index == 0 else torch.minimum(distances[chunk_slice], found)
    return centroids


def check_row_count(clusters: int, rows: int, what: str, advice: str) -> None:
    """Refuse fewer rows than clusters.

    Args:
        clusters: K.
        rows: number of rows to cluster.
        what: the rows, in the message.
        advice: how to get more of them.

    Raises:
        InputError: if K is larger.
    """
    if rows < clusters:
        wanted = f"at most the {rows} {what}"
        raise InputError(f"--model.clustering.num_clusters: expected {wanted}, found {clusters}; lower it or {advice}")


class KMeans:
    """k-means of MCN (Chen et al., ICCV 2021): assignment by cosine, centroids not re-normalised; or Euclidean.

    In the released code an empty cluster becomes the zero vector and never recovers. Here the largest cluster is split
    instead, unless ``reseed_empty`` is off.

    With several processes each calls ``fit`` with its own rows, and all get the same centroids, bit for bit. Process 0
    samples the initial rows, sums and counts are added over the processes, and process 0 broadcasts the means.

    Args:
        num_clusters: K.
        max_iterations: most rounds.
        tolerance: stop when the squared moves of all centroids sum to this or less.
        reseed_empty: split the largest cluster when one is empty.
        chunk: rows that are compared at a time.
        metric: assignment by cosine similarity or by Euclidean distance.
        init_method: random rows or k-means++, if no initial centroids are given.

    Raises:
        InputError: if K is below 1.
    """

    def __init__(
        self,
        num_clusters: int,
        max_iterations: int = 100,
        tolerance: float = 1e-4,
        reseed_empty: bool = True,
        chunk: int = 8192,
        metric: Metric = "cosine",
        init_method: Literal["random", "kmeans++"] = "random",
    ) -> None:
        checked(PositiveInt, num_clusters, "--model.clustering.num_clusters")
        self.num_clusters = num_clusters
        self.max_iterations = max_iterations
        self.tolerance = tolerance
        self.reseed_empty = reseed_empty
        self.chunk = chunk
        self.metric: Metric = metric
        self.init_method = init_method

    @torch.no_grad()
    def fit(
        self,
        features: Tensor | Sequence[Tensor],
        init: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
    ) -> tuple[Tensor, Tensor, KMeansReport]:
        """Cluster the rows of all processes.

        Args:
            features: this process's rows ``(n, D)``, or several such tensors (as many on every process) whose rows
                follow each other, in any precision and on any device; n may be 0, over all processes it is at least K.
            init: centroids to start from ``(K, D)``, those of process 0; samples by ``init_method`` when ``None``.
            generator: source of the sampled rows, on process 0.
            device: where to compute, and to exchange with other processes; by default where a tensor given is that is
                not on the CPU, else the CPU.

        Returns:
            Centroids ``(K, D)`` float32; nearest of them for each row of this process ``(n,)`` int64; a report.

        Raises:
            InputError: if there are fewer rows than clusters, a value is not finite, or ``init`` has another shape; on
                all processes, whichever has the fault.
        """
        started = time.perf_counter()
        parts = [features] if isinstance(features, Tensor) else list(features)
        if device is None:
            given = [tensor.device for tensor in (*parts, *(() if init is None else (init,)))]
            device = next((found for found in given if found.type != "cpu"), torch.device("cpu"))
        # a training step runs under autocast, but sums of thousands of rows need float32
        with torch.autocast(device.type, enabled=False):
            rows = Rows(parts, device, self.chunk)
            self._check(rows, init)
            return self._fit(rows, init, generator, started)

    def _check(self, rows: Rows, init: Tensor | None) -> None:
        check_row_count(self.num_clusters, rows.total, "rows to cluster", "give larger batches")
        shape = (self.num_clusters, rows.width)
        # added over the processes before one raises: the others would wait for it forever
        faults = torch.zeros(2, dtype=torch.int64, device=rows.device)
        faults[0] = init is not None and tuple(init.shape) != shape
        spans = [torch.zeros((), device=rows.device)]
        for _, some in rows.chunks():
            low, high = some.aminmax()  # both are NaN if any value is NaN
            spans.append(high - low)
        if not bool(torch.stack(spans).isfinite().all()):  # read once, as each read waits for a GPU
            for _, some in rows.chunks():
                faults[1] += (~torch.isfinite(some)).any(dim=1).sum()
        wrong_shape, not_finite = sum_all(faults).tolist()
        found = "another on another process" if init is None or tuple(init.shape) == shape else tuple(init.shape)
        check_rules(
            (
                wrong_shape,
                f"k-means: expected start centroids of shape {shape}, found {found}; "
                "set --model.clustering.num_clusters to that of the checkpoint or start without",
            ),
            (
                not_finite,
                f"k-means: expected finite features, found {not_finite} of {rows.total} rows that are not finite; "
                "lower --model.optimizer.lr",
            ),
        )

    def _start(self, rows: Rows, init: Tensor | None, generator: torch.Generator | None) -> Tensor:
        if init is not None:
            return broadcast(init.detach().to(rows.device).float())
        if self.init_method == "kmeans++":
            return _plus_plus_rows(rows, self.num_clusters, self.metric, generator)
        return _random_rows(rows, self.num_clusters, generator)

    def _fit(
        self, rows: Rows, init: Tensor | None, generator: torch.Generator | None, started: float
    ) -> tuple[Tensor, Tensor, KMeansReport]:
        centroids = self._start(rows, init, generator)
        keep, rounds = _plan(rows, self.num_clusters)
        kept = KeptProducts(rows.count, centroids.shape, self.metric) if keep else None
        labels = torch.zeros(rows.count, dtype=torch.int64, device=rows.device)
        before = labels
        iterations = reseeded = 0
        ended = False
        while not ended and iterations < self.max_iterations:
            # on the device: [rounds made, whether k-means has ended, whether a cluster to split is empty]
            state = torch.zeros(3, dtype=torch.int64, device=rows.device)
            for _ in range(min(rounds, self.max_iterations - iterations)):
                sums, counts = self._pass(rows, self._nearest(kept, centroids), labels)
                before = labels.clone() if before is labels else before
                # an empty cluster becomes the zero vector, as in the released code, unless it is split below
                means = sums / counts.clamp(min=1)[:, None]
                empty = (counts == 0).any() if self.reseed_empty else torch.zeros_like(state[0], dtype=torch.bool)
                goes = ~(empty | state[1:].any())
                # from process 0: another order of summation could let one process stop a round before the others
                centroids, old = broadcast(torch.where(goes, means, centroids)), centroids
                state += torch.stack([goes, goes & self._still(centroids, old), empty])
            made, is_still, is_empty = broadcast(state).tolist()
            iterations, ended = iterations + made, bool(is_still)
            if is_empty:
                reseeded += _split_largest(rows, labels, means, counts, self.metric)
                centroids, old = broadcast(means), centroids
                iterations, ended = iterations + 1, bool(broadcast(self._still(centroids, old)))
        objective, counts = self._final_pass(rows, self._nearest(kept, centroids), centroids, labels)
        changed = None if init is None else float(sum_all((labels != before).sum())) / rows.total
        seconds = time.perf_counter() - started
        return centroids, labels, KMeansReport(iterations, objective, reseeded, counts, changed, seconds)

    def _still(self, centroids: Tensor, old: Tensor) -> Tensor:
        """Return whether the centroids moved by the tolerance or less, 0-d bool."""
        return ~((centroids - old).square().sum().double() > self.tolerance)

    def _nearest(self, kept: KeptProducts | None, centroids: Tensor) -> NearestAt:
        if kept is not None:
            kept.move(centroids)
            return kept.nearest
        nearest = torch_nearest(centroids, self.metric)
        return lambda places, rows: nearest(rows)

    def _pass(self, rows: Rows, nearest: NearestAt, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Write the labels; return sum ``(K, D)`` and count ``(K,)`` int64 of each cluster's rows."""
        sums = torch.zeros(self.num_clusters, rows.width, device=rows.device)
        counts = torch.zeros(self.num_clusters, dtype=torch.int64, device=rows.device)
        for chunk_slice, some in rows.chunks():
            _, found = nearest(chunk_slice, some)
            sizes = _sizes(found, self.num_clusters)
            sums += _sums(some, found, sizes)
            counts += sizes
            labels[chunk_slice] = found
        return sum_all(sums), sum_all(counts)

    def _final_pass(self, rows: Rows, nearest: NearestAt, centroids: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Write the labels; return the objective and the count ``(K,)`` int64 of each cluster's rows."""
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        for chunk_slice, some in rows.chunks():
            products, labels[chunk_slice] = nearest(chunk_slice, some)
            if self.metric == "cosine":
                total += (products / torch.linalg.vector_norm(some, dim=1).clamp(min=1e-12)).sum()
            else:  # not from the product: for rows far from the origin the difference would be lost by rounding
                total += (some - centroids[labels[chunk_slice]]).square().sum()
        return float(sum_all(total)) / rows.total, sum_all(_sizes(labels, self.num_clusters))
