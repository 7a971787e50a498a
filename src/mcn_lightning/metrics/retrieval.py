"""Recall at k and rank of the true item, with ties counted as chance would break them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mcn_lightning.metrics.items import concatenated, first_of_each, gather_rows, hash_ids


@torch.no_grad()
def expected_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Rank of each query's true item, averaged over all orders of the items that tie with it.

    ``rank = 1 + #(scored higher) + #(other items scored the same) / 2`` with dot-product scores, so that a constant
    embedding gets the rank of chance, ``(N + 1) / 2``. The score of one row can differ in its last bit with its place
    in a matrix product; equal gallery rows are therefore scored once and counted as often as they occur, and the true
    item's score is read from the product that the others are compared in. Scores are float32 (float64 for float64
    input) at the float32 matmul precision in force; autocast is switched off.

    Args:
        queries: query embeddings, ``(N_q, D)``.
        gallery: embeddings of the items, ``(N, D)``.
        targets: gallery row of each query's true item, ``(N_q,)`` int64.
        chunk: queries scored at a time; the working memory is about ``4 * chunk * N`` bytes.

    Returns:
        Ranks from 1 to N in steps of one half, ``(N_q,)`` float64.

    Raises:
        ValueError: if shapes do not fit, a target is no gallery row, or an embedding or a score is not finite.
    """
    _check_rank_input(queries, gallery, targets, chunk)
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    rows, row_of_item, copies = torch.unique(gallery.to(dtype), dim=0, return_inverse=True, return_counts=True)
    column_of_target = row_of_item[targets]
    ranks = []
    with torch.autocast(queries.device.type, enabled=False):
        for start in range(0, len(queries), chunk):
            scores = queries[start : start + chunk].to(dtype) @ rows.T
            ranks.append(_ranks_in_block(scores, column_of_target[start : start + chunk], copies, chunk))
    return torch.cat(ranks)


def _ranks_in_block(scores: Tensor, targets: Tensor, copies: Tensor, chunk: int) -> Tensor:
    """Ranks ``(N_q,)`` from scores ``(N_q, N)``, compared ``chunk`` columns at a time to save memory."""
    if not scores.isfinite().all():
        raise ValueError("a retrieval score is not finite although the embeddings are: they are too large for float32")
    own = scores.gather(1, targets[:, None])
    higher = torch.zeros_like(targets)
    same = torch.zeros_like(targets)
    for start in range(0, scores.shape[1], chunk):
        tile, counts = scores[:, start : start + chunk], copies[start : start + chunk]
        higher += torch.where(tile > own, counts, 0).sum(dim=1)
        same += torch.where(tile == own, counts, 0).sum(dim=1)
    return 1 + higher.double() + (same.double() - 1) / 2


def _check_rank_input(queries: Tensor, gallery: Tensor, targets: Tensor, chunk: int) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        shapes = f"{tuple(queries.shape)} and {tuple(gallery.shape)}"
        raise ValueError(f"queries (N_q, D) and gallery (N, D) must be matrices of one width D, got {shapes}")
    if len(queries) == 0 or len(gallery) == 0:
        raise ValueError(f"nothing to rank: {len(queries)} queries against a gallery of {len(gallery)} items")
    if targets.shape != (len(queries),) or targets.dtype != torch.int64:
        found = f"{tuple(targets.shape)} {targets.dtype}"
        raise ValueError(f"targets must be int64 with one gallery row for each of {len(queries)} queries, got {found}")
    if targets.min() < 0 or targets.max() >= len(gallery):
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"targets must be gallery rows from 0 to {len(gallery) - 1}, got {found}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    for name, embeddings in (("query", queries), ("gallery", gallery)):
        bad = ~embeddings.isfinite().all(dim=1)
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} {name} embeddings have NaN or infinity, first row {first}"
            )


def query_density(gallery: Tensor, centroids: Tensor, sizes: Tensor, temperature: float) -> Tensor:
    """Tell how many queries are to be expected near each gallery item, from the clusters of queries seen in training.

    ``temperature * log(sum_k n_k / n exp(c_k . g / temperature))``. An item near many queries (a hub) is retrieved too
    often; taking its density from its scores is the inverted softmax (Smith et al., "Offline bilingual word vectors",
    ICLR 2017; querybank normalisation, Bogolin et al., CVPR 2022) with K centroids ``c_k`` of ``n_k`` queries each in
    place of a bank of all queries, and a share of the density in place of the whole.

    Args:
        gallery: embeddings of the items, ``(N, D)``.
        centroids: of the clusters of queries, ``(K, D)``.
        sizes: queries in each cluster, ``(K,)``; not all 0.
        temperature: of the similarities.

    Returns:
        ``(N,)`` float32, in the unit of the scores.
    """
    with torch.autocast(gallery.device.type, enabled=False):
        shares = (sizes.double() / sizes.sum()).log().float()
        return temperature * torch.logsumexp(gallery.float() @ centroids.float().T / temperature + shares, dim=1)


