"""Still pictures of clips: taken from their videos, or kept in the index for when the videos are not at hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from tqdm import tqdm

from mcn_lightning.distributed import usable_cores
from mcn_lightning.errors import InputError, need_package
from mcn_lightning.search.clips import Row
from mcn_lightning.search.explore.decoder import MediaProcess

if TYPE_CHECKING:
    from mcn_lightning.search.index import Index

STILLS = "stills.sqlite"
SECONDS = 20.0
"""Time that a picture may take."""
PROCESSES = 8
"""Processes that take pictures, at most; no more than processors."""
CHUNK = 256  # clips after which pictures are on the disk


class KeptStills:
    """The pictures that an index keeps. There may be none.

    Args:
        folder: of the index.

    Raises:
        InputError: if the file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STILLS
        self.there = self.path.is_file()
        try:
            self.has("")
        except sqlite3.DatabaseError as error:
            raise InputError(f"{self.path}: expected pictures of clips, found {error}; delete the file") from None

    def get(self, clip: str) -> bytes | None:
        """Return the picture of a clip as JPEG, ``None`` without one.

        Args:
            clip: its id.
        """
        found = self._ask("SELECT jpeg FROM stills WHERE id = ?", clip)
        return None if found is None else bytes(found)

    def has(self, clip: str) -> bool:
        """Return whether there is a picture of a clip.

        Args:
            clip: its id.
        """
        return self._ask("SELECT 1 FROM stills WHERE id = ?", clip) is not None

    def _ask(self, query: str, clip: str) -> bytes | None:
        if not self.there:
            return None
        # a connection for each question: several threads ask
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as table:
            found = table.execute(query, [clip]).fetchone()
        return None if found is None else found[0]


def check_stills() -> None:
    """Refuse pictures that cannot be taken, before hours of work.

    Raises:
        InputError: if PyAV is missing.
    """
    need_package("av", "--stills", "pip install 'mcn-lightning[extract]'")


def take_still(process: MediaProcess, path: Path, clip: Row) -> bytes:
    """Return the picture from the middle of a clip as JPEG.

    Args:
        process: that reads the video.
        path: of the video.
        clip: of the index.

    Raises:
        InputError: if the video cannot be read.
    """
    start = float(clip["start"] or 0)
    found: bytes = process.ask("still", str(path), (start + float(clip["end"] or start)) / 2)
    return found


def keep_stills(index: Index) -> str:
    """Take a picture of each clip, and keep them in the index. Those that it has stay, so a stop costs little.

    Args:
        index: of the clips.

    Returns:
        A line on what there is now, with the reason of the first clip without a picture.

    Raises:
        InputError: if the file of the pictures is damaged.
    """
    KeptStills(index.folder)  # refuses a damaged file
    kept, reasons = 0, []
    with closing(sqlite3.connect(index.folder / STILLS)) as table:
        table.execute("CREATE TABLE IF NOT EXISTS stills (id TEXT PRIMARY KEY, jpeg BLOB NOT NULL) WITHOUT ROWID")
        before = {row[0] for row in table.execute("SELECT id FROM stills")}
        left = len(index) - len(before)
        for clip, found in tqdm(_take_all(index, before), "pictures", left, unit="clip", disable=left == 0):
            if isinstance(found, bytes):
                table.execute("INSERT INTO stills VALUES (?, ?)", [clip["id"], found])
            else:
                reasons.append(str(found))
            kept += isinstance(found, bytes)
            if kept % CHUNK == 0:
                table.commit()
        table.commit()
    size = (index.folder / STILLS).stat().st_size
    line = f"  stills of {len(before) + kept} of {len(index)} clips, {size / 1e6:.1f} MB"
    return f"{line}; first without: {reasons[0]}" if reasons else line


def _take_all(index: Index, before: set[str]) -> Iterator[tuple[Row, bytes | InputError]]:
    """Take the pictures of the clips that have none, each with its reason if there can be none."""
    with ExitStack() as stack:
        free: SimpleQueue[MediaProcess] = SimpleQueue()
        count = min(usable_cores(), PROCESSES)
        for _ in range(count):
            free.put(stack.enter_context(closing(MediaProcess(SECONDS))))

        def take(job: tuple[Row, Path | InputError]) -> bytes | InputError:
            clip, path = job
            if isinstance(path, InputError):
                return path
            process = free.get()
            try:
                return take_still(process, path, clip)
            except InputError as error:
                return InputError(f"{clip['id']}: {error}")
            finally:
                free.put(process)

        with ThreadPoolExecutor(count) as pool:
            for first in range(0, len(index), CHUNK):
                rows = range(first, min(first + CHUNK, len(index)))
                clips = [clip for clip in index.clips.take(rows) if clip["id"] not in before]
                yield from zip(clips, pool.map(take, _with_media(index, clips)), strict=True)


def _with_media(index: Index, clips: Sequence[Row]) -> list[tuple[Row, Path | InputError]]:
    found: list[tuple[Row, Path | InputError]] = []
    for clip in clips:
        try:
            found.append((clip, index.media(clip["id"])))
        except InputError as error:
            found.append((clip, error))
    return found
