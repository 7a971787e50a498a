"""Collective operations over the processes of a run. On one process each function returns its input.

Gradients: every process computes the same global value, such as the loss over the clips of all processes. The gradient
on one process is its part, and the parts sum to the whole gradient. Data-parallel training averages over processes,
so the loss is multiplied by ``world_size()`` before ``backward``.

Groups: within ``in_group`` all functions work on the group of this process, which ``form_groups`` formed. "All
processes" then means those of the group, and a backward pass communicates in the group of its forward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from mcn_lightning.errors import InputError, one_line

Object = TypeVar("Object")
_own_group: dist.ProcessGroup | None = None
"""The group of this process, for ``in_group``; ``None`` for all processes."""
_current: dist.ProcessGroup | None = None
"""The processes that the functions of this module work on; ``None`` for all."""


def form_groups(size: int | None) -> None:
    """Divide the processes into groups of consecutive ranks, for ``in_group``. All processes call it together.

    Args:
        size: processes of a group, a divisor of their number; ``None`` for one group of all.
    """
    global _own_group
    _own_group = None
    if size is not None and size < world_size():
        _own_group, _ = dist.new_subgroups(size)


@contextmanager
def _within(group: dist.ProcessGroup | None) -> Iterator[None]:
    global _current
    before, _current = _current, group
    try:
        yield
    finally:
        _current = before


def in_group() -> AbstractContextManager[None]:
    """Return a context in which all functions of this module work on the group of this process."""
    return _within(_own_group)


def group_size() -> int:
    """Return the number of processes of this process's group."""
    with in_group():
        return world_size()


def has_groups() -> bool:
    """Return whether the processes are divided into several groups."""
    return _own_group is not None


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    # the cores that SLURM or taskset gave; cpu_count would count all, but is all that macOS has
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def world_size() -> int:
    """Return the number of processes; 1 without a process group."""
    return dist.get_world_size(_current) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank(_current) if world_size() > 1 else 0


def of_group(values: Sequence[Object]) -> list[Object]:
    """Return the values of the processes of this process's group.

    Args:
        values: one for each process of the run.
    """
    if _own_group is None:
        return list(values)
    size = group_size()
    first = dist.get_rank() // size * size
    return list(values[first : first + size])


def row_counts(count: int, device: torch.device | str) -> list[int]:
    """Return the number of rows on each process.

    Args:
        count: rows of this process.
        device: that the process group communicates on.
    """
    return [found for (found,) in gather_integers([count], device)]


