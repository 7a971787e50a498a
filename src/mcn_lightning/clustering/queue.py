"""The queue of features of past steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn


class FeatureQueue(nn.Module):
    """A ring buffer of the rows that were pushed last.

    All state is in buffers, so that checkpoints hold it. Fill count and position are also kept as Python numbers, which
    are read from the buffers only on loading. So a push waits for the GPU only if the rows are kept on the CPU.

    With several processes each holds the whole queue, as the caller pushes the rows of all in the same order. So the
    checkpoint of any process is complete.

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
    def push(self, rows: Tensor) -> None:
        """Add rows ``(n, D)``, replacing the oldest ones when the queue is full. Of more than Q the last Q stay."""
        if self.rows == 0:
            return
        # earlier rows would be overwritten within this push
        rows = rows.detach()[-self.rows :].to(self.data.dtype)
        # rows that do not fit at the end continue at the beginning
        head = min(len(rows), self.rows - self._position)
        self.data[self._position : self._position + head] = rows[:head]
        self.data[: len(rows) - head] = rows[head:]
        self._position = (self._position + len(rows)) % self.rows
        self._filled = min(self._filled + len(rows), self.rows)
        self.position.fill_(self._position)
        self.filled.fill_(self._filled)

    def contents(self) -> Tensor:
        """Return the rows held so far ``(filled, D)``, in the order of storage."""
        return self.data[: self._filled]
