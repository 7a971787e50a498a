"""What several processes do together; on one process each function returns its input.

How gradients work here: a global value, such as the loss over the clips of all processes, is computed by every process
alike, and the gradient that a process finds is its part of the whole gradient: the parts sum to it. Data-parallel
training averages over the processes, so the loss is multiplied by ``world()`` before its gradient is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Object = TypeVar("Object")


def world() -> int:
    """Return the number of processes; 1 where no process group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def row_counts(count: int, device: torch.device | str) -> list[int]:
    """Return how many rows every process has.

    Args:
        count: rows of this process.
        device: where the process group's tensors live.
    """
    return [found for (found,) in numbers_of_all([count], device)]


def numbers_of_all(numbers: Sequence[int], device: torch.device | str) -> list[list[int]]:
    """Return some whole numbers of every process, as many on each.

    Args:
        numbers: of this process.
        device: where the process group's tensors live.
    """
    if world() == 1:
        return [list(numbers)]
    found = torch.empty(world() * len(numbers), dtype=torch.int64, device=device)
    dist.all_gather_into_tensor(found, torch.tensor(list(numbers), dtype=torch.int64, device=device))
    return found.view(world(), -1).tolist()


def gather_objects(own: Object) -> list[Object]:
    """Return what every process has, in the order of the processes; it is pickled on the way."""
    if world() == 1:
        return [own]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, own)
    return found


def sum_all(x: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes, the same bits on each; without gradient."""
    if world() == 1:
        return x
    summed = x.detach().clone()
    dist.all_reduce(summed)
    return summed


def broadcast(x: Tensor, source: int = 0) -> Tensor:
    """Return the tensor that process ``source`` has; every process gives one of its shape and precision."""
    if world() == 1:
        return x
    sent = x.detach().clone().contiguous()
    dist.broadcast(sent, source)
    return sent


def gather_rows(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all processes in the order of their numbers; without gradient.

    Args:
        rows: ``(n, ...)``, n differing between processes as it may.
        counts: rows of every process, from ``row_counts``.

    Returns:
        ``(sum of counts, ...)``.
    """
    if world() == 1:
        return rows
    most = max(counts)
    padded = F.pad(rows.detach(), [0, 0] * (rows.dim() - 1) + [0, most - len(rows)]).contiguous()
    everyone = padded.new_empty(world() * most, *rows.shape[1:])
    dist.all_gather_into_tensor(everyone, padded)
    if all(count == most for count in counts):
        return everyone
    return torch.cat([everyone[number * most : number * most + count] for number, count in enumerate(counts)])


def sum_to_owners(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Sum rows over the processes and return those of this process: the opposite of ``gather_rows``.

    Args:
        rows: ``(sum of counts, ...)``, each process with summands for the rows of all.
        counts: rows of every process.

    Returns:
        ``(n, ...)``.
    """
    summed = sum_all(rows)
    first = sum(counts[: rank()])
    return summed[first : first + counts[rank()]]


class _GatherSummed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: Sequence[int]) -> Tensor:
        ctx.counts = counts
        return gather_rows(rows, counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return sum_to_owners(gradient, ctx.counts), None


def gather_summed(rows: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the rows of all processes; what each process finds of their gradient is summed.

    For rows that processes use differently, for instance each against rows of its own.

    Args:
        rows: ``(n, ...)``.
        counts: rows of every process.

    Returns:
        ``(sum of counts, ...)``.
    """
    return rows if world() == 1 else _GatherSummed.apply(rows, counts)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return sum_all(part)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient


def total(part: Tensor) -> Tensor:
    """Return the sum of this process's part and those of the others, with gradient to this one's."""
    return part if world() == 1 else _Total.apply(part)


class _Reach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return gradient, *[None] * ctx.count


def reach(loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return the loss with a way back to every parameter, on which no gradient comes where the loss had none.

    Data-parallel training waits until each parameter was reached. A parameter that a step does not use (of a modality
    whose only loss begins later, say) then counts as one with gradient 0, without a search of the graph.

    Args:
        loss: scalar.
        parameters: all parameters of the network; those without ``requires_grad`` are left out.
    """
    if world() == 1:
        return loss
    return _Reach.apply(loss, *(parameter for parameter in parameters if parameter.requires_grad))


class Later:
    """A small tensor on its way to the host, read later without waiting for what the device was given since.

    Args:
        x: any shape.
    """

    def __init__(self, x: Tensor) -> None:
        self._copy = x.detach().to("cpu", non_blocking=True)
        self._event = torch.cuda.Event() if x.is_cuda else None
        if self._event is not None:
            self._event.record()

    def read(self) -> Any:
        """Return the values, as ``Tensor.tolist`` does."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy.tolist()


class Subset(NamedTuple):
    """Some clips of a step.

    Args:
        rows: which of this process's clips, ``(m,)`` int64 ascending, on the device of the embeddings.
        counts: how many every process has.
    """

    rows: Tensor
    counts: list[int]

    def __bool__(self) -> bool:
        """Tell whether any process has such a clip."""
        return sum(self.counts) > 0


class Presence:
    """Which clips of a step have which embeddings, where some lack one.

    A clip is known by the set of embeddings that it has. How many clips of each set every process has is exchanged
    once a step; the clips of any subset are then counted without asking the other processes, or the device.

    Args:
        names: of the embeddings.
        table: this process's clips, ``(n, names)`` bool, on the CPU.
        histograms: for every process what ``histogram`` gives there.
        device: of the embeddings.
    """

    def __init__(
        self, names: Sequence[str], table: Tensor, histograms: Sequence[Sequence[int]], device: torch.device | str
    ) -> None:
        self.names, self.table, self.histograms, self.device = tuple(names), table, histograms, device
        self._sets = [
            {name for bit, name in enumerate(names) if code >> bit & 1} for code in range(1 << len(self.names))
        ]
        self._found: dict[tuple[bool, ...], Subset] = {}

    @staticmethod
    def histogram(table: Tensor) -> list[int]:
        """Return how many clips have each set of embeddings; the bits of its place say which (the first is bit 0)."""
        return torch.bincount(_codes(table), minlength=1 << table.shape[1]).tolist()

    @property
    def complete(self) -> bool:
        """Whether every clip of every process has every embedding."""
        return not any(count for histogram in self.histograms for count in histogram[:-1])

    def select(self, rule: Callable[[set[str]], bool]) -> Subset:
        """Return the clips whose set of embeddings fulfils a rule."""
        wanted = tuple(rule(names) for names in self._sets)
        if wanted not in self._found:
            counts = [sum(count for count, want in zip(each, wanted, strict=True) if want) for each in self.histograms]
            rows = torch.tensor(wanted)[_codes(self.table)].nonzero()[:, 0]
            self._found[wanted] = Subset(rows.to(self.device, non_blocking=True), counts)
        return self._found[wanted]

    def having(self, *names: str) -> Subset:
        """Return the clips that have all of these embeddings."""
        return self.select(lambda found: found.issuperset(names))

    def mask(self, name: str, any_of: str) -> Tensor:
        """Return which of this process's clips have an embedding, ``(n,)`` bool on the CPU.

        Args:
            name: of the embedding.
            any_of: the name that stands for having any of them.
        """
        return self.table.any(dim=1) if name == any_of else self.table[:, self.names.index(name)]

    def having_any(self) -> Subset:
        """Return the clips that have at least one embedding."""
        return self.select(bool)


def _codes(table: Tensor) -> Tensor:
    """Return the set of each row ``(n,)`` int64, with a bit for each column."""
    return (table.long() << torch.arange(table.shape[1])).sum(dim=1)
