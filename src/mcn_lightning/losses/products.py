"""Dot products of embeddings in bfloat16 whose sums stay in float32.

A bfloat16 result has 8 bits. Similarities of embeddings that are not normalised are in the hundreds, so it would be
rounded by up to 1, which a softmax turns into a factor of 2.7. The factors themselves lose little: an embedding that
bfloat16 autocast made is in bfloat16 already.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

WIDE_PRODUCTS = torch.version.cuda is not None and "dtype" in torch.ops.aten.mm.overloads()
"""Whether CUDA's products of bfloat16 can have a float32 result: from torch 2.8 on, not with ROCm."""


def product(x: Tensor, y: Tensor) -> Tensor:
    """Return the matrix product, in the precision of its factors but for bfloat16, whose product is float32.

    Both ways for bfloat16 multiply the same factors and sum in float32. Call it with autocast off.

    Args:
        x: ``(n, k)``.
        y: ``(k, m)`` in the same precision.

    Returns:
        ``(n, m)``.
    """
    if x.dtype != torch.bfloat16:
        return x @ y
    if x.is_cuda and WIDE_PRODUCTS:
        return torch.mm(x, y, out_dtype=torch.float32)
    return x.float() @ y.float()


class _Saved(FunctionCtx):
    saved_tensors: tuple[Tensor, ...]


class _RoundedProducts(torch.autograd.Function):
    """Dot products ``(n, m)`` of bfloat16 factors; the gradient is rounded to bfloat16, as the factors are."""

    @staticmethod
    def forward(ctx: _Saved, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x y^T`` of ``x`` ``(n, D)`` and ``y`` ``(m, D)``."""
        x, y = x.bfloat16(), y.bfloat16()
        ctx.save_for_backward(x, y)
        return product(x, y.T)

    @staticmethod
    def backward(ctx: _Saved, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the gradient of the products into those of ``x`` and ``y``."""
        x, y = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            gradient = gradients[0].bfloat16()
            return product(gradient, y), product(gradient.T, x)


def dot_products(x: Tensor, y: Tensor, precision: torch.dtype) -> Tensor:
    """Return the dot products ``(n, m)`` of ``x`` ``(n, D)`` and ``y`` ``(m, D)``, with gradient, at least float32.

    Args:
        x: embeddings.
        y: embeddings.
        precision: that they are rounded to: bfloat16, float32 or float64.
    """
    with torch.autocast(x.device.type, enabled=False):
        if precision == torch.bfloat16:
            return _RoundedProducts.apply(x, y)
        return x.to(precision) @ y.to(precision).T
