"""The lists of videos of the splits."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines


def read_video_list(path: Path) -> list[str]:
    """Read the list of videos of a split.

    Args:
        path: comma-separated values with the column ``path`` or ``video_id``, or both, and one line a video. A leading
            ``None/`` and the ending of a video or feature file (``.mp4``, ``.webm``, ``.npy``, ...) are dropped.

    Returns:
        The path of each video below the feature folder; its last part is the video's id.

    Raises:
        InputError: if the file is missing, has another header, names no video or some twice, or a line is short.
    """
    what = "a list of videos with the header 'path' or 'video_id'"
    try:
        rows = list(csv.reader(read_lines(path, what), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{path}: expected {what}, found {error}") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [header.index(name) for name in ("path", "video_id") if name in header]
    if not columns:
        raise InputError(f"{path}: expected the header 'path' or 'video_id', found '{','.join(header)}'")
    videos = []
    for row in rows[1:]:
        if len(row) <= max(columns) or not all(row[column].strip() for column in columns):
            raise InputError(
                f"{path}: expected {' and '.join(map(header.__getitem__, columns))}, found '{','.join(row)}'"
            )
        videos.append(_place_of(path, *(row[column].strip() for column in columns)))
    if not videos:
        raise InputError(f"{path}: expected one video a line, found none")
    if again := {video: times for video, times in Counter(map(video_id, videos)).items() if times > 1}:
        named = ", ".join(f"{video} {times} times" for video, times in list(again.items())[:3])
        more = f" and {len(again) - 3} more" if len(again) > 3 else ""
        raise InputError(f"{path}: expected each video once, found {len(again)} more than once: {named}{more}")
    return videos


def _place_of(path: Path, place: str, video: str | None = None) -> str:
    """Return the path of a video below the feature folder, which ends in its id.

    Args:
        path: the list, for messages.
        place: what the list has for the video.
        video: its id, where the list has both.
    """
    place = _ENDINGS.sub("", place.replace("\\", "/").removeprefix("None/").removeprefix("./"))
    if video is None or video_id(place) == video:
        return place
    if not video_id(place).startswith(video):  # ID_2d.npy
        raise InputError(f"{path}: expected a path that ends in its video_id {video}, found {place}")
    return place.removesuffix(video_id(place)) + video


_ENDINGS = re.compile(r"\s*(\.(npy|npz|mp4|webm|mkv|avi|mov|m4v|flv|3gp))+$", re.IGNORECASE)


def video_id(path: str) -> str:
    """Return the id of a video: the last part of its path."""
    return path.rsplit("/", 1)[-1]
