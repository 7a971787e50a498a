"""The lists of videos of the splits."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines, reading

# of files that users list in place of ids
_SUFFIXES = re.compile(r"\s*(\.(npy|npz|mp4|webm|mkv|avi|mov|m4v|flv|3gp))+$", re.IGNORECASE)


def read_video_list(path: Path) -> list[str]:
    """Read the list of videos of a split.

    Args:
        path: comma-separated values with the column ``path`` or ``video_id``, or both, and one line a video. A leading
            ``None/`` is dropped, and so is the suffix of a video or feature file (``.mp4``, ``.webm``, ``.npy``, ...).

    Returns:
        The path of each video in the feature folder. Its last part is the video's id.

    Raises:
        InputError: if the file is missing, has another header, names no video or one twice, or a line is short.
    """
    expected = "a list of videos with the header 'path' or 'video_id'"
    with reading(path, expected, csv.Error):
        rows = list(csv.reader(read_lines(path, expected), skipinitialspace=True))
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [header.index(name) for name in ("path", "video_id") if name in header]
    if not columns:
        raise InputError(f"{path}: expected the header 'path' or 'video_id', found '{','.join(header)}'")
    videos = []
    for row in rows[1:]:
        cells = [row[column].strip() for column in columns if column < len(row)]
        if len(cells) < len(columns) or not all(cells):
            names = " and ".join(header[column] for column in columns)
            raise InputError(f"{path}: expected {names}, found '{','.join(row)}'")
        videos.append(_feature_path(path, *cells))
    if not videos:
        raise InputError(f"{path}: expected one video a line, found none")
    # by id and not by path: captions and file names know only the id
    repeated = {video: times for video, times in Counter(map(video_id, videos)).items() if times > 1}
    if repeated:
        named = ", ".join(f"{video} {times} times" for video, times in [*repeated.items()][:3])
        raise InputError(f"{path}: expected each video once, found {len(repeated)} more than once: {named}")
    return videos


def _feature_path(path: Path, listed: str, video: str | None = None) -> str:
    """Return the path of a video in the feature folder, which ends in its id.

    Args:
        path: the list, for messages.
        listed: entry of the video in the list.
        video: its id, if the list has both columns.
    """
    # backslashes of Windows; lists of the release may have None/ before a path
    listed = _SUFFIXES.sub("", listed.replace("\\", "/").removeprefix("None/").removeprefix("./"))
    if video is None or video_id(listed) == video:
        return listed
    if not video_id(listed).startswith(video):  # a path may name the file of one stream: ID_2d.npy
        raise InputError(f"{path}: expected a path that ends in its video_id {video}, found {listed}")
    return listed.removesuffix(video_id(listed)) + video


def video_id(path: str) -> str:
    """Return the id of a video: the last part of its path."""
    return path.rsplit("/", 1)[-1]
