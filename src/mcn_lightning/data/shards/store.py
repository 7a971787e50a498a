"""Storage of shard files: a folder, or a URL of fsspec with a folder as its cache."""

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

from mcn_lightning.errors import InputError, one_line, os_reason
from mcn_lightning.files import replacing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

logger = logging.getLogger(__name__)

# no space, no quota, or a file larger than the file system allows
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ATTEMPTS = 3
"""Number of attempts to fetch a file before a lost connection ends the run."""
PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp",
            "https": "aiohttp"}  # fmt: skip
"""The packages of the most common protocols."""
Progress = Callable[[int], object]
"""A function that is called with the number of bytes received since the last call."""


class StoreError(InputError):
    """The files cannot be fetched at all: no package for the protocol, no rights, no connection, or no free space."""


def is_url(where: str | Path) -> bool:
    """Tell whether the name of a folder is a URL."""
    return "://" in str(where)


def default_cache() -> Path:
    """Return the folder of shards that are fetched from a URL."""
    # the usual place of caches on Linux
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
    """A folder of shards on this machine, and the URL of its files.

    Args:
        folder: the folder. For a URL, the subfolder of the cache that belongs to one index.
        url: URL of the files, or ``None`` for a folder that has them.
    """

    folder: Path
    url: str | None = None

    def __str__(self) -> str:
        return self.url or str(self.folder)

    def location(self, name: str) -> str:
        """Return the URL of a file, or its path, for messages."""
        return f"{self.url}/{name}" if self.url else str(self.folder / name)

    def has(self, name: str, size: int) -> bool:
        """Tell whether the folder has a file of this size."""
        path = self.folder / name
        return path.is_file() and path.stat().st_size == size

    def fetch(self, name: str, size: int, sha256: str, progress: Progress | None = None) -> Path:
        """Return the path of a file, which is fetched first if it is not in the cache.

        If several processes need a file, one fetches it and the others wait.

        Args:
            name: of the file.
            size: expected number of bytes.
            sha256: expected checksum.
            progress: called with the number of new bytes.

        Raises:
            InputError: if the file is missing or differs.
            StoreError: if it cannot be fetched or written.
        """
        from filelock import FileLock  # imported here, as most runs read a local folder

        path = self.folder / name
        if self.url is None or self.has(name, size):
            return path
        with _cache_errors(self.folder), FileLock(self.folder / f"{name}.lock"):
            if self.has(name, size):  # another process has fetched it meanwhile
                return path
            logger.info("fetching %s (%.2f GB)", self.location(name), size / 1e9)
            with replacing(path) as target:
                self.download(name, target, size, sha256, progress)
        return path

    def download(self, name: str, target: Path, size: int, sha256: str, progress: Progress | None = None) -> None:
        """Fetch a file again, and compare it with the index; see ``fetch``."""
        url = self.location(name)
        _download(url, target, progress)
        expected, found = f"{size} bytes", f"{target.stat().st_size} bytes"
        if found == expected:  # the checksum takes seconds, and says less than the size
            expected, found = f"SHA-256 {sha256}", f"SHA-256 {checksum(target)}"
        if found != expected:
            raise InputError(f"{url}: expected {expected}, found {found}; upload it anew")

    def verify(self, name: str, size: int, sha256: str) -> str | None:
        """Return what is wrong with a file at the URL, or ``None``. The fetched copy is removed.

        Raises:
            StoreError: if it cannot be fetched.
        """
        with _cache_errors(self.folder), tempfile.TemporaryDirectory(dir=self.folder, prefix="verify-") as folder:
            try:
                self.download(name, Path(folder) / name, size, sha256)
            except StoreError:
                raise
            except InputError as error:
                return str(error)
        return None

    def check_space(self, size: int) -> None:
        """Refuse to fetch more bytes than the disk of the cache has free.

        Raises:
            StoreError: if they do not fit.
        """
        free = shutil.disk_usage(self.folder).free
        if self.url is not None and size > free:
            found = f"{free / 1e9:.2f} GB; free some space, or give another --data.shards_cache"
            raise StoreError(f"{self.folder}: expected {size / 1e9:.2f} GB of free space for {self.url}, found {found}")


