"""The folder of an index while it is made: its own, written by one command at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.errors import InputError
from mcn_lightning.files import writing
from mcn_lightning.search.build.job import Build
from mcn_lightning.search.manifest import MANIFEST, PARTS
from mcn_lightning.search.options import IndexConfig

LOCK = ".lock"


@contextmanager
def making(config: IndexConfig, data: NarratedVideos) -> Iterator[Build]:
    """Check model, data and folder, and keep other commands from the folder in the block.

    Args:
        config: what is indexed, and where.
        data: the data set, not yet opened.

    Raises:
        InputError: if the model does not fit the data, the folder holds other files or another index, cannot be
            written, or is written by another command.
    """
    folder = Path(config.output)
    _check_folder(folder)
    # before the folder is made: a wrong option then leaves no empty folder behind
    build = Build(config, data)
    with writing(f"--output {folder}", "give another folder"):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"--output {folder}: expected one command at a time, found another that writes it"
        ) from None
    try:
        build.refresh()  # another command may have finished in between
        build.begin()
        yield build
        # while it is held: afterwards it may be another command's
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()


def _check_folder(folder: Path) -> None:
    """Refuse a folder with other files, which an index would mix with.

    Raises:
        InputError: if it is no index, unfinished index or empty folder.
    """
    own = any((folder / name).exists() for name in (MANIFEST, PARTS, LOCK))
    if folder.is_dir() and not own and any(folder.iterdir()):
        raise InputError(
            f"--output {folder}: expected an index or an empty folder, found other files; give another one"
        )
