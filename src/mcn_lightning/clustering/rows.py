"""The rows to cluster. They stay in their tensors and processes, and are read in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mcn_lightning.distributed import broadcast, gather_integers, gather_rows, rank, sum_all, world_size


class Rows:
    """This process's rows, and their order among the rows of all processes.

    Rows are numbered over all processes: first the first tensor of each process, then the second ones, and so on. So a
    queue in slices and a batch in shares are numbered like [queue ; batch] on one process.

    Args:
        parts: tensors ``(n, D)``, as many on every process, of any precision and device.
        device: for computing and for communication.
        chunk: rows that are copied to the device at a time.
    """

    def __init__(self, parts: Sequence[Tensor], device: torch.device, chunk: int) -> None:
        self.parts = [part.detach() for part in parts]
        self.device, self.chunk, self.width = device, chunk, parts[0].shape[1]
        self.count = sum(len(part) for part in parts)
        # (parts, processes): rows of each tensor on each process
        self.sizes = torch.tensor(gather_integers([len(part) for part in parts], device)).T.contiguous()
        self.total = int(self.sizes.sum())
        ends = self.sizes.flatten().cumsum(0).reshape(self.sizes.shape)
        self.first_numbers: list[int] = (ends - self.sizes)[:, rank()].tolist()

    def _load(self, rows: Tensor) -> Tensor:
        return rows.to(self.device).float()

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of this process's rows: their places, and the rows ``(n, D)`` float32."""
        first = 0
        for part in self.parts:
            for rows in part.split(self.chunk) if len(part) else ():
                yield slice(first, first + len(rows)), self._load(rows)
                first += len(rows)

    def take(self, positions: Tensor) -> Iterator[Tensor]:
        """Yield selected rows of this process in chunks ``(n, D)`` float32.

        Args:
            positions: ``(m,)`` int64, ascending indices among the rows of this process.
        """
        first = 0
        for part in self.parts:
            inside = positions[(positions >= first) & (positions < first + len(part))] - first
            for some in inside.to(part.device).split(self.chunk) if len(inside) else ():
                yield self._load(part[some])
            first += len(part)

    def by_number(self, numbers: Tensor) -> Tensor:
        """Return rows ``(m, D)`` float32 by their numbers ``(m,)``, the same on every process."""
        found = torch.zeros(len(numbers), self.width, device=self.device)
        for part, first in zip(self.parts, self.first_numbers, strict=True):
            here = ((numbers >= first) & (numbers < first + len(part))).nonzero()[:, 0]
            found[here] = self._load(part[(numbers[here] - first).to(part.device)])
        # each row has one owner, and the other processes add zeros
        return sum_all(found)

    def sample_row(self, weights: Tensor, share: float) -> Tensor:
        """Return the number ``(1,)`` int64 of the row where the cumulative sum of weights exceeds a share of the total.

        With a uniform random share this samples a row with a probability proportional to its weight.

        Args:
            weights: ``(n,)``, at least 0, one for each row of this process. If all are 0 they count as equal.
            share: in [0, 1).
        """
        # float64 on the CPU: cumulative sums of float32 would lose small weights
        pieces = weights.cpu().double().split([len(part) for part in self.parts])
        own = torch.stack([piece.sum() for piece in pieces])[None].to(self.device)
        sums = gather_rows(own, [1] * world_size()).T.flatten().cpu()
        ends = sums.cumsum(0)
        target = share * ends[-1:]
        if float(ends[-1]) == 0:
            return (share * torch.tensor([self.total], dtype=torch.float64)).long().to(self.device)
        # clamped: rounding may put the target at the end of the last part
        segment = int(torch.searchsorted(ends, target, right=True).clamp(max=len(ends) - 1))
        part, owner = divmod(segment, world_size())
        number = torch.zeros(1, dtype=torch.int64)
        if owner == rank():
            running = pieces[part].cumsum(0)
            position = torch.searchsorted(running, target - (ends[segment] - sums[segment]), right=True)
            number = position.clamp(max=len(running) - 1) + self.first_numbers[part]
        return broadcast(number.to(self.device), owner)
