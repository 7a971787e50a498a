"""Contrastive losses in tiles of the similarity matrix, which is never held whole.

Every process computes the rows of its own clips, ``X_own Y^T`` with the ``Y`` of all processes, one tile after another.
The backward pass computes the tiles again from the embeddings. So the memory grows with the embeddings ``B * D`` and
the square of the tile, not with ``B * B``. On a GPU tiles are kept instead, if all of a process take up to a gigabyte.

Values are those of the whole matrix and the same on every process. Gradients are the part of the process (see
``distributed``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from mcn_lightning.distributed import gather_rows, rank, sum_with_gradient, world_size
from mcn_lightning.losses.products import product

LOWEST_EXPONENT = -60.0
"""Lowest exponent: exp() of it is 9e-27, which does not change a sum with a 1, even of 10^9 terms in float64.

Dot products of unscaled embeddings differ so much that many softmax weights would be denormal numbers. With these a
CPU's matrix products are about 30 times slower. A GPU computes with them as fast as with others.
"""
BOUNDED = {"cpu"}
"""Devices on which exponents are bounded, which reads and writes every similarity once more for each exponential."""


KEPT_BYTES = {"cuda": 1 << 30}
"""Most bytes of the tiles of a pair that are kept for the backward pass, by device; none on others.

A step of a process has 4 products of its rows with all rows, and 3 if the tiles are kept.
"""


def full_precision(x: Tensor) -> Tensor:
    """Convert a tensor to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def product_precision(x: Tensor, y: Tensor) -> torch.dtype:
    """Return the precision of dot products: that of autocast, but float32 for float16, in which they overflow."""
    dtype, device = torch.promote_types(x.dtype, y.dtype), x.device.type
    if dtype == torch.float64:
        return dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    # float16 ends at 65504, which products of embeddings that are not normalised exceed
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


@dataclass(frozen=True)
class Tiling:
    """The division of this process's rows into tiles.

    Args:
        counts: clips of each process.
        size: rows and columns of a tile.
        precision: of the dot products.
        clusters: cluster of every clip of all processes ``(B,)``, negative for none. Clips of one cluster are not
            compared.
    """

    counts: Sequence[int]
    size: int
    precision: torch.dtype
    clusters: Tensor | None = None
    own: slice = field(init=False)
    """Rows of this process's clips among those of all processes."""

    def __post_init__(self) -> None:
        # now, as a backward pass runs outside of the group of its forward pass
        first = sum(self.counts[: rank()])
        object.__setattr__(self, "own", slice(first, first + self.counts[rank()]))


class Tile(NamedTuple):
    """A tile of the similarity matrix.

    Args:
        rows: rows of the tile among this process's clips.
        columns: columns of the tile among all clips.
        values: similarities ``(rows, columns)``, at least float32; far below all others for clips that are not
            compared.
        true: the true pairs in the tile, a view of ``values``.
        true_rows: rows of these pairs among this process's clips.
        offset: diagonal of the tile on which they lie.
    """

    rows: slice
    columns: slice
    values: Tensor
    true: Tensor
    true_rows: slice
    offset: int


def keeps_tiles(x: Tensor, y: Tensor) -> bool:
    """Return whether the tiles of ``x y^T``, which are float32, are kept for the backward pass."""
    return 4 * len(x) * len(y) <= KEPT_BYTES.get(x.device.type, 0)


