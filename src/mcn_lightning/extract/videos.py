"""Finding the videos to read, and dividing them between training, validation and test."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.errors import InputError, naming, os_reason
from mcn_lightning.files import read_lines

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".mpg", ".mpeg", ".ts", ".m4v", ".flv", ".wmv", ".3gp", ".ogv")
"""Of the files that are taken for videos in a folder. A list may name others."""
SPLITS = ("train", "val", "test")
ENDS = 2**16
"""Bytes at either end of a file by which it is known again."""


@dataclass(frozen=True, order=True)
class VideoFile:
    """A video to read.

    Args:
        name: its line in the lists of the data set: its path below the folder of videos, without the ending.
        path: the file.
    """

    name: str
    path: Path

    @property
    def id(self) -> str:
        """The last part of the name, by which captions know the video."""
        return self.name.rpartition("/")[2]


def find_videos(source: Path) -> list[VideoFile]:
    """Return the videos of a folder and those below it, or of a list, in the order of their names.

    Args:
        source: a folder; or a text file with a path on each line, relative to the folder of the list.

    Raises:
        InputError: if there are none, a listed one is missing, or two have the same id.
    """
    if source.is_dir():
        paths = [path for path in walk(source) if path.suffix.lower() in SUFFIXES]
        paths = [path for path in paths if not path.name.startswith("._")]  # what macOS keeps beside a file
        found = [VideoFile(path.relative_to(source).with_suffix("").as_posix(), path) for path in paths]
    else:
        what = "a folder of videos, or a text file that lists them"
        if source.is_file() and source.suffix.lower() in SUFFIXES:
            raise InputError(f"--videos {source}: expected {what}, found one video; give its folder")
        with naming("--videos"):
            lines = read_lines(source, what)
        found = [_listed(source, line) for line in lines if line]
    if not found:
        raise InputError(f"--videos {source}: expected videos ({', '.join(SUFFIXES)}) in it, found none")
    _check_ids(found)
    return sorted(found)


def walk(folder: Path) -> Iterator[Path]:
    """Give the files of a folder and of those below it, also of folders that are linked.

    Each folder is read once, however many links lead to it, and under its own name if it has one below ``folder``. A
    link without a target counts as a file, so that whoever reads it says what is wrong. A folder that cannot be read is
    named on stderr.
    """
    seen = set[tuple[int, int]]()
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        here = folders.popleft() if folders else links.popleft()
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            print(f"warning: {here}: expected a folder to read, found {os_reason(error)}; passed over", file=sys.stderr)
            continue
        for entry in entries:
            path = here / entry.name
            if path.is_dir() if entry.is_symlink() else entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_symlink() or entry.is_file():  # and no pipe, which has no end
                yield path


def _listed(source: Path, line: str) -> VideoFile:
    path = source.parent / line
    if not path.is_file():
        raise InputError(f"--videos {source}: expected videos on its lines, found {line}, which is no file; correct it")
    # a path outside of the list's folder has no place in the data set: its name alone is taken
    inside = not Path(line).is_absolute() and ".." not in Path(line).parts
    return VideoFile(Path(line).with_suffix("").as_posix() if inside else path.stem, path)


def _check_ids(videos: Iterable[VideoFile]) -> None:
    known: dict[str, VideoFile] = {}
    for video in videos:
        if any(part != part.strip() for part in video.name.split("/")):
            raise InputError(f"--videos: expected names without outer spaces, found {str(video.path)!r}; rename it")
        other = known.setdefault(video.id, video)
        if other is not video:
            both = f"{other.path} and {video.path}"
            raise InputError(f"--videos: expected one video for each id, found {both} for {video.id}; rename one")


def identity(path: Path) -> dict[str, object]:
    """Return by what a file is known again: its size, when it was changed, and a digest of its ends; empty without one.

    Args:
        path: of a video.
    """
    try:
        status = path.stat()
        return {"bytes": status.st_size, "changed": int(status.st_mtime), "digest": _digest(path, status.st_size)}
    except OSError:  # whoever reads the video says what is wrong
        return {}


def is_replaced(path: Path, kept: Mapping[str, object]) -> bool:
    """Tell whether a file is another one than that whose ``identity`` was kept. One that was only copied is not.

    Args:
        path: of a video.
        kept: its identity when it was read; empty if it was not kept.
    """
    if not kept:
        return False
    status = path.stat()
    if status.st_size != kept["bytes"]:
        return True
    return int(status.st_mtime) != kept["changed"] and _digest(path, status.st_size) != kept["digest"]


def _digest(path: Path, size: int) -> str:
    """Return a digest of the first and the last 64 KiB of a file."""
    with open(path, "rb") as file:
        ends = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return hashlib.sha256(ends + file.read(ENDS)).hexdigest()[:16]


def hash_fraction(video_id: str) -> float:
    """Return a number in [0, 1) that depends on the id alone, so that a video stays in its split as others come."""
    # SHA-256, as Python's own hash() differs between processes
    return int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big") / 2**64


def split_videos(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, list[str]]:
    """Divide videos between splits by a hash of their ids.

    A split with a share is never empty where there are enough videos: it takes the video that is nearest to it. One
    video at least is left for training.

    Args:
        names: of the videos.
        shares: of ``val`` and ``test``; training has the rest.

    Returns:
        The names of each split, sorted.
    """
    order = sorted(names, key=lambda name: hash_fraction(name.rpartition("/")[2]))
    found: dict[str, list[str]] = {}
    bound = 0.0
    # test first: its videos stay the same when val_share changes
    for split in ("test", "val"):
        bound += shares[split]
        wanted = [name for name in order if hash_fraction(name.rpartition("/")[2]) < bound]
        if not wanted and shares[split] > 0 and len(order) > 1:
            wanted = order[:1]
        wanted = wanted[: max(len(order) - 1, 0)]
        found[split], order = wanted, order[len(wanted) :]
    return {"train": sorted(order), "val": sorted(found["val"]), "test": sorted(found["test"])}
