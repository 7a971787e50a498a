"""Embeddings of all clips on disk: float16 in safetensors shards, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import reading, replacing

SHARD_ROWS = 65_536
"""Rows of a shard at most."""
CHUNK = 8_192
"""Rows that are compared at a time."""


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: of the shard.
        tensors: ``(n, D)`` by name, stored as float16.
    """
    with replacing(path) as partial:
        save_file({name: value.half().contiguous() for name, value in tensors.items()}, partial)


class Vectors:
    """The embeddings of all clips, ``(N, D)`` by name.

    Args:
        folder: of the shards.
        shards: names and rows of the shards, in order.

    Raises:
        InputError: if a shard is missing, damaged or of another length.
    """

    def __init__(self, folder: Path, shards: Sequence[tuple[str, int]]) -> None:
        self._parts: list[dict[str, Tensor]] = []
        for name, rows in shards:
            path = folder / name
            with (
                reading(path, "embeddings of the index", SafetensorError, advice="make the index again"),
                safe_open(path, "pt") as file,  # tensors are views of the mapped file
            ):
                found = {key: file.get_tensor(key) for key in sorted(file.keys())}
            if any(len(value) != rows for value in found.values()):
                raise InputError(f"{path}: expected {rows} embeddings, found others; make the index again")
            self._parts.append(found)
        self._ends = np.cumsum([rows for _, rows in shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def names(self) -> list[str]:
        """Names of the embeddings."""
        return sorted(self._parts[0]) if self._parts else []

    @property
    def width(self) -> int:
        """D."""
        return self._parts[0][self.names[0]].shape[1] if self._parts else 0

    def rows(self, names: Sequence[str], rows: Sequence[int] | np.ndarray) -> Tensor:
        """Return the sum of some embeddings of some clips, ``(n, D)`` float32.

        Args:
            names: of the embeddings.
            rows: of the clips.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.zeros((len(wanted), self.width), dtype=np.float32)
        parts = np.searchsorted(self._ends, wanted, side="right")
        for part in np.unique(parts).tolist():
            places = np.flatnonzero(parts == part)
            own = wanted[places] - (int(self._ends[part - 1]) if part else 0)
            for name in names:  # by NumPy: threads of torch would wait for each other longer than this takes
                # float32 before the sum: float16 would round it a second time
                found[places] += self._parts[part][name].numpy()[own]
        return torch.from_numpy(found)

    def chunks(self, names: Sequence[str], size: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """Return the first row of each chunk of clips, and the sum of some of their embeddings ``(n, D)`` float32.

        Args:
            names: of the embeddings.
            size: rows of a chunk at most.
        """
        first = 0
        for part in self._parts:
            count = len(part[names[0]])
            for begin in range(0, count, size):
                total = part[names[0]][begin : begin + size].float()
                for name in names[1:]:
                    total += part[name][begin : begin + size]
                yield first + begin, total
            first += count
