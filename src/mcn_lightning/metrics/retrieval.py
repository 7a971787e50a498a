"""Retrieval metrics: recall at k and rank of the true item. Ties count with their expected value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from mcn_lightning.metrics.checks import check_arrays, check_values
from mcn_lightning.metrics.items import concatenated, first_of_each, gather_rows, hash_ids, rows_of
from mcn_lightning.metrics.ties import (
    best_of_group,
    check_embeddings,
    check_extremes,
    check_ks,
    distinct_rows,
    dot_products,
    expected_rank,
    rows_at_once,
    scores_and_extremes,
)
from mcn_lightning.options.ranges import PositiveInt, checked


@torch.no_grad()
def expected_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Compute the rank of each query's true item, averaged over all orders of the items that tie with it.

    ``rank = 1 + #(scored higher) + #(other items scored the same) / 2`` with dot-product scores. So a constant
    embedding gets the rank of chance, ``(N + 1) / 2``. There may be more or fewer queries than items, and several
    queries for one item.

    In a matrix product, the last bit of a row's score can depend on the position of the row. Therefore equal gallery
    rows are scored once and counted as often as they occur. The true item's score is read from the same product as the
    others. Scores are float32 (float64 for float64 input), at the current float32 matmul precision, without autocast.

    The working memory is bounded: ``chunk * N`` scores, never more than 2**26 (256 MB in float32), and about 50 bytes
    for each item. The gallery is copied only if it has equal rows or another precision.

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
    check_arrays(queries=(queries, "(N_q, D)"), targets=(targets, "(N_q,) int64"))
    inside = (targets >= 0) & (targets < len(gallery))
    check_values("targets", inside, f"gallery rows from 0 to {len(gallery) - 1}", targets)
    checked(PositiveInt, chunk, "chunk")
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    rows, column_of_item, found = distinct_rows(gallery.to(dtype))
    copies = found if len(rows) < len(gallery) else None
    columns = column_of_item[targets]
    size = rows_at_once(chunk, len(rows))
    parts = zip(queries.split(size), columns.split(size), strict=True)
    ranks, extremes = zip(*(_ranks_of_block(part, rows, column, copies) for part, column in parts), strict=True)
    check_extremes(torch.stack(extremes))
    return torch.cat(ranks)


def _ranks_of_block(queries: Tensor, rows: Tensor, columns: Tensor, copies: Tensor | None) -> tuple[Tensor, Tensor]:
    """Compute ranks ``(B,)``, and the extremes of the scores ``(2,)``.

    A function of its own frees the scores before the next block is scored.
    """
    scores, extremes = scores_and_extremes(queries, rows)
    return expected_rank(scores, scores.gather(1, columns[:, None])[:, 0], copies), extremes


@torch.no_grad()
def item_ranks(
    queries: Tensor, gallery: Tensor, query_items: Tensor, gallery_items: Tensor, chunk: int = 1024
) -> Tensor:
    """Compute the rank of each query's item, if an item may have several gallery rows, as a clip has several captions.

    The best row of the item counts, as usual for clips that retrieve captions (Karpathy and Fei-Fei, CVPR 2015). Of t
    rows that tie with it, m belong to the item. Averaged over all orders, the first of these is at place
    ``(t + 1) / (m + 1)`` among the t rows. With one row for each item this is `expected_ranks`. Memory is bounded as
    there, with ``4 * chunk * N`` numbers if an item has several rows.

    Args:
        queries: query embeddings, ``(N_q, D)``.
        gallery: gallery embeddings, ``(N, D)``.
        query_items: item that each query asks for, ``(N_q,)`` int64; several queries may ask for one.
        gallery_items: item of each gallery row, ``(N,)`` int64.
        chunk: most queries scored at a time.

    Returns:
        Ranks from 1 to N, ``(N_q,)`` float64; infinite where the gallery has no row of the item.

    Raises:
        ValueError: if shapes do not fit, or an embedding or a score is not finite.
    """
    check_embeddings(queries, gallery)
    check_arrays(queries=(queries, "(N_q, D)"), query_items=(query_items, "(N_q,) int64"))
    check_arrays(gallery=(gallery, "(N, D)"), gallery_items=(gallery_items, "(N,) int64"))
    ranks = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    answerable = torch.isin(query_items, gallery_items)
    if not answerable.any():
        return ranks
    # usually all: then the queries are not copied
    asking, asked = (queries, query_items) if answerable.all() else (queries[answerable], query_items[answerable])
    ordered, order = gallery_items.sort()
    if (ordered[1:] != ordered[:-1]).all():  # one row for each item: no mask of (queries, rows) is needed
        targets = order[torch.searchsorted(ordered, asked)]
        ranks[answerable] = expected_ranks(asking, gallery, targets, chunk)
        return ranks
    dtype = torch.promote_types(torch.promote_types(queries.dtype, gallery.dtype), torch.float32)
    rows, column, _ = distinct_rows(gallery.to(dtype))
    size = rows_at_once(chunk, 4 * len(gallery))
    blocks = []
    for part, own in zip(asking.split(size), asked.split(size), strict=True):
        scores = dot_products(part, rows)[:, column]
        higher, tied, own_tied = best_of_group(scores, own[:, None] == gallery_items)
        blocks.append(higher + (tied + 1) / (own_tied + 1).double())
    ranks[answerable] = torch.cat(blocks)
    return ranks


def query_density(gallery: Tensor, centroids: Tensor, sizes: Tensor, temperature: float) -> Tensor:
    """Estimate the density of queries near each gallery item, from the clusters of queries in training.

    It is ``temperature * log(sum_k n_k / n exp(c_k . g / temperature))``. An item near many queries (a hub) is
    retrieved too often. Subtracting its density from its scores is the inverted softmax (Smith et al., "Offline
    bilingual word vectors", ICLR 2017; querybank normalisation, Bogolin et al., CVPR 2022). Here K centroids ``c_k`` of
    ``n_k`` queries each stand for the bank of all queries, and a share of the density can be subtracted.

    Args:
        gallery: embeddings of the items, ``(N, D)``.
        centroids: of the clusters of queries, ``(K, D)``.
        sizes: queries in each cluster, ``(K,)``; not all 0.
        temperature: of the similarities.

    Returns:
        ``(N,)`` float32, in the unit of the scores.
    """
    # bfloat16 products, divided by a small temperature, would be too coarse
    with torch.autocast(gallery.device.type, enabled=False):
        shares = (sizes.double() / sizes.sum()).log().float()
        return temperature * torch.logsumexp(gallery.float() @ centroids.float().T / temperature + shares, dim=1)


def retrieval_metrics(ranks: Tensor, ks: Sequence[int] = (1, 5, 10, 50)) -> dict[str, Tensor]:
    """Compute recall at k, median rank and mean rank.

    Args:
        ranks: 1-based ranks of the true items, ``(N_q,)``. A query that the model cannot answer has an infinite rank
            and is a miss at every k. The MSR-VTT protocol has such queries: clips without audio.
        ks: cut-offs of the recall.

    Returns:
        0-d float32 tensors. ``R@k`` for each k is the share of queries with rank at most k in per cent.
        ``median_rank`` is the mean of the two middle ranks for an even number. ``mean_rank`` is over finite ranks.

    Raises:
        ValueError: if there are no ranks, or one is below 1 or NaN, or a cut-off is below 1.
    """
    check_ks(ks)
    check_arrays(ranks=(ranks, "(N_q,)"))
    check_values("ranks", ranks >= 1, "numbers of at least 1", ranks)
    ranks = ranks.double()
    ordered = ranks.sort().values
    # torch.median returns the lower of the two middle values
    median = (ordered[(len(ranks) - 1) // 2] + ordered[len(ranks) // 2]) / 2
    finite = ranks[ranks.isfinite()]
    # without a finite rank the mean is infinite, as the first rank is
    mean = finite.mean() if len(finite) else ordered[0]
    result = {f"R@{k}": 100 * (ranks <= k).double().mean() for k in ks}
    return {name: value.float() for name, value in (result | {"median_rank": median, "mean_rank": mean}).items()}


@dataclass(frozen=True)
class Ranking:
    """Ranks of the queries of one direction, each query once.

    Args:
        ids: `items.hash_ids` of the queries, ``(N_q,)`` int64, ascending.
        ranks: rank of each query's item, ``(N_q,)`` float64.
        own: gallery rows of each query's item, ``(N_q,)`` int64.
        items: N, the number of gallery rows.
    """

    ids: Tensor
    ranks: Tensor
    own: Tensor
    items: int

    @property
    def queries(self) -> int:
        """Return N_q, the number of queries."""
        return len(self.ids)

    def chance(self, ks: Sequence[int]) -> dict[str, float]:
        """Return the expected metrics of a random order of the gallery: ``R@k`` in per cent, and ``median_rank``."""
        missed = torch.ones(self.queries, dtype=torch.float64)
        found, own = {}, self.own.cpu()
        for position in range(max(ks)):
            # the chance that no own row is at any of the places so far, sampled without replacement
            missed = missed * ((self.items - own - position) / max(self.items - position, 1)).clamp(min=0)
            if (k := position + 1) in ks:
                single = min(1.0, k / self.items)
                found[f"R@{k}"] = 100 * float(torch.where(own == 1, single, 1 - missed).mean())
        ranks = (self.items + 1) / (own + 1)
        return found | {"median_rank": float(retrieval_metrics(ranks)["median_rank"])}


class RetrievalRecall(Metric):
    """Retrieval metrics over all items seen, where row i of the queries belongs to row i of the gallery.

    Of several rows with one id the first counts. So the result depends neither on the number of processes nor on the
    order of batches. An item with several captions has several rows. Each caption counts on the side that ``captions``
    names, and the item counts once on the other side. A caption is ranked among items. An item is ranked by its best
    caption among all captions.

    Args:
        ks: cut-offs of the recall.
        chunk: most queries scored at a time, see `expected_ranks`.
        captions: the side on which every row of an item counts: queries or gallery. By default each item counts once on
            both.
        **kwargs: of ``torchmetrics.Metric``. ``compute_on_cpu=True`` keeps the embeddings on the CPU and ranks there.

    Attributes:
        ranking: ranks of the last ``compute``, on every process; ``None`` before it.
    """

    full_state_update = False
    is_differentiable = False

    query_ids: list[Tensor]
    query_items: list[Tensor]
    queries: list[Tensor]
    gallery_ids: list[Tensor]
    gallery_items: list[Tensor]
    gallery: list[Tensor]

    def __init__(
        self,
        ks: Sequence[int] = (1, 5, 10, 50),
        chunk: int = 1024,
        captions: Literal["queries", "gallery"] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **kwargs})
        check_ks(ks)
        self.ks = tuple(ks)
        self.chunk = chunk
        self.captions = captions
        self.ranking: Ranking | None = None
        for name in ("query_ids", "query_items", "queries", "gallery_ids", "gallery_items", "gallery"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        ids: Sequence[str],
        queries: Tensor,
        gallery: Tensor,
        items: Sequence[str] = (),
        has_query: Tensor | None = None,
        has_item: Tensor | None = None,
    ) -> None:
        """Add pairs of a query and its item.

        Args:
            ids: B names, one for each pair.
            queries: ``(B, D)``, kept as float32.
            gallery: ``(B, D)``, kept as float32.
            items: item of each row, B names; several rows may have one item. ``ids`` when empty.
            has_query: rows that have a query, ``(B,)`` bool; all by default. The others only add to the gallery.
            has_item: rows that have a gallery item, ``(B,)`` bool; all by default. A query whose item is not in the
                gallery is left out.

        Raises:
            ValueError: if the shapes do not fit each other or the rows that came before.
        """
        width = self.queries[-1].shape[1] if self.queries else "D"
        masks = {"has_query": has_query, "has_item": has_item}
        check_arrays(
            True,
            ids=(ids, "(B,)"),
            queries=(queries, f"(B, {width})"),
            gallery=(gallery, f"(B, {width})"),
            items=(items or ids, "(B,)"),
            **{name: (mask, "(B,) bool") for name, mask in masks.items() if mask is not None},
        )
        hashes = hash_ids(ids, queries.device)
        groups = hash_ids(items, queries.device) if items else hashes
        for side, rows, present in (("query", queries, has_query), ("gallery", gallery, has_item)):
            kept = slice(None) if present is None else present
            getattr(self, f"{side}_ids").append(hashes[kept])
            getattr(self, f"{side}_items").append(groups[kept])
            # float32, as rounding to bfloat16 would make different items tie
            getattr(self, "queries" if side == "query" else "gallery").append(rows.detach().float()[kept])

    def _side(self, side: str, rows: list[Tensor], by_id: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids, items and embeddings of one side, each id or each item once."""
        ids, items = (
            concatenated(part, "RetrievalRecall")
            for part in (getattr(self, f"{side}_ids"), getattr(self, f"{side}_items"))
        )
        once = first_of_each(ids)
        if not by_id:  # the row with the smallest id, whatever the order of batches and processes
            once = once[first_of_each(items[once])]
        return (ids if by_id else items)[once], items[once], rows_of(rows, once)

    def _ranked(self) -> Ranking:
        ids, query_items, queries = self._side("query", self.queries, self.captions == "queries")
        _, items, gallery = self._side("gallery", self.gallery, self.captions == "gallery")
        distinct, counts = items.unique(return_counts=True)
        # clamped: an item after the last one is compared with that one, and differs
        position = torch.searchsorted(distinct, query_items).clamp(max=len(distinct) - 1)
        own = torch.where(distinct[position] == query_items, counts[position], 0)
        ranks = item_ranks(queries, gallery, query_items, items, self.chunk)
        kept = own > 0
        if not kept.any():
            raise ValueError("RetrievalRecall has no query whose item is in the gallery")
        return Ranking(ids[kept], ranks[kept], own[kept], len(gallery))

    def compute(self) -> dict[str, Tensor]:
        """Rank each query's item among all items.

        Returns:
            Metrics of `retrieval_metrics`: recall in per cent, median and mean rank.

        Raises:
            ValueError: without any item, or if an embedding is not finite.
        """
        self.ranking = self._ranked()
        return retrieval_metrics(self.ranking.ranks, self.ks)
