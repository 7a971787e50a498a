"""Recall at k and rank of the true item, with ties counted as chance would break them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mcn_lightning.metrics.items import concatenated, first_of_each, gather_rows, hash_ids
from mcn_lightning.metrics.ties import (
    check_embeddings,
    check_ks,
    distinct_rows,
    dot_products,
    expected_rank,
    rows_at_once,
)


@torch.no_grad()
def expected_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Rank of each query's true item, averaged over all orders of the items that tie with it.

    ``rank = 1 + #(scored higher) + #(other items scored the same) / 2`` with dot-product scores, so that a constant
    embedding gets the rank of chance, ``(N + 1) / 2``. The score of one row can differ in its last bit with its place
    in a matrix product; equal gallery rows are therefore scored once and counted as often as they occur, and the true
    item's score is read from the product that the others are compared in. Scores are float32 (float64 for float64
    input) at the float32 matmul precision in force; autocast is switched off.

    The working memory is bounded at any size: ``chunk * N`` scores, never more than 2**26 (256 MB in float32; fewer
    queries are scored at a time where that is less), about 50 bytes an item, and a copy of the gallery only where it
    has equal rows or another precision. There may be more or fewer queries than items, and several queries of one item.

    Args:
        queries: query embeddings, ``(N_q, D)``.
        gallery: embeddings of the items, ``(N, D)``.
        targets: gallery row of each query's true item, ``(N_q,)`` int64.
        chunk: most queries scored at a time.

    Returns:
        Ranks from 1 to N in steps of one half, ``(N_q,)`` float64.

    Raises:
        ValueError: if shapes do not fit, a target is no gallery row, or an embedding or a score is not finite.
    """
    check_embeddings(queries, gallery)
    _check_targets(targets, len(queries), len(gallery), chunk)
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    rows, column_of_item, copies = distinct_rows(gallery.to(dtype))
    columns = column_of_item[targets]
    size = rows_at_once(chunk, len(rows))
    parts = zip(queries.split(size), columns.split(size), strict=True)
    return torch.cat([_ranks_of_block(part, rows, column, copies) for part, column in parts])


def _ranks_of_block(queries: Tensor, rows: Tensor, columns: Tensor, copies: Tensor) -> Tensor:
    """Ranks ``(B,)``; a function, so that the scores are gone before the next block is scored."""
    scores = dot_products(queries, rows)
    return expected_rank(scores, scores.gather(1, columns[:, None])[:, 0], copies)


def _check_targets(targets: Tensor, queries: int, items: int, chunk: int) -> None:
    if targets.shape != (queries,) or targets.dtype != torch.int64:
        found = f"{tuple(targets.shape)} {targets.dtype}"
        raise ValueError(f"targets must be int64 with one gallery row for each of {queries} queries, got {found}")
    if targets.min() < 0 or targets.max() >= items:
        found = f"{int(targets.min())} to {int(targets.max())}"
        raise ValueError(f"targets must be gallery rows from 0 to {items - 1}, got {found}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")


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


def retrieval_metrics(ranks: Tensor, ks: Sequence[int] = (1, 5, 10, 50)) -> dict[str, Tensor]:
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
    check_ks(ks)
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


class RetrievalRecall(Metric):
    """Retrieval among all items seen, where row i of the queries belongs to row i of the gallery.

    Items that come again under an id already seen are left out (the first one counts), so that the result depends
    neither on the number of processes nor on the order of the batches.

    Args:
        ks: cut-offs of the recall.
        chunk: most queries scored at a time, see `expected_ranks`.
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
        self, ks: Sequence[int] = (1, 5, 10, 50), chunk: int = 1024, benchmark_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        check_ks(ks)
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

    def ranks(self) -> tuple[Tensor, Tensor]:
        """Rank each query's item among all items seen by all processes, for instance to write the ranks to a file.

        The ranks are found anew at each call. Every process must call it, and each gets the ranks of all.

        Returns:
            `items.hash_ids` of the ids, ``(N,)`` int64, each once and ascending, so that their order depends neither on
            batches nor on processes; ranks as `expected_ranks` gives them, ``(N,)`` float64.

        Raises:
            ValueError: if nothing was seen or an embedding is not finite.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            return self._ranks()

    def _ranks(self) -> tuple[Tensor, Tensor]:
        """Return what `ranks` does, from the rows that are here."""
        hashes = concatenated(self.ids, "RetrievalRecall")
        once = first_of_each(hashes)
        queries = concatenated(self.queries, "RetrievalRecall")[once]
        gallery = concatenated(self.gallery, "RetrievalRecall")[once]
        return hashes[once], expected_ranks(
            queries, gallery, torch.arange(len(once), device=queries.device), self.chunk
        )

    def compute(self) -> dict[str, Tensor]:
        """Rank each query's item among all items.

        Returns:
            What `retrieval_metrics` returns: recall in per cent, median and mean rank.

        Raises:
            ValueError: if nothing or more than ``benchmark_size`` was seen, or an embedding is not finite.
        """
        ranks = self._ranks()[1]
        missing = 0 if self.benchmark_size is None else self.benchmark_size - len(ranks)
        if missing < 0:
            raise ValueError(f"benchmark_size is {self.benchmark_size}, but {len(ranks)} different items were seen")
        return retrieval_metrics(torch.cat([ranks, ranks.new_full((missing,), torch.inf)]), self.ks)
