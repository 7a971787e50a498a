"""Items with ids for metrics: ids as tensors, removal of repeated items, and gathering over processes.

A data-parallel sampler repeats items so that all processes get the same number. A metric that counts rows then depends
on the number of processes. One that counts ids does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def hash_ids(ids: Sequence[str], device: torch.device | str | None = None) -> Tensor:
    """Hash ids to integers that are the same on every process and in every run.

    Args:
        ids: B names.
        device: of the result.

    Returns:
        64-bit BLAKE2b digests, ``(B,)`` int64. Two of a million different ids collide with probability 3e-8.

    Raises:
        ValueError: if ``ids`` is one string instead of a sequence of strings, or holds something else.
    """
    if isinstance(ids, str) or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"ids must be a sequence of strings, got {ids!r:.80}; pass one string for each row")
    # strings cannot be gathered by a collective of tensors, 64-bit numbers can
    digests = (blake2b(name.encode(), digest_size=8).digest() for name in ids)
    # Python's own hash() of a string differs between processes
    numbers = [int.from_bytes(digest, "big", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def first_of_each(hashes: Tensor) -> Tensor:
    """Return the first row of each id.

    Args:
        hashes: `hash_ids` of the rows, ``(B,)`` int64.

    Returns:
        Row indices, int64, one for each different id, in the order of the hashes. This order does not depend on how the
        rows were distributed over batches and processes.
    """
    # stable: of equal hashes the row that was added first comes first
    ordered, rows = torch.sort(hashes, stable=True)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return rows[first]


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> list[Tensor]:
    """Gather the rows of every process; the ``dist_sync_fn`` of the metrics here.

    Unlike the function of torchmetrics, it allows processes without rows, whatever width and type the others have. Rows
    on the CPU are moved to the GPU if the process group is NCCL, which cannot send them otherwise.

    Args:
        rows: ``(B,)`` or ``(B, D)``; B may differ between processes.
        group: process group, all processes by default.

    Returns:
        One tensor for each process, on the device of ``rows``.
    """
    form = (tuple(rows.shape), rows.dtype)
    shapes = [form] * dist.get_world_size(group)
    dist.all_gather_object(shapes, form, group=group)
    filled = [(shape, dtype) for shape, dtype in shapes if shape[0] > 0]
    if not filled:
        return [rows for _ in shapes]
    (_, *width), dtype = filled[0]
    # all_gather takes tensors of one shape; the padding is cut off below
    longest = max(shape[0] for shape, _ in filled)

    needs_cuda = rows.device.type == "cpu" and dist.get_backend(group) == "nccl"
    own = rows if rows.shape[0] else rows.new_zeros(0, *width)
    own = own.to(dtype=dtype, device="cuda" if needs_cuda else rows.device)
    padded = F.pad(own, [0, 0] * len(width) + [0, longest - len(own)])
    gathered = [torch.empty_like(padded) for _ in shapes]
    dist.all_gather(gathered, padded.contiguous(), group=group)
    return [part[: shape[0]].to(rows.device) for part, (shape, _) in zip(gathered, shapes, strict=True)]


def rows_of(state: list[Tensor] | Tensor, numbers: Tensor) -> Tensor:
    """Return rows of a metric's list state, without a copy of all rows.

    Args:
        state: tensors ``(n, D)`` that ``update`` appended; a single tensor after gathering.
        numbers: of the rows over all tensors, ``(m,)`` int64, each at most once.

    Returns:
        The rows in the order of their numbers, ``(m, D)``.
    """
    if isinstance(state, Tensor):
        return state[numbers]
    # rows that are not asked for go to a place after the last one: a mask would make the host wait for a GPU
    places = torch.full((sum(map(len, state)),), len(numbers), device=numbers.device)
    places[numbers] = torch.arange(len(numbers), device=numbers.device)
    rows = state[0].new_empty(len(numbers) + 1, *state[0].shape[1:])
    for part, place in zip(state, places.split([len(part) for part in state]), strict=True):
        rows.index_copy_(0, place, part)
    return rows[:-1]


def concatenated(state: list[Tensor] | Tensor, metric: str) -> Tensor:
    """Concatenate a metric's list state, which is a single tensor after gathering.

    Args:
        state: tensors that ``update`` appended.
        metric: name of the metric, for the message.

    Returns:
        All rows in one tensor.

    Raises:
        ValueError: if there is no row.
    """
    parts = [state] if isinstance(state, Tensor) else state
    if not any(len(part) for part in parts):
        raise ValueError(f"{metric} has seen no items: call update() before compute()")
    return torch.cat(list(parts))
