"""Scores in which equal items tie exactly, and ranks averaged over all orders of the items that tie.

Letters: B queries, N gallery items, U different gallery items, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mcn_lightning.metrics.checks import check_arrays, check_values

# most scores held at once, 256 MB in float32: for a larger gallery fewer queries are scored at a time
MAX_SCORES = 2**26
# most numbers in a temporary copy on the CPU, so that it fits into the processor's cache
TILE = 2**18
# the same on a GPU, where the start of a kernel costs more than a pass over a small tile
DEVICE_TILE = 2**26


def rows_at_once(chunk: int, columns: int) -> int:
    """Return how many queries to score at a time: at most ``chunk``, at most `MAX_SCORES` scores, at least 1."""
    return max(1, min(chunk, MAX_SCORES // columns))


def _tiles(rows: Tensor, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Split rows ``(N, D)`` into blocks of about `TILE` numbers, each with its slice of the results ``(N,)``.

    On a GPU a block has `DEVICE_TILE` numbers. Results are written into one tensor. Small tensors between large
    temporary ones would fragment the memory.
    """
    size = max(1, (TILE if rows.device.type == "cpu" else DEVICE_TILE) // max(1, rows.shape[1]))
    return zip(rows.split(size), values.split(size), strict=True)


def check_embeddings(queries: Tensor, gallery: Tensor) -> None:
    """Refuse embeddings that cannot be compared.

    Args:
        queries: query embeddings, ``(N_q, D)``.
        gallery: embeddings of the items, ``(N, D)``.

    Raises:
        ValueError: if they are not matrices of the same width, one is empty, or an embedding is not finite.
    """
    check_arrays(queries=(queries, "(N_q, D)"), gallery=(gallery, "(N, D)"))
    for name, embeddings in (("queries", queries), ("gallery", gallery)):
        finite = torch.empty(len(embeddings), dtype=torch.bool, device=embeddings.device)
        for part, found in _tiles(embeddings, finite):
            torch.all(part.isfinite(), dim=1, out=found)
        check_values(name, finite, "finite embeddings", embeddings)


def check_ks(ks: Sequence[int]) -> None:
    """Refuse invalid cut-offs of recall.

    Raises:
        ValueError: if there is no cut-off or one is below 1.
    """
    if len(ks) == 0 or any(k < 1 for k in ks):
        raise ValueError(f"ks must be cut-offs of at least 1, such as (1, 5, 10), got {tuple(ks)}")


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distinct rows, so that equal rows are scored once and tie exactly.

    In a matrix product, the last bit of a row's score can depend on the position of the row. So equal rows might not
    tie if each were scored. Rows are grouped by 64-bit hashes, and the rows of a group are compared. If two different
    rows have the same hash, all rows are sorted instead. 0.0 and -0.0 are equal.

    Args:
        rows: ``(N, D)`` float32 or float64 without NaN.

    Returns:
        The distinct rows ``(U, D)`` (``rows`` itself, not a copy, if no two are equal); the distinct row of each row,
        ``(N,)`` int64; and how often each occurs, ``(U,)`` int64. It needs little other memory.
    """
    distinct, column, copies = torch.unique(_row_keys(rows), return_inverse=True, return_counts=True)
    numbers = torch.arange(len(rows), device=rows.device)
    if len(distinct) == len(rows):
        return rows, numbers, torch.ones_like(numbers)
    first = torch.full_like(distinct, len(rows)).scatter_reduce_(0, column, numbers, "amin")
    same = [(part == rows[first[columns]]).all() for part, columns in _tiles(rows, column)]
    if not torch.stack(same).all():
        return torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return rows[first], column, copies


def _row_keys(rows: Tensor) -> Tensor:
    """Hash each row to an integer, ``(N,)`` int64: the sum of the numbers' bits times random odd factors."""
    # a fixed seed: results must not depend on the random state of a run
    generator = torch.Generator().manual_seed(0)
    # odd factors have an inverse modulo 2^64: rows that differ in one number never get the same key
    factors = torch.randint(-(2**62), 2**62, rows.shape[1:], generator=generator).to(rows.device) | 1
    bits = torch.int32 if rows.element_size() == 4 else torch.int64
    keys = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for part, found in _tiles(rows, keys):
        # adding 0.0 turns -0.0 into 0.0, which has other bits
        torch.sum((part + 0.0).view(bits).long().mul_(factors), dim=1, out=found)
    return keys


def dot_products(queries: Tensor, rows: Tensor) -> Tensor:
    """Score queries against `distinct_rows` in the precision of ``rows``, without autocast.

    Args:
        queries: ``(B, D)``.
        rows: ``(U, D)``, float32 or float64.

    Returns:
        ``(B, U)``.

    Raises:
        ValueError: if a score is not finite.
    """
    scores, extremes = scores_and_extremes(queries, rows)
    check_extremes(extremes)
    return scores


def scores_and_extremes(queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of `dot_products`, and the least and largest of them ``(2,)`` for `check_extremes`."""
    with torch.autocast(queries.device.type, enabled=False):
        scores = queries.to(rows.dtype) @ rows.T
    return scores, torch.stack(scores.aminmax())


def check_extremes(extremes: Tensor) -> None:
    """Refuse scores that are not finite. Called once for many blocks, it lets a GPU work without a wait.

    Raises:
        ValueError: if a number is not finite.
    """
    if not extremes.isfinite().all():
        raise ValueError("a retrieval score is not finite although the embeddings are: they are too large for float32")


def expected_rank(scores: Tensor, own: Tensor, copies: Tensor | None = None) -> Tensor:
    """Compute the rank of one candidate of each query, averaged over all orders of the candidates that tie with it.

    ``1 + #(scored higher) + #(others scored the same) / 2``, which is ``(N + 1 + sum_i sign(s_i - own)) / 2``.

    Args:
        scores: of all candidates, ``(B, U)``.
        own: score of the ranked candidate, ``(B,)``, read from ``scores``.
        copies: number of candidates with each score, ``(U,)``; their sum is N. ``None`` for one each.

    Returns:
        1 to N in steps of one half, ``(B,)`` float64.
    """
    if scores.device.type != "cpu":
        return rank_by_counts(scores, own, copies)
    weights = torch.ones_like(scores[0], dtype=torch.float64) if copies is None else copies.double()
    ahead = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    # in tiles: signs in float64 of all scores at once would take twice their memory
    width = max(1, TILE // len(scores))
    for part, weight in zip(scores.split(width, dim=1), weights.split(width), strict=True):
        ahead += (part - own[:, None]).sign_().double() @ weight
    return (weights.sum() + 1 + ahead) / 2


def rank_by_counts(scores: Tensor, own: Tensor, copies: Tensor | None = None) -> Tensor:
    """Compute `expected_rank` from two comparisons of all scores, whose temporary copies take a byte for each score.

    On a GPU this moves the least memory. On a CPU the signs of differences are several times as fast.
    """
    counts = []
    for found in (scores > own[:, None], scores == own[:, None]):
        counts.append(found.sum(dim=1).double() if copies is None else found.double() @ copies.double())
    higher, same = counts
    return (1 + 2 * higher + same) / 2


def expected_hits(scores: Tensor, targets: Tensor, ks: Sequence[int]) -> Tensor:
    """Compute the probability that each query's true candidate is among the first k, with ties in random order.

    Args:
        scores: of the candidates, ``(B, N)``.
        targets: true candidate of each query, ``(B,)`` int64.
        ks: K cut-offs.

    Returns:
        0 to 1, ``(B, K)`` float64. All scores equal give ``k / N``.
    """
    own = scores.gather(1, targets[:, None])
    higher, same = (scores > own).sum(dim=1), (scores == own).sum(dim=1)
    return torch.stack([((k - higher) / same.double()).clamp(0, 1) for k in ks], dim=1)


def expected_members(scores: Tensor, k: int) -> Tensor:
    """Compute the probability of each candidate to be among the first k, with ties in random order.

    Args:
        scores: of the candidates, ``(B, N)``.
        k: cut-off. If it is N or more, all probabilities are 1.

    Returns:
        0 to 1, ``(B, N)`` float64; each row sums to k.
    """
    if k >= scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.float64)
    last = scores.topk(k, dim=1).values[:, -1:]
    higher, tied = scores > last, scores == last
    share = (k - higher.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True).double()
    return torch.where(tied, share, higher.double())


def best_of_group(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count the candidates above and tied with the best of each query's own candidates.

    Args:
        scores: of the candidates, ``(B, N)``.
        own: which candidates are the query's own, ``(B, N)`` bool.

    Returns:
        Three counts ``(B,)`` int64: candidates scored higher than the best own one; candidates with the same score as
        it, itself included; own candidates among these. The last is 0 for a query without own candidates.
    """
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
    tied = scores == best
    return (scores > best).sum(dim=1), tied.sum(dim=1), (tied & own).sum(dim=1)