def open_store(where: str | Path, index: str, cache: str | Path | None = None) -> ShardStore:
    """Open a folder or a URL of shards. The index of a URL is always fetched, as it may have changed.

    Args:
        where: folder or URL.
        index: file name of the index.
        cache: folder for files that are fetched, by default ``default_cache()``.

    Raises:
        InputError: if there is no index.
        StoreError: if it cannot be fetched or written.
    """
    if not is_url(where):
        return ShardStore(Path(where))
    from filelock import FileLock

    url, cache = str(where).rstrip("/"), Path(cache or default_cache())
    with _cache_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="index-") as temporary:
            fetched = Path(temporary) / index
            _download(f"{url}/{index}", fetched)
            # the folder belongs to this version of the index: old and new shards of one URL are never mixed
            name = re.sub(r"[^\w.-]", "_", url.rpartition("/")[2])
            folder = cache / f"{name}-{checksum(fetched)[:16]}"
            folder.mkdir(exist_ok=True)
            with FileLock(folder / f"{index}.lock"), replacing(folder / index) as target:
                shutil.copyfile(fetched, target)
    return ShardStore(folder, url)


def _download(url: str, target: Path, progress: Progress | None = None) -> None:
    """Copy a file from its URL. It is tried again if the connection may be lost."""
    from fsspec.callbacks import Callback

    for attempt in range(ATTEMPTS):
        files, path = _file_system(url)
        received: list[int] = []
        callback = Callback(hooks={} if progress is None else {"progress": partial(_report, progress, received)})
        try:
            files.get_file(path, str(target), callback=callback)
            return
        except Exception as error:  # each file system has its own exceptions, and all of them end in one line
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            final = _final_error(url, error)
            if final is not None or attempt == ATTEMPTS - 1:
                raise final or _lost_connection(url, error) from error
        if progress is not None:
            progress(-sum(received))  # the next attempt starts at the first byte
        # 1 s, then 2 s: stores answer with errors while they are overloaded
        time.sleep(2**attempt)


def _final_error(url: str, error: Exception) -> InputError | None:
    """Return the error for a file that another attempt cannot fetch, or ``None``."""
    expected, reason = f"{url}: expected a file that can be read", _one_line(error)
    status = getattr(error, "status", None) or getattr(error, "code", None)  # of aiohttp and of urllib
    if isinstance(error, FileNotFoundError) or status == 404:
        return InputError(f"{expected}, found no file")
    if isinstance(error, PermissionError) or status in (401, 403) or "credential" in reason.lower():
        return StoreError(f"{expected}, found no rights ({reason}); log in, or set the credentials of the store")
    return None


def _lost_connection(url: str, error: Exception) -> StoreError:
    return StoreError(
        f"{url}: expected a file that can be read, found a failing connection, {ATTEMPTS} times ({_one_line(error)}); "
        "start again when the store can be reached: what was fetched is kept"
    )


def _one_line(error: Exception) -> str:
    return one_line(error)[:200]


def _report(progress: Progress, received: list[int], size: int | None, value: int, **_: object) -> None:
    """Report the bytes since the last call. fsspec calls this with the total number."""
    more = value - sum(received)
    received.append(more)
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
    except (ImportError, ValueError) as error:
        advice = f"pip install {PACKAGES[protocol]}" if protocol in PACKAGES else "install it"
        message = f"expected the package that reads {protocol}://, found none ({error}); {advice}"
        if isinstance(error, ValueError):
            message = f"expected a URL such as s3://, gs:// or hf://, found {error}"
        raise StoreError(f"{url}: {message}") from None


@contextmanager
def _cache_errors(cache: Path) -> Iterator[None]:
    """Turn an error of the disk into a ``StoreError``. Files in the cache stay."""
    try:
        yield
    except OSError as error:
        advice = "free some space, or give another --data.shards_cache: what was fetched is kept"
        raise StoreError(f"{cache}: expected free space for shards, found {os_reason(error)}; {advice}") from None
