"""Files of a data set: whole or not at all, and one line where they cannot be written."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import told_seconds
from mcn_lightning.files import replacing, writing

ASKED = 50
"""Videos, about, whose headers are asked for their lengths."""


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


def times_more(first: Path, paths: Sequence[Path]) -> float:
    """Return about how many times longer all videos are than the first one, by the headers of some.

    Args:
        first: the one.
        paths: of all.
    """
    lengths = [length for path in paths[:: max(len(paths) // ASKED, 1)] if (length := told_seconds(path))]
    own = told_seconds(first)
    return len(paths) * (sum(lengths) / len(lengths) / own if own and lengths else 1.0)


def forecast(root: Path, files: Sequence[Path], times: float, seconds: float) -> str:
    """Return what the first video shows of all: its files and their bytes, and disk and time for all.

    Args:
        root: folder of the data set.
        files: arrays of the first video.
        times: how much more all videos are.
        seconds: that the first video took.

    Raises:
        InputError: if the disk has no room for all.
    """
    shapes = []
    for path in files:
        with np.load(path) as archive:
            shapes.append(f"{path.name} {archive[archive.files[0]].shape}")
    one, free = sum(path.stat().st_size for path in files), shutil.disk_usage(root).free
    need = one * times
    if need > free:
        found = f"{size_text(free)} free; give another place"
        raise InputError(f"--output {root}: expected room for about {size_text(need)}, found {found}")
    minutes = seconds * times / 60
    length = f"{minutes / 60:.1f} h" if minutes >= 60 else f"{math.ceil(minutes)} min"
    room = f"about {size_text(need)} of {size_text(free)} free"
    return f"{', '.join(shapes)}: {size_text(one)}; {room}, and at most {length}"


def size_text(count: float) -> str:
    """Return a number of bytes with its unit, as in "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
