"""The classes of UCF101 and HMDB51."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.data.files.pickles import Record
from mcn_lightning.errors import InputError


def class_text(name: str) -> str:
    """Return a class name as words: ``ApplyEyeMakeup`` as "apply eye makeup", ``brush_hair`` as "brush hair"."""
    return " ".join(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z_\s]+", name)) or name


def class_names(path: Path, entries: Sequence[Record]) -> list[str]:
    """Return the classes of a pickle with classes, in alphabetical order, which numbers them.

    Raises:
        InputError: if a clip has no class.
    """
    for number, entry in enumerate(entries):
        if not isinstance(entry.get("class"), str) or not entry["class"]:
            found = entry.get("class")
            raise InputError(f"{path}: clip number {number}: expected a name under 'class', found {found!r}")
    return sorted({entry["class"] for entry in entries})
