"""Files that are there whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""How the name of a file ends that is still being written. A killed process may leave one behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a place beside a file; what the block writes there takes the place of the file when the block ends.

    The content reaches the disk before the name does. If the block raises, what was there before stays. For one
    process at a time: the place has the name of the file with ``.partial`` after it.

    Example:
        >>> with replacing(Path("run.json")) as partial:
        ...     partial.write_text("{}")

    Args:
        path: the file, in a folder that is there. It need not be there itself.

    Raises:
        OSError: if the place cannot be written, or cannot be renamed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors writes files that only their owner may read
        _to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
