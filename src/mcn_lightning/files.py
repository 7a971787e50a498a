"""Atomic writing: a file is complete or absent, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of a file that is still being written. A killed process may leave one behind."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside a file, and rename it to the file when the block ends.

    The content reaches the disk before the new name does. If the block raises, the old file stays. Only one process at
    a time may use it: the temporary path is the name of the file followed by ``.partial``.

    Example:
        >>> with replacing(Path("run.json")) as partial:
        ...     partial.write_text("{}")

    Args:
        path: the file, which need not exist, in a folder that exists.

    Raises:
        OSError: if the temporary file cannot be written or renamed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors makes files that only their owner may read
        _to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)  # the rename itself, which is an entry of the folder


def _to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
