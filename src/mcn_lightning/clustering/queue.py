"""The queue of features of past steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Literal

import torch
from torch import Tensor, nn

from mcn_lightning.distributed import broadcast, exchange_rows, gather_rows, rank, world_size


class FeatureQueue(nn.Module):
    """A ring buffer of the rows that were pushed last.

    All state is in buffers, so that checkpoints hold it. Fill count and position are also kept as Python numbers, which
    are read from the buffers only on loading. So a push waits for the GPU only if the rows are kept on the CPU.

    With several processes each holds the whole queue, until ``divide`` leaves each a share. Rows have the same places
    in both cases, and on one process that pushes the rows of all.

    Args:
        rows: size Q. A queue of size 0 stays empty and counts as full.
        dim: width D of a row.
        dtype: precision of the rows.
        device: that of the model, or the CPU even if the model moves.
    """

    data: Tensor
    filled: Tensor
    position: Tensor

    def __init__(
        self,
        rows: int,
        dim: int,
        dtype: torch.dtype = torch.float32,
        device: Literal["model", "cpu"] = "model",
    ) -> None:
        super().__init__()
        self.rows, self.on_cpu = rows, device == "cpu"
        self.register_buffer("data", torch.zeros(rows, dim, dtype=dtype, device="cpu" if self.on_cpu else None))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self._filled = self._position = 0
        self.divided = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureQueue:
        """Move the buffers, except rows that stay on the CPU. Torch calls this for every way to move a module."""
        # recognised by identity: `fn` gets each buffer without its name
        on_cpu_rows = self.data if self.on_cpu else None
        return super()._apply(lambda tensor: tensor if tensor is on_cpu_rows else fn(tensor), recurse)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        # a resumed run must push to the same place
        self._filled, self._position = int(self.filled), int(self.position)

    @property
    def full(self) -> bool:
        """Whether the queue holds Q rows."""
        return self._filled == self.rows

    @torch.no_grad()
    def push(self, rows: Tensor, counts: Sequence[int] | None = None) -> None:
        """Add rows, replacing the oldest ones when the queue is full. Of more than Q the last Q stay.

        Args:
            rows: ``(n, D)``.
            counts: rows of each process, which are added in the order of ranks; ``None`` if these rows are all.
        """
        if self.rows == 0:
            return
        rows = rows.detach().to(self.data.dtype)
        if counts is not None and not self.divided:
            rows = gather_rows(rows, counts)
        if counts is None or not self.divided:
            counts = [len(rows)]
        # the number of each process's first row: rows that this push itself would overwrite have negative ones
        *firsts, end = accumulate(counts, initial=min(0, self.rows - sum(counts)))
        for some, places in self._arriving(rows, list(zip(firsts, counts, strict=True))):
            self.data[places] = some
        self._position = (self._position + end) % self.rows
        self._filled = min(self._filled + end, self.rows)
        self.position.fill_(self._position)
        self.filled.fill_(self._filled)

    def _arriving(self, rows: Tensor, sources: Sequence[tuple[int, int]]) -> Iterator[tuple[Tensor, slice]]:
        """Yield the rows of a push that belong to this process's rows, and their places among these.

        Args:
            rows: of this process, or all if there is one source.
            sources: number of the first row of each process, and how many it has.
        """
        if len(sources) == 1:
            for part, places in self._parts(*sources[0], rank()):
                yield rows[part], places
            return
        leaving = [self._parts(*sources[rank()], owner) for owner in range(world_size())]
        coming = [self._parts(*source, rank()) for source in sources]
        sent = torch.cat([rows[:0], *(rows[part] for parts in leaving for part, _ in parts)])
        sizes = [[sum(part.stop - part.start for part, _ in parts) for parts in each] for each in (leaving, coming)]
        found, taken = exchange_rows(sent, *sizes), 0
        for _, places in chain.from_iterable(coming):
            count = places.stop - places.start
            yield found[taken : taken + count], places
            taken += count

    def _parts(self, first: int, count: int, owner: int) -> list[tuple[slice, slice]]:
        """Return the parts of consecutive rows of a push that belong to a process, and their places among its rows.

        Args:
            first: number of the first of these rows in the push; negative rows belong to no process.
            count: of these rows.
            owner: the process.
        """
        low, high = self._bounds(owner) if self.divided else (0, self.rows)
        found = []
        # row i has the place (position + i) % Q: rows reach the places before `position` in a second turn
        for turn in (0, self.rows):
            begin = max(0, first, low + turn - self._position)
            end = min(first + count, high + turn - self._position)
            if begin < end:
                place = begin + self._position - turn - low
                found.append((slice(begin - first, end - first), slice(place, place + end - begin)))
        return found

    def _bounds(self, owner: int) -> tuple[int, int]:
        """Return the first place of a process's share, and the end of it."""
        return self.rows * owner // world_size(), self.rows * (owner + 1) // world_size()

    @torch.no_grad()
    def divide(self) -> None:
        """Keep this process's share of the rows alone. All processes call it together."""
        if world_size() > 1 and not self.divided:
            first, last = self._bounds(rank())
            self.data, self.divided = self.data[first:last].clone(), True

    def restore(self) -> None:
        """Hold the whole queue again. All processes call it together."""
        if self.divided and (whole := self.whole(self.data.device)) is not None:
            self.data, self.divided = whole, False

    @torch.no_grad()
    def whole(self, device: torch.device | None) -> Tensor | None:
        """Return the places of all shares ``(Q, D)`` of a divided queue. All processes call it together.

        Args:
            device: of the result; ``None`` to take part and get none.
        """
        width, dtype = self.data.shape[1], self.data.dtype
        found = None if device is None else torch.empty(self.rows, width, dtype=dtype, device=device)
        for owner in range(world_size()):
            first, last = self._bounds(owner)
            rows = self.data if owner == rank() else self.data.new_empty(last - first, width)
            rows = broadcast(rows.to(self.filled.device), owner)  # on the device on which processes communicate
            if found is not None:
                found[first:last] = rows
        return found

    def contents(self) -> Tensor:
        """Return the rows held so far ``(filled, D)``, in the order of storage. The queue must not be divided."""
        return self.data[: self._filled]

    def share(self) -> Tensor:
        """Return this process's share of a full queue. Each row is in the share of one process."""
        first, last = self._bounds(rank())
        return self.data if self.divided else self.data[first:last]
