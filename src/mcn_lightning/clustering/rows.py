"""The rows to cluster. They stay in their tensors and processes, and are read in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
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

    def on_first_process(self) -> Rows:
        """Return all rows on process 0, where the rows of other processes are kept on the CPU. The others have none."""
        if world_size() == 1:
            return self
        parts = []
        for part, sizes in zip(self.parts, self.sizes.tolist(), strict=True):
            if rank():
                for rows in part.split(self.chunk) if len(part) else ():
                    # in chunks, so that process 0 needs room for one chunk on its device
                    dist.send(self._load(rows).contiguous(), 0)
                # as many parts as on process 0, since Rows counts them by a collective
                parts += [part[:0]] * world_size()
            else:
                parts += [part, *(self._receive(size, source) for source, size in enumerate(sizes) if source)]
        return Rows(parts, self.device, self.chunk)

    def _receive(self, size: int, source: int) -> Tensor:
        received = torch.empty(size, self.width)
        for rows in received.split(self.chunk) if size else ():
            arrived = torch.empty(rows.shape, device=self.device)
            dist.recv(arrived, source)
            rows.copy_(arrived)
        return received

    def from_first_process(self, values: Tensor) -> Tensor:
        """Return this process's part ``(n,)`` of values that process 0 has for all rows.

        Args:
            values: ``(N,)`` on process 0; not read on the others.
        """
        if world_size() == 1:
            return values
        if rank() > 0:
            # only a buffer to receive into
            values = values.new_empty(self.total)
        values = broadcast(values)
        pairs = zip(self.parts, self.first_numbers, strict=True)
        return torch.cat([values[first : first + len(part)] for part, first in pairs])
