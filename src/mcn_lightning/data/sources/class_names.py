"""The classes of UCF101 and HMDB51."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mcn_lightning.data.files.pickles import Record
from mcn_lightning.errors import InputError


def class_text(name: str) -> str:
    """Return a class name as words: ``ApplyEyeMakeup`` as "apply eye makeup", ``brush_hair`` as "brush hair"."""
    # an abbreviation, a capital with the letters after it, or letters alone: "TVShow_on" is "tv show on"
    return " ".join(part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z_\s]+", name)) or name


def class_names(path: Path, entries: Sequence[Record]) -> list[str]:
    """Return the class names of a pickle in alphabetical order. The position of a name is its label.

    Raises:
        InputError: if a clip has no class.
    """
    names = set()
    for number, entry in enumerate(entries):
        name = entry.get("class")
        if not isinstance(name, str) or not name:
            raise InputError(f"{path}: clip number {number}: expected a name under 'class', found {name!r}")
        names.add(name)
    # sorted: the labels must not depend on the order of the clips
    return sorted(names)
