"""Files that are dropped on the page: bounded in bytes and time, read in another process, gone with the server."""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from mcn_lightning.errors import InputError
from mcn_lightning.search.explore.decoder import MediaProcess

KEPT = 8
"""Files that are kept, the latest ones."""


@dataclass(frozen=True)
class Upload:
    """A file that was dropped on the page.

    Args:
        name: a random one, by which queries refer to it.
        path: where it lies.
        picture: seconds of its picture; 0 without one.
        sound: seconds of its sound; 0 without any.
    """

    name: str
    path: Path
    picture: float
    sound: float


class TooLargeError(InputError):
    """A file has too many bytes."""


class TooSlowError(InputError):
    """A file does not arrive."""


class Uploads:
    """The files that were dropped on the page.

    Args:
        process: that reads them.
        most: bytes of a file.
        seconds: in which a file must arrive.
    """

    def __init__(self, process: MediaProcess, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self._process = process
        self._folder = tempfile.TemporaryDirectory(prefix="mcn-app-")
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()

    async def take(self, body: AsyncIterator[bytes]) -> Upload:
        """Write a file as it arrives, and read it once in a process of its own.

        Args:
            body: its bytes.

        Raises:
            InputError: if it has too many bytes, arrives too slowly, or is neither sound, picture nor video.
        """
        # not the name that the user's file has, which could be a path
        name = secrets.token_hex(16)
        path = Path(self._folder.name) / name
        try:
            with anyio.move_on_after(self.seconds) as limit:
                await self._write(path, body)
            if limit.cancelled_caught:
                raise TooSlowError(f"The file did not arrive within {self.seconds:g} s. Try a shorter one.")
            found = await anyio.to_thread.run_sync(self._process.ask, "look", str(path))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        upload = Upload(name, path, found["picture"], found["sound"])
        with self._lock:
            self._kept[name] = upload
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)[1].path.unlink(missing_ok=True)
        return upload

    async def _write(self, path: Path, body: AsyncIterator[bytes]) -> None:
        size = 0
        async with await anyio.open_file(path, "wb") as file:
            async for part in body:
                size += len(part)
                if size > self.most:
                    raise TooLargeError(f"The file has more than {self.most / 1e6:g} MB. Try a shorter one.")
                await file.write(part)
        if not size:
            raise InputError("The file is empty.")

    def find(self, name: str) -> Upload:
        """Return a file.

        Raises:
            InputError: if it is not kept any more.
        """
        with self._lock:
            if name not in self._kept:
                raise InputError("This file is no longer here. Drop it again.")
            self._kept.move_to_end(name)
            return self._kept[name]

    def close(self) -> None:
        """Delete the files."""
        self._folder.cleanup()