def gather_integers(numbers: Sequence[int], device: torch.device | str) -> list[list[int]]:
    """Gather a list of integers from each process. All lists have the same length.

    Args:
        numbers: of this process.
        device: that the process group communicates on.
    """
    if world_size() == 1:
        # no tensor: making one on a GPU would make this process wait for it
        return [list(numbers)]
    # of all processes alone: those of a group are no reason for a group of CPUs more
    group = _host_group() if torch.device(device).type == "cuda" and _current is None else None
    group, device = (_current, device) if group is None else (group, "cpu")
    found = torch.empty(world_size() * len(numbers), dtype=torch.int64, device=device)
    own = torch.tensor(list(numbers), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(found, own, group=group)
    return found.view(world_size(), -1).tolist()


_host_groups: dict[dist.ProcessGroup, dist.ProcessGroup] = {}


def _host_group() -> dist.ProcessGroup | None:
    """Return a process group of the CPUs, made once; ``None`` without gloo.

    Numbers that are on the host go through it. Through the device, they would wait for all work that is queued there.
    """
    if not dist.is_gloo_available():
        return None
    world = dist.group.WORLD
    assert world is not None  # the caller has several processes
    if world not in _host_groups:
        _host_groups.clear()  # of a process group that is gone
        try:
            _host_groups[world] = dist.new_group(backend="gloo")
        except RuntimeError as error:
            given = os.environ.get("GLOO_SOCKET_IFNAME", "none")
            wanted = "a network that connects the CPUs of all processes"
            raise InputError(
                f"GLOO_SOCKET_IFNAME {given}: expected {wanted}, found {one_line(error)}; set it"
            ) from None
    return _host_groups[world]


def gather_objects(own: Object) -> list[Object]:
    """Gather an object from each process, in the order of ranks. Objects are pickled."""
    if world_size() == 1:
        return [own]
    found = [own] * world_size()
    dist.all_gather_object(found, own, group=_current)
    return found


def sum_all(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, bit for bit the same on each; without gradient."""
    if world_size() == 1:
        return x
    # all_reduce works in place, and the tensor is the caller's
    summed = x.detach().clone()
    dist.all_reduce(summed, group=_current)
    return summed


def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """Return the tensor of process ``source``. Every process passes one of the same shape and precision."""
    if world_size() == 1:
        return x
    # broadcast works in place on the other processes
    sent = x.detach().clone().contiguous()
    dist.broadcast(sent, source if _current is None else dist.get_global_rank(_current, source), group=_current)
    return sent


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Gather the rows of all processes in the order of ranks; without gradient.

    Args:
        rows: ``(n, ...)``; n may differ between processes.
        counts: rows of each process, from ``row_counts``.

    Returns:
        ``(sum of counts, ...)``.
    """
    if world_size() == 1:
        return rows
    longest = max(counts)
    # the collective takes tensors of one shape: shorter ones are padded, and the padding is cut off below
    padded = _padded(rows.detach(), longest)
    gathered = padded.new_empty(world_size() * longest, *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, padded, group=_current)
    if all(count == longest for count in counts):
        return gathered
    return torch.cat([gathered[number * longest : number * longest + count] for number, count in enumerate(counts)])


def exchange_rows(rows: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
    """Send rows to each process, and return those that the others send to this one; without gradient.

    Args:
        rows: ``(sum of sent, ...)``, in the order of the processes that get them.
        sent: rows for each process.
        received: rows from each process.

    Returns:
        ``(sum of received, ...)``, in the order of the processes that they come from.
    """
    if world_size() == 1:
        return rows
    found = rows.new_empty(sum(received), *rows.shape[1:])
    dist.all_to_all_single(found, rows.detach().contiguous(), list(received), list(sent), group=_current)
    return found


def _padded(rows: Tensor, length: int) -> Tensor:
    """Return rows ``(n, ...)`` with rows of zeros up to a length, contiguous."""
    # F.pad takes the last dimension first; only the rows are padded
    return F.pad(rows, [0, 0] * (rows.dim() - 1) + [0, length - len(rows)]).contiguous()


def reduce_scatter_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum rows over the processes and return those of this process: the reverse of ``gather_rows``.

    Args:
        rows: ``(sum of counts, ...)``: summands of this process for the rows of all.
        counts: rows of each process.

    Returns:
        ``(n, ...)``.
    """
    if world_size() == 1:
        return rows
    longest = max(counts)
    # the collective takes as many rows for each process
    padded = rows.detach().contiguous()
    if min(counts) < longest:
        padded = torch.cat([_padded(part, longest) for part in padded.split(list(counts))])
    own = padded.new_empty(longest, *rows.shape[1:])
    dist.reduce_scatter_tensor(own, padded, group=_current)
    return own[: counts[rank()]]


class _Counts(FunctionCtx):
    counts: Sequence[int]
    group: dist.ProcessGroup | None


class _GatherSummed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Counts, rows: Tensor, counts: Sequence[int], precision: torch.dtype | None) -> Tensor:
        ctx.counts, ctx.group = counts, _current
        return gather_rows(rows.to(precision or rows.dtype), counts).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Counts, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # in the precision of the rows: it is a sum over processes, whose rounding would add up
        with _within(ctx.group):
            return reduce_scatter_rows(gradients[0], ctx.counts), None, None


def gather_summed(rows: Tensor, counts: Sequence[int], precision: torch.dtype | None = None) -> Tensor:
    """Gather the rows of all processes. Their gradient is the sum of the gradients of all processes.

    Use it where processes use the rows differently, for instance each process against its own rows.

    Args:
        rows: ``(n, ...)``.
        counts: rows of each process.
        precision: in which rows travel, for instance bfloat16 where only products in bfloat16 follow; ``None`` for
            theirs. Gradients travel in that of the rows.

    Returns:
        ``(sum of counts, ...)``, in the precision of the rows.
    """
    return rows if world_size() == 1 else _GatherSummed.apply(rows, counts, precision)


class _SumWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, part: Tensor) -> Tensor:
        return sum_all(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0]


def sum_with_gradient(part: Tensor) -> Tensor:
    """Return the sum of a value over the processes, with gradient to the part of this process."""
    return part if world_size() == 1 else _SumWithGradient.apply(part)


class _Count(FunctionCtx):
    count: int


class _ConnectParameters(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Count, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Count, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], *[None] * ctx.count


def connect_parameters(loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return the loss, connected to every parameter in the graph. Its value and gradients do not change.

    Data-parallel training waits until ``backward`` has reached each parameter. A step may not use one, for instance of
    a modality whose only loss begins later. Connected, it counts as reached, without a search for unused parameters.

    Args:
        loss: scalar.
        parameters: all parameters of the network. Those without ``requires_grad`` are left out.
    """
    if world_size() == 1:
        return loss
    return _ConnectParameters.apply(loss, *(parameter for parameter in parameters if parameter.requires_grad))


class HostCopy:
    """An asynchronous copy of a small tensor to the CPU.

    Reading it waits for the copy alone, not for work that was queued on the device afterwards.

    Args:
        x: any shape.
    """

    def __init__(self, x: Tensor) -> None:
        # MPS has no event to wait for
        self._copy = x.detach().to("cpu", non_blocking=x.device.type != "mps")
        # an event of this copy: a synchronisation of the device would wait for all queued work
        self._event = torch.cuda.Event() if x.is_cuda else None
        if self._event is not None:
            self._event.record()

    def read(self) -> Tensor:
        """Return the copy, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
