"""Narrations: when each caption of a video starts and ends, what it says, and its topic where topics are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.data.batch import BadVideo, InputError
from mcn_lightning.data.clips import Clip, caption_clip
from mcn_lightning.data.pickles import load_pickle


@dataclass(frozen=True)
class Captions:
    """The captions of one video.

    Args:
        start: in seconds, ``(captions,)`` float64.
        end: in seconds, ``(captions,)`` float64.
        text: one string a caption.
        topics: known topic of each caption, ``(captions,)`` int64, where the data set has topics.
        choices: the texts that training draws from, one sequence a caption, where they are others than ``text``.
    """

    start: np.ndarray
    end: np.ndarray
    text: Sequence[str]
    topics: np.ndarray | None = None
    choices: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def clips(self, indices: Iterable[int], min_time: float) -> dict[int, Clip]:
        """Return the clips of captions, each grown to ``min_time`` seconds, by the number of the caption."""
        start, end = self.start.tolist(), self.end.tolist()  # of Python's numbers, which are faster one by one
        return {index: caption_clip(start, end, index, min_time) for index in indices}

    def word_rows(self, clips: Sequence[Clip], max_words: int) -> np.ndarray | None:
        """Return the first word indices of some of its clips, ``(B, W)`` int32; ``None`` where only text is stored."""
        return None

    def all_texts(self) -> list[str]:
        """Return every text of the video, those that training draws from among them."""
        return [*self.text, *(text for choices in self.choices or () for text in choices)]


def read_captions(path: Path, videos: Iterable[str], train_column: str = "text") -> dict[str, Captions | BadVideo]:
    """Read the captions of the videos that are wanted.

    Args:
        path: a JSON file (``.json``) or a pickle of ``{video id: {"start": [...], "end": [...], "text": [...]}}``,
            times in seconds, with the optional column ``topic``; each video may have a data frame of these columns.
        videos: ids.
        train_column: column whose texts training uses; it may hold a list of texts for each caption.

    Returns:
        For each video its captions, or why they cannot be used.

    Raises:
        InputError: if the file is missing, damaged or no mapping.
    """
    table = _read_json(path) if path.suffix == ".json" else load_pickle(path)
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: expected a mapping from video id to captions, found a {type(table).__name__}")
    return {video: _captions_of(path, video, table.get(video), train_column) for video in videos}


def _read_json(path: Path) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a captions file, found no file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a whole JSON file, found a damaged one ({error})") from None


def _captions_of(path: Path, video: str, entry: Any, train_column: str) -> Captions | BadVideo:
    """Check the captions of one video."""
    try:
        return parse_captions(entry, train_column)
    except InputError as error:
        return BadVideo(video, f"{path}: captions of {video}: {error}")


def parse_captions(entry: Any, train_column: str = "text") -> Captions:
    """Check and convert the captions of one video.

    Args:
        entry: a mapping or a data frame with the columns ``start``, ``end`` and ``text``, and perhaps ``topic``.
        train_column: column of the texts, or lists of texts, that training draws from.

    Returns:
        The captions.

    Raises:
        InputError: if a column is missing or of another length or type, a time is not a number or is negative, or a
            caption ends where it starts or earlier; the message does not name the file.
    """
    if entry is None:
        raise InputError("expected an entry for this video, found none")
    columns = entry if isinstance(entry, Mapping) else getattr(entry, "columns", ())
    if missing := [name for name in dict.fromkeys(("start", "end", "text", train_column)) if name not in columns]:
        raise InputError(f"expected the columns start, end and text, found no {' and no '.join(missing)}")
    start, end = _times(entry["start"], "start"), _times(entry["end"], "end")
    text = _texts(entry["text"])
    if not len(start) == len(end) == len(text):
        raise InputError(f"expected columns of one length, found {len(start)} start, {len(end)} end, {len(text)} text")
    if not text:
        raise InputError("expected at least one caption, found none")
    for number, (first, stop) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
        if not (0 <= first < stop < np.inf):
            raise InputError(f"expected 0 <= start < end in seconds, found {first} to {stop} in caption {number}")
    topics = _topics(entry["topic"], len(text)) if "topic" in columns else None
    choices = None if train_column == "text" else _choices(entry[train_column], train_column, len(text))
    return Captions(start, end, text, topics, choices)


def _choices(column: Any, name: str, count: int) -> tuple[tuple[str, ...], ...]:
    choices = tuple((item,) if isinstance(item, str) else _texts(item) for item in column)
    if len(choices) != count or not all(choices):
        raise InputError(f"expected texts for each of {count} captions in the column {name}, found {len(choices)} rows")
    return choices


def _times(column: Any, name: str) -> np.ndarray:
    try:
        times = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"expected numbers in the column {name}, found something else") from None
    if times.ndim != 1:
        raise InputError(f"expected a list in the column {name}, found an array of shape {times.shape}")
    return times


def _texts(column: Any) -> tuple[str, ...]:
    if isinstance(column, str | bytes) or not isinstance(column, Iterable):
        raise InputError(f"expected a list in the column text, found a {type(column).__name__}")
    texts = tuple(column)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"expected text, found {text!r} in caption {number}")
    return texts


def _topics(column: Any, count: int) -> np.ndarray:
    try:
        topics = np.asarray(column)
    except ValueError:
        raise InputError(f"expected {count} whole numbers in the column topic, found lists") from None
    if topics.shape != (count,) or topics.dtype.kind not in "iu":
        raise InputError(f"expected {count} whole numbers in the column topic, found {topics.dtype} {topics.shape}")
    return topics.astype(np.int64)
