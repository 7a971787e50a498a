"""Where the files of shards are: a folder, or a URL that fsspec knows and a folder as its cache."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mcn_lightning.errors import InputError, os_reason
from mcn_lightning.files import replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger(__name__)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ATTEMPTS = 3
"""Times that a file is fetched before a lost connection ends the run."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp",
            "https": "aiohttp"}  # fmt: skip
"""The packages of the protocols that are used most."""
Progress = Callable[[int], object]
"""Is told how many more bytes have come."""


class StoreError(InputError):
    """The files cannot be fetched at all: no package for the protocol, no rights, no connection, or no room."""


def is_url(where: str | Path) -> bool:
    """Tell whether shards are elsewhere, by their name."""
    return "://" in str(where)


def default_cache() -> Path:
    """Return the folder in which shards are kept that come from elsewhere."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mcn-lightning" / "shards"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class ShardStore:
    """A folder of shards on this machine, and where its files come from.

    Args:
        folder: the folder; of shards elsewhere, the part of the cache that belongs to one index.
        url: where the files come from; ``None`` for a folder that has them.
    """

    folder: Path
    url: str | None = None

    def __str__(self) -> str:
        return self.url or str(self.folder)

    def place(self, name: str) -> str:
        """Return what messages call a file: its path, or its URL."""
        return f"{self.url}/{name}" if self.url else str(self.folder / name)

    def has(self, name: str, size: int) -> bool:
        """Tell whether a file lies in the folder, by its size."""
        path = self.folder / name
        return path.is_file() and path.stat().st_size == size

    def fetch(self, name: str, size: int, sha256: str, progress: Progress | None = None) -> Path:
        """Return the path of a file, which is fetched first where it comes from elsewhere and is not in the cache.

        Of several processes that ask for one file, one fetches it and the others wait for it.

        Args:
            name: of the file.
            size: bytes that it must have.
            sha256: checksum that it must have.
            progress: is told of the bytes as they come.

        Raises:
            InputError: if there is no such file, or another one.
            StoreError: if it cannot be fetched or written.
        """
        from filelock import FileLock

        path = self.folder / name
        if self.url is None or self.has(name, size):
            return path
        with _writing(self.folder), FileLock(self.folder / f"{name}.lock"):
            if self.has(name, size):  # another process has fetched it meanwhile
                return path
            logger.info("fetching %s (%.2f GB)", self.place(name), size / 1e9)
            with replacing(path) as target:
                self.download(name, target, size, sha256, progress)
        return path

    def download(self, name: str, target: Path, size: int, sha256: str, progress: Progress | None = None) -> None:
        """Fetch a file anew, and compare it with what was packed; see ``fetch``."""
        _download(self.place(name), target, progress)
        found = target.stat().st_size
        if found != size:
            raise InputError(f"{self.place(name)}: expected {size} bytes, found {found}; upload it anew")
        if (other := checksum(target)) != sha256:
            raise InputError(f"{self.place(name)}: expected SHA-256 {sha256}, found {other}; upload it anew")

    def verify(self, name: str, size: int, sha256: str) -> str | None:
        """Return what is wrong with a file where it comes from, or ``None``; nothing of it is kept.

        Raises:
            StoreError: if it cannot be fetched.
        """
        with _writing(self.folder), tempfile.TemporaryDirectory(dir=self.folder, prefix="verify-") as place:
            try:
                self.download(name, Path(place) / name, size, sha256)
            except StoreError:
                raise
            except InputError as error:
                return str(error)
        return None

    def check_room(self, size: int) -> None:
        """Refuse to fetch more than the disk of the cache has room for.

        Args:
            size: bytes that are to come.

        Raises:
            StoreError: if they do not fit.
        """
        free = shutil.disk_usage(self.folder).free
        if self.url is not None and size > free:
            raise StoreError(
                f"{self.folder}: expected {size / 1e9:.2f} GB of room for the shards of {self.url}, found "
                f"{free / 1e9:.2f} GB; free some space, or give another --data.shards_cache"
            )


def open_store(where: str | Path, index: str, cache: str | Path | None = None) -> ShardStore:
    """Find the shards; of those that are elsewhere the index is fetched anew, as it may have changed.

    Args:
        where: folder or URL.
        index: file name of the index.
        cache: folder for what is fetched; ``default_cache()`` where none is given.

    Raises:
        InputError: if there is no index.
        StoreError: if it cannot be fetched or written.
    """
    if not is_url(where):
        return ShardStore(Path(where))
    url, cache = str(where).rstrip("/"), Path(cache or default_cache())
    with _writing(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="index-") as place:
            fetched = Path(place) / index
            _download(f"{url}/{index}", fetched)
            # the folder belongs to this very index: shards that are packed anew under one URL are never mixed
            name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2])
            folder = cache / f"{name}-{checksum(fetched)[:16]}"
            folder.mkdir(exist_ok=True)
            fetched.replace(folder / index)
    return ShardStore(folder, url)


def _download(url: str, target: Path, progress: Progress | None = None) -> None:
    """Copy a file from its URL; what may be a lost connection is tried again."""
    from fsspec.callbacks import Callback

    for attempt in range(ATTEMPTS):
        files, path = _file_system(url)
        told: list[int] = []
        callback = Callback(hooks={} if progress is None else {"told": partial(_tell, progress, told)})
        try:
            files.get_file(path, str(target), callback=callback)
            return
        except Exception as error:  # each file system has errors of its own: all of them end in one line
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            expected = f"{url}: expected a file that can be read, found"
            what = " ".join(str(error).split())[:200] or type(error).__name__
            status = getattr(error, "status", None) or getattr(error, "code", None)
            if isinstance(error, FileNotFoundError) or status == 404:
                raise InputError(f"{expected} no file") from None
            if isinstance(error, PermissionError) or status in (401, 403) or "credential" in what.lower():
                raise StoreError(
                    f"{expected} no rights ({what}); log in, or set the credentials of the store"
                ) from None
            if attempt == ATTEMPTS - 1:
                raise StoreError(
                    f"{expected} a failing connection, {ATTEMPTS} times ({what}); start again when the store can be "
                    "reached: what was fetched is kept"
                ) from error
        if progress is not None:
            progress(-sum(told))  # the same bytes come again
        time.sleep(2**attempt)


def _tell(progress: Progress, told: list[int], size: int | None, value: int, **_: object) -> None:
    """Tell how many bytes have come since the last time (called by fsspec)."""
    more = value - sum(told)
    told.append(more)
    progress(more)


def _file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """Return the file system of a URL, and the path in it.

    Raises:
        StoreError: if there is no such protocol, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    protocol = url.partition("://")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        advice = f"pip install {package}" if package else "install it"
        raise StoreError(
            f"{url}: expected the package that reads {protocol}://, found none ({error}); {advice}"
        ) from None
    except ValueError as error:
        raise StoreError(f"{url}: expected a URL such as s3://, gs:// or hf://, found {error}") from None


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """Say in one line that the cache cannot be written, or is full; what is in it stays."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{cache}: expected a folder with room for shards that are fetched, found {os_reason(error)}; free some "
            "space, or give another --data.shards_cache: what was fetched is kept"
        ) from None