def retrieval_metrics(ranks: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Tensor]:
    """Summarise ranks.

    Args:
        ranks: 1-based ranks of the true items, ``(N_q,)``. An infinite rank is a query that the model could not answer
            (a clip without audio in the MSR-VTT protocol): a miss at every k.
        ks: cut-offs of the recall.

    Returns:
        0-d float32 tensors: ``R@k`` for each k, in per cent (0 to 100) of the queries with rank at most k;
        ``median_rank``, the mean of the two middle ranks for an even number; ``mean_rank``, over the finite ranks.

    Raises:
        ValueError: if there are no ranks, or one is below 1 or NaN, or a cut-off is below 1.
    """
    _check_ks(ks)
    if ranks.ndim != 1 or len(ranks) == 0:
        raise ValueError(f"ranks must be (N_q,) with at least one query, got shape {tuple(ranks.shape)}")
    if not (ranks >= 1).all():
        raise ValueError("ranks are 1-based: every one must be at least 1 and not NaN")
    ranks = ranks.double()
    ordered = ranks.sort().values
    median = (ordered[(len(ranks) - 1) // 2] + ordered[len(ranks) // 2]) / 2
    finite = ranks[ranks.isfinite()]
    mean = finite.mean() if len(finite) else ordered[0]
    result = {f"R@{k}": 100 * (ranks <= k).double().mean() for k in ks}
    return {name: value.float() for name, value in (result | {"median_rank": median, "mean_rank": mean}).items()}


def _check_ks(ks: Sequence[int]) -> None:
    if len(ks) == 0 or any(k < 1 for k in ks):
        raise ValueError(f"ks must be cut-offs of at least 1, such as (1, 5, 10), got {tuple(ks)}")


class RetrievalRecall(Metric):
    """Retrieval among all items seen, where row i of the queries belongs to row i of the gallery.

    Items that come again under an id already seen are left out (the first one counts), so that the result depends
    neither on the number of processes nor on the order of the batches.

    Args:
        ks: cut-offs of the recall.
        chunk: queries scored at a time, see `expected_ranks`.
        benchmark_size: items that the benchmark has; those never seen count as misses (1000 for MSR-VTT, where 968
            clips have audio). By default every item is expected to be seen.
        **kwargs: of ``torchmetrics.Metric``. ``compute_on_cpu=True`` keeps the embeddings on the CPU and ranks there.
    """

    full_state_update = False
    is_differentiable = False

    ids: list[Tensor]
    queries: list[Tensor]
    gallery: list[Tensor]

    def __init__(
        self, ks: Sequence[int] = (1, 5, 10), chunk: int = 1024, benchmark_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        _check_ks(ks)
        self.ks = tuple(ks)
        self.chunk = chunk
        self.benchmark_size = benchmark_size
        self.add_state("ids", default=[], dist_reduce_fx="cat")
        self.add_state("queries", default=[], dist_reduce_fx="cat")
        self.add_state("gallery", default=[], dist_reduce_fx="cat")

    def update(self, ids: Sequence[str], queries: Tensor, gallery: Tensor) -> None:
        """Add pairs of a query and its item.

        Args:
            ids: B names, one for each pair.
            queries: ``(B, D)``, kept as float32.
            gallery: ``(B, D)``, kept as float32.

        Raises:
            ValueError: if the shapes do not fit each other or the rows that came before.
        """
        if queries.ndim != 2 or queries.shape != gallery.shape or len(ids) != len(queries):
            found = f"{len(ids)} ids, {tuple(queries.shape)} and {tuple(gallery.shape)}"
            raise ValueError(f"expected B ids, queries (B, D) and gallery (B, D), got {found}")
        if self.queries and self.queries[-1].shape[1] != queries.shape[1]:
            raise ValueError(f"embeddings were {self.queries[-1].shape[1]} wide so far, got {queries.shape[1]}")
        self.ids.append(hash_ids(ids, queries.device))
        self.queries.append(queries.detach().float())
        self.gallery.append(gallery.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Rank each query's item among all items.

        Returns:
            What `retrieval_metrics` returns: recall in per cent, median and mean rank.

        Raises:
            ValueError: if nothing or more than ``benchmark_size`` was seen, or an embedding is not finite.
        """
        once = first_of_each(concatenated(self.ids, "RetrievalRecall"))
        queries = concatenated(self.queries, "RetrievalRecall")[once]
        gallery = concatenated(self.gallery, "RetrievalRecall")[once]
        ranks = expected_ranks(queries, gallery, torch.arange(len(once), device=queries.device), self.chunk)
        missing = 0 if self.benchmark_size is None else self.benchmark_size - len(once)
        if missing < 0:
            raise ValueError(f"benchmark_size is {self.benchmark_size}, but {len(once)} different items were seen")
        return retrieval_metrics(torch.cat([ranks, ranks.new_full((missing,), torch.inf)]), self.ks)