def tiles(x: Tensor, y: Tensor, tiling: Tiling, margin: float = 0.0, kept: Sequence[Tensor] = ()) -> Iterator[Tile]:
    """Yield the tiles of ``x y^T - margin * I``. The caller may overwrite those that were not kept.

    Args:
        x: this process's embeddings ``(n, D)``.
        y: embeddings of all clips ``(B, D)``.
        tiling: size of the tiles.
        margin: subtracted from the true pairs.
        kept: values of all tiles, in the same order, from an earlier call; none to compute them.
    """
    first, size, known = tiling.own.start, tiling.size, iter(kept)
    for top in range(0, len(x), size):
        for left in range(0, len(y), size):
            rows, columns = slice(top, min(top + size, len(x))), slice(left, min(left + size, len(y)))
            values = next(known) if kept else product(x[rows], y[columns].T)
            offset = first + top - left
            true = values.diagonal(offset)
            if tiling.clusters is not None and not kept:
                own = tiling.clusters[first + rows.start : first + rows.stop]
                # a clip is in its own cluster, but its own pair must stay
                own_pairs = true.clone()
                # not -inf: a row with -inf alone has no finite log-sum-exp; a quarter, so that differences stay finite
                same = (own[:, None] == tiling.clusters[columns]) & (own >= 0)[:, None]
                values.masked_fill_(same, torch.finfo(values.dtype).min / 4)
                true.copy_(own_pairs)
            if not kept:
                true.sub_(margin)
            start = top + max(0, -offset)
            yield Tile(rows, columns, values, true, slice(start, start + len(true)), offset)


def exp_of_difference(values: Tensor, other: Tensor, out: Tensor | None = None) -> Tensor:
    """Return ``exp(values - other)``, on a CPU with a lower bound that is too small to matter."""
    difference = torch.sub(values, other, out=out)
    if values.device.type in BOUNDED:
        difference.clamp_(min=LOWEST_EXPONENT)
    return difference.exp_()


def log_sum_exp(values: Tensor, dim: int) -> Tensor:
    """Return the log-sum-exp of finite values ``(rows, columns)`` along a dimension."""
    # torch.logsumexp would not bound the exponents; see LOWEST_EXPONENT
    largest = values.amax(dim, keepdim=True)
    return exp_of_difference(values, largest).sum(dim).log_().add_(largest.squeeze(dim))


class _Kept(FunctionCtx):
    """What a forward pass keeps for the backward pass, besides its tensors."""

    saved_tensors: tuple[Tensor, ...]
    margin: float
    tiling: Tiling


class _Normalizers(torch.autograd.Function):
    """See ``normalizers``."""

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, y: Tensor, margin: float, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
        """Return three vectors ``(B,)`` of own rows ``x`` ``(n, D)`` and all rows ``y`` ``(B, D)``."""
        row, column = (full_precision(z).new_full((len(z),), -math.inf) for z in (x, y))
        true = torch.empty_like(row)
        x, y = x.to(tiling.precision), y.to(tiling.precision)
        kept: list[Tensor] = []
        keeps = keeps_tiles(x, y)
        with torch.autocast(x.device.type, enabled=False):
            for tile in tiles(x, y, tiling, margin):
                kept += [tile.values] if keeps else []
                true[tile.true_rows] = tile.true
                row[tile.rows] = torch.logaddexp(row[tile.rows], log_sum_exp(tile.values, 1))
                column[tile.columns] = torch.logaddexp(column[tile.columns], log_sum_exp(tile.values, 0))
            # a column of the matrix has rows on every process
            column = gather_rows(column[None], [1] * world_size()).logsumexp(0)
            gathered = gather_rows(torch.stack([row, true], 1), tiling.counts)
        ctx.save_for_backward(x, y, row, column, *kept)
        ctx.margin, ctx.tiling = margin, tiling
        return gathered[:, 0], column, gathered[:, 1]

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Turn the gradients of the three vectors ``(B,)`` into those of ``x`` ``(n, D)`` and ``y`` ``(B, D)``."""
        x, y, row, column, *kept = ctx.saved_tensors
        own = ctx.tiling.own
        column_gradient = gradients[1]
        row_gradient, true_gradient = gradients[0][own], gradients[2][own]
        # at least float32, as the gradients of many tiles are summed
        x_gradient, y_gradient = (torch.zeros_like(z, dtype=row.dtype) for z in (x, y))
        with torch.autocast(x.device.type, enabled=False):
            for tile in tiles(x, y, ctx.tiling, ctx.margin, kept):
                columns = exp_of_difference(tile.values, column[tile.columns])
                # into the tile, but not into one that a second backward pass needs
                gradient = exp_of_difference(tile.values, row[tile.rows, None], out=None if kept else tile.values)
                gradient.mul_(row_gradient[tile.rows, None]).addcmul_(columns, column_gradient[tile.columns])
                gradient.diagonal(tile.offset).add_(true_gradient[tile.true_rows])
                # rounded as x and y are: products of two types are not defined; their sums are float32
                gradient = gradient.to(x.dtype)
                x_gradient[tile.rows] += product(gradient, y[tile.columns])
                y_gradient[tile.columns] += product(gradient.T, x[tile.rows])
        return x_gradient, y_gradient, None, None


def normalizers(x: Tensor, y: Tensor, margin: float, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exp over rows, over columns, and the diagonal of ``x y^T - margin * I`` for all clips.

    Args:
        x: own embeddings ``(n, D)``, at least float32.
        y: embeddings of all clips ``(B, D)`` from ``gather_summed``.
        margin: subtracted from the diagonal.
        tiling: size of the tiles.

    Returns:
        Three vectors ``(B,)``, the same on every process.
    """
    return _Normalizers.apply(x, y, margin, tiling)


