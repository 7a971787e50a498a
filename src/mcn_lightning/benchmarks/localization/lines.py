"""Lines of annotation files. An error about a line names the file, the line, what was expected and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines

Value = TypeVar("Value")


def require(holds: bool, where: object, expected: str, found: object, advice: str = "") -> None:
    """Refuse a file unless a condition holds.

    Args:
        holds: the condition.
        where: path of the file, with the line or entry where it is known.
        expected: noun phrase of what it should hold.
        found: what it holds.
        advice: what to do about it.

    Raises:
        InputError: if the condition does not hold.
    """
    if not holds:
        raise InputError(f"{where}: expected {expected}, found {found}" + (f": {advice}" if advice else ""))


@dataclass(frozen=True)
class Line:
    """A line of a file.

    Args:
        file: path of the file.
        number: of the line, from 1.
        text: without white space at its ends.
    """

    file: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}: line {self.number}"

    def require(self, holds: bool, expected: str, found: object = None, advice: str = "") -> None:
        """Refuse the line unless a condition holds; see ``require``. By default its text was found.

        Raises:
            InputError: naming file and line.
        """
        require(holds, self, expected, f"'{self.text}'" if found is None else found, advice)

    def columns(self, expected: str, kinds: tuple[Callable[[str], Value], ...], separator: str | None) -> list[Value]:
        """Read the columns of the line.

        Args:
            expected: what the columns are, for the message.
            kinds: type of each column, or a function that raises a ValueError for wrong text.
            separator: between columns; ``None`` for white space.

        Raises:
            InputError: if the line has other columns.
        """
        try:
            return [kind(part) for kind, part in zip(kinds, self.text.split(separator), strict=True)]
        except ValueError:
            raise InputError(f"{self}: expected {expected}, found '{self.text}'") from None


def read_filled(path: Path, what: str, expected: str = "") -> list[Line]:
    """Return the lines of a text file that are not blank.

    Args:
        path: the file.
        what: what it should be, for messages.
        expected: what it should hold, if a file without such lines is an error.

    Raises:
        InputError: if it cannot be read, or all lines are blank although ``expected`` is given.
    """
    found = [Line(path, number, line) for number, line in enumerate(read_lines(path, what), 1) if line]
    require(bool(found or not expected), path, expected, "none")
    return found


def read_blocks(path: Path, what: str) -> list[list[Line]]:
    """Return the lines of a text file in blocks, which blank lines separate.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        InputError: if it cannot be read.
    """
    lines = [Line(path, number, line) for number, line in enumerate(read_lines(path, what), 1)]
    return [lines[first:stop] for filled, first, stop in runs([int(bool(line.text)) for line in lines]) if filled]


def runs(labels: Sequence[int] | np.ndarray) -> list[tuple[int, int, int]]:
    """Return the runs of equal labels as (label, first, stop), stop excluded."""
    values = np.asarray(labels)
    if not len(values):
        return []
    # a run ends where the next value differs
    bounds = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [(int(values[first]), first, stop) for first, stop in pairwise(bounds)]
