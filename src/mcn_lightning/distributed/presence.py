"""Which clips of a step have which embeddings, on all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mcn_lightning.distributed.collectives import of_group


class Subset(NamedTuple):
    """A subset of the clips of a step.

    Args:
        rows: indices of this process's clips, ``(m,)`` int64 ascending, on the device of the embeddings.
        counts: clips of the subset on each process.
    """

    rows: Tensor
    counts: list[int]

    def __bool__(self) -> bool:
        """Tell whether any process has such a clip."""
        return sum(self.counts) > 0


class Presence:
    """Which clips of a step have which embeddings, where some clips lack one.

    Clips are grouped by the set of embeddings that they have. Processes exchange the size of each group once a step.
    Any subset can then be counted on all processes without communication, and without waiting for the device.

    Args:
        names: of the embeddings.
        table: this process's clips, ``(n, names)`` bool, on the CPU.
        histograms: result of ``histogram`` on each process.
        device: of the embeddings.
    """

    def __init__(
        self, names: Sequence[str], table: Tensor, histograms: Sequence[Sequence[int]], device: torch.device | str
    ) -> None:
        self.names, self.table, self.histograms, self.device = tuple(names), table, histograms, device
        # a network has three embeddings at most, so there are at most 8 sets
        self._sets = [
            {name for bit, name in enumerate(names) if code >> bit & 1} for code in range(1 << len(self.names))
        ]
        self._found: dict[tuple[bool, ...], Subset] = {}

    @staticmethod
    def histogram(table: Tensor) -> list[int]:
        """Return the number of clips with each set of embeddings. Bit i of an index means that embedding i is there."""
        return torch.bincount(_codes(table), minlength=1 << table.shape[1]).tolist()

    def of_group(self) -> Presence:
        """Return the same for the processes of this process's group."""
        return Presence(self.names, self.table, of_group(self.histograms), self.device)

    @property
    def complete(self) -> bool:
        """Whether every clip of every process has every embedding."""
        # the last group, in which all bits are set, holds the clips with all embeddings
        return not any(count for histogram in self.histograms for count in histogram[:-1])

    def select(self, rule: Callable[[set[str]], bool]) -> Subset:
        """Return the clips whose set of embeddings fulfils a rule; results are cached."""
        # rules are functions, which cannot be compared: the cache is by the sets that they choose
        wanted = tuple(rule(names) for names in self._sets)
        if wanted not in self._found:
            # from the histograms, which every process has: asking the others would cost a round trip for each subset
            counts = [sum(count for count, want in zip(each, wanted, strict=True) if want) for each in self.histograms]
            # on the CPU, where nonzero does not wait for the device
            rows = torch.tensor(wanted)[_codes(self.table)].nonzero()[:, 0]
            self._found[wanted] = Subset(rows.to(self.device, non_blocking=True), counts)
        return self._found[wanted]

    def having(self, *names: str) -> Subset:
        """Return the clips that have all of these embeddings."""
        return self.select(lambda found: found.issuperset(names))

    def mask(self, name: str, any_of: str) -> Tensor:
        """Return which of this process's clips have an embedding, ``(n,)`` bool on the CPU.

        Args:
            name: of the embedding, or ``any_of``.
            any_of: name that asks for clips with any embedding.
        """
        return self.table.any(dim=1) if name == any_of else self.table[:, self.names.index(name)]

    def having_any(self) -> Subset:
        """Return the clips that have at least one embedding."""
        return self.select(bool)


def _codes(table: Tensor) -> Tensor:
    """Return the set of embeddings of each clip as an integer with one bit for each, ``(n,)`` int64."""
    return (table.long() << torch.arange(table.shape[1])).sum(dim=1)
