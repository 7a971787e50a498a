"""Count what processes send each other: the calls of ``torch.distributed`` in a block, with their tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist

COUNTED = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "all_to_all_single", "broadcast")


class Call(NamedTuple):
    """A collective operation: its name, precision, and the bytes that this process gets from the others."""

    name: str
    dtype: torch.dtype
    received: float


def received(name: str, first: torch.Tensor, world: int, splits: list[int] | None) -> float:
    """Return the bytes that a process receives by a ring, or directly, for the first tensor of a call."""
    size, others = first.numel() * first.element_size(), (world - 1) / world
    if name == "reduce_scatter_tensor":
        return (world - 1) * size  # the first tensor is a share
    if name == "all_to_all_single" and splits:
        return size * (1 - splits[dist.get_rank()] / max(1, sum(splits)))
    return size * {"all_reduce": 2 * others, "broadcast": 1.0}.get(name, others)


def noting(name: str, calls: list[Call]) -> Callable[..., object]:
    """Return a collective operation that notes its calls in a list."""
    original = getattr(dist, name)

    def noted(*given, **more):
        splits = given[2] if name == "all_to_all_single" else None
        world = dist.get_world_size(more.get("group"))
        calls.append(Call(name, given[0].dtype, received(name, given[0], world, splits)))
        return original(*given, **more)

    return noted


@contextmanager
def counted() -> Iterator[list[Call]]:
    """Note the collective operations of the block in a list."""
    calls: list[Call] = []
    with ExitStack() as stack:
        for name in COUNTED:
            stack.enter_context(patch.object(dist, name, noting(name, calls)))
        yield calls