class _Hinge(torch.autograd.Function):
    """See ``hinge``. It sums over this process's rows; the backward pass computes every tile again."""

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, y: Tensor, true: Tensor, margin: float, tiling: Tiling) -> Tensor:
        """Return this process's part of the sum, a scalar; ``x`` ``(n, D)``, ``y`` ``(B, D)``, ``true`` ``(B,)``."""
        bound = true - margin
        own_bound, cost = bound[tiling.own], bound.new_zeros(())
        x, y = x.to(tiling.precision), y.to(tiling.precision)
        with torch.autocast(x.device.type, enabled=False):
            for tile in tiles(x, y, tiling):
                tile.true.fill_(-math.inf)
                cost += (tile.values - own_bound[tile.rows, None]).relu_().sum()
                cost += tile.values.sub_(bound[tile.columns]).relu_().sum()
        ctx.save_for_backward(x, y, bound)
        ctx.tiling = tiling
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Turn the gradient of the scalar into those of ``x`` ``(n, D)``, ``y`` ``(B, D)`` and ``true`` ``(B,)``."""
        x, y, bound = ctx.saved_tensors
        own_bound, true_gradient = bound[ctx.tiling.own], torch.zeros_like(bound)
        # a view: what is added to it below is in true_gradient
        own_gradient = true_gradient[ctx.tiling.own]
        x_gradient, y_gradient = (torch.zeros_like(z, dtype=bound.dtype) for z in (x, y))
        with torch.autocast(x.device.type, enabled=False):
            for tile in tiles(x, y, ctx.tiling):
                tile.true.fill_(-math.inf)
                rows, columns = tile.values > own_bound[tile.rows, None], tile.values > bound[tile.columns]
                own_gradient[tile.rows] -= rows.sum(1)
                true_gradient[tile.columns] -= columns.sum(0)
                costly = rows.to(x.dtype).add_(columns)
                x_gradient[tile.rows] += product(costly, y[tile.columns])
                y_gradient[tile.columns] += product(costly.T, x[tile.rows])
        gradient = gradients[0]
        return gradient * x_gradient, gradient * y_gradient, gradient * true_gradient, None, None


def hinge(x: Tensor, y: Tensor, true: Tensor, margin: float, tiling: Tiling) -> Tensor:
    """Return the sum over false pairs (i, j) of ``max(0, margin + S_ij - S_ii) + max(0, margin + S_ij - S_jj)``.

    Args:
        x: own embeddings ``(n, D)``, at least float32.
        y: embeddings of all clips ``(B, D)`` from ``gather_summed``.
        true: similarities of the true pairs of all clips ``(B,)`` from ``gather_summed``.
        margin: required difference between a true and a false pair.
        tiling: size of the tiles.

    Returns:
        Scalar, the same on every process.
    """
    return sum_with_gradient(_Hinge.apply(x, y, true, margin, tiling))
