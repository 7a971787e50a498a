"""Files of a data set: whole or not at all, and one line where they cannot be written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from mcn_lightning.files import replacing, writing


def reported(path: Path) -> AbstractContextManager[None]:
    """Report an error of the operating system in the block in one line.

    Args:
        path: a file or folder of the data set.

    Raises:
        InputError: in place of an OSError, as on a full disk.
    """
    return writing(f"--output {path}", "free space or give another folder; the same command goes on from here")


@contextmanager
def placing(path: Path) -> Iterator[Path]:
    """Give a temporary path for a file. The file is there when the block ends, whole or not at all.

    Args:
        path: of the file. Its folder is made.

    Raises:
        InputError: if it cannot be written.
    """
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as place:
            yield place


def write_array(path: Path, key: str, array: np.ndarray) -> None:
    """Write one array as ``.npz``, with the same bytes every time.

    Args:
        path: of the file.
        key: name of the array.
        array: of any shape.

    Raises:
        InputError: if it cannot be written.
    """
    with placing(path) as place, open(place, "wb") as file:
        np.savez(file, allow_pickle=False, **{key: array})


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object; see ``write_entries``."""
    write_entries(path, content.items())


def write_entries(path: Path, entries: Iterable[tuple[str, object]]) -> None:
    """Write a JSON object with one entry a line. Only one entry is in memory.

    Args:
        path: of the file.
        entries: keys, and plain data.

    Raises:
        InputError: if it cannot be written.
    """
    with placing(path) as place, open(place, "w", encoding="utf-8") as file:
        mark = "{"
        for key, value in entries:
            file.write(f"{mark}\n{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}")
            mark = ","
        file.write("\n}\n" if mark == "," else "{}\n")
