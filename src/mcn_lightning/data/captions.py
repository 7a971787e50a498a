"""Narrations: when each caption of a video starts and ends, what it says, and its topic where topics are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.batch import AbsentError, BadVideo
from mcn_lightning.data.clips import Clip, caption_clip
from mcn_lightning.data.files.caption_files import Table, open_table
from mcn_lightning.errors import InputError


@dataclass(frozen=True)
class Captions:
    """The captions of one video.

    Args:
        start: in seconds, ``(captions,)`` float64.
        end: in seconds, ``(captions,)`` float64.
        text: one string a caption.
        topics: known topic of each caption, ``(captions,)`` int64, where the data set has topics.
        choices: texts from which training samples, one sequence for each caption, if they differ from ``text``.
        dropped: captions that could not be used and are not among these, by reason.
        queries: the texts that ask for each caption's clip in evaluation, one sequence a caption, where they are others
            than ``text``.
    """

    start: np.ndarray
    end: np.ndarray
    text: Sequence[str]
    topics: np.ndarray | None = None
    choices: Sequence[Sequence[str]] | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    queries: Sequence[Sequence[str]] | None = None

    def __len__(self) -> int:
        return len(self.text)

    def clips(self, indices: Iterable[int], min_time: float, widest: bool = True) -> dict[int, Clip]:
        """Return the clips of captions, each grown to ``min_time`` seconds, by the number of the caption.

        Args:
            indices: numbers of captions.
            min_time: in seconds.
            widest: which span a grown caption has; see ``clips.merge``.
        """
        start, end = self.start.tolist(), self.end.tolist()  # of Python's numbers, which are faster one by one
        return {index: caption_clip(start, end, index, min_time, widest) for index in indices}

    def texts(self, clips: Sequence[Clip]) -> list[str]:
        """Return the words of some of its clips in evaluation as one text each."""
        if self.queries is None:
            return [" ".join(self.text[number] for number in clip.order) for clip in clips]
        rest = ([self.text[number] for number in clip.order if number != clip.number] for clip in clips)
        own = (self.queries[clip.number][clip.query] for clip in clips)
        return [" ".join([query, *more]) for query, more in zip(own, rest, strict=True)]

    def word_rows(self, clips: Sequence[Clip], max_words: int) -> np.ndarray | None:
        """Return the first word indices of some of its clips, ``(B, W)`` int32; ``None`` where only text is stored."""
        return None

    def all_texts(self) -> list[str]:
        """Return every text of the video, those that training and evaluation choose from among them."""
        several = (*(self.choices or ()), *(self.queries or ()))
        return [*self.text, *(text for texts in several for text in texts)]


def read_captions(
    path: Path, videos: Iterable[str], train_column: str = "text", eval_column: str = "text"
) -> dict[str, Captions | BadVideo]:
    """Read the captions of the videos that are wanted.

    Args:
        path: a JSON file or a pickle of ``{video id: {"start": [...], "end": [...], "text": [...]}}``, times in
            seconds, with the optional column ``topic``; each video may have a data frame of these columns. Or a file of
            another form, or a folder with a file for each video: see ``caption_files``.
        videos: ids.
        train_column: column whose texts training uses; it may hold a list of texts for each caption.
        eval_column: the same for evaluation.

    Returns:
        For each video its captions, or why they cannot be used.

    Raises:
        InputError: if the file is missing, damaged or no mapping.
    """
    entry_of = open_table(path)
    return {video: _captions_of(path, video, entry_of, train_column, eval_column) for video in videos}


def _captions_of(path: Path, video: str, entry_of: Table, train_column: str, eval_column: str) -> Captions | BadVideo:
    """Check the captions of one video."""
    try:
        entry = entry_of(video)
    except InputError as error:
        return BadVideo(video, str(error))
    try:
        return parse_captions(entry, train_column, eval_column)
    except InputError as error:
        return BadVideo(video, f"{path}: captions of {video}: {error}", isinstance(error, AbsentError))


def parse_captions(entry: Any, train_column: str = "text", eval_column: str = "text") -> Captions:
    """Check and convert the captions of one video.

    A caption that cannot be used is dropped and counted in ``dropped``; those that are left are numbered from 0.

    Args:
        entry: a mapping or a data frame with the columns ``start``, ``end`` and ``text``, and perhaps ``topic``.
        train_column: column of the texts, or lists of texts, from which training samples.
        eval_column: column of the texts, or lists of texts, that evaluation asks for each clip with.

    Returns:
        The captions.

    Raises:
        AbsentError: if there are no captions at all.
        InputError: if a column is missing, is no list or has another length, or no caption can be used; the message
            does not name the file.
    """
    if entry is None:
        raise AbsentError("expected an entry for this video, found none")
    # a data frame has columns too; pandas itself is not needed to read them
    columns = entry if isinstance(entry, Mapping) else getattr(entry, "columns", ())
    needed = dict.fromkeys(("start", "end", "text", train_column, eval_column))
    if missing := [name for name in needed if name not in columns]:
        raise InputError(f"expected the columns start, end and text, found no {' and no '.join(missing)}")
    text = _column(entry["text"], "text")
    start, end = (_times(entry[name], name, len(text)) for name in ("start", "end"))
    if not text:
        raise AbsentError("expected at least one caption, found none")
    topics = _topics(entry["topic"], len(text)) if "topic" in columns else None
    # each column once, also where training and evaluation use the same
    others = dict.fromkeys(name for name in (train_column, eval_column) if name != "text")
    several = {name: _choices(entry[name], name, len(text)) for name in others}
    faults = [_fault(*caption) for caption in zip(start.tolist(), end.tolist(), text, strict=True)]
    for name, texts in several.items():
        faults = _mark(faults, [not found for found in texts], f"without text in the column {name}")
    if topics is not None:
        faults = _mark(faults, [topic is None for topic in topics], "with a topic that is no whole number")
    kept = [number for number, fault in enumerate(faults) if fault is None]
    dropped = dict(Counter(fault for fault in faults if fault is not None))
    if not kept:
        raise InputError(f"expected at least one caption that can be used, found {describe_dropped(dropped)}")
    # only now, as the numbers of captions are those that are kept
    choices, queries = (
        None if name == "text" else tuple(several[name][number] for number in kept)
        for name in (train_column, eval_column)
    )
    return Captions(
        start[kept],
        end[kept],
        tuple(text[number] for number in kept),
        None if topics is None else np.array([topics[number] for number in kept], dtype=np.int64),
        choices,
        dropped,
        queries,
    )


def describe_dropped(dropped: Mapping[str, int]) -> str:
    """Return how many captions were dropped and why: "4 captions: 3 without text, 1 of no length"; empty for none."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items(), key=lambda item: -item[1]))
    total = sum(dropped.values())
    return f"{total} caption{'s' * (total > 1)}: {reasons}" if dropped else ""


def total_reasons(each: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add up how many captions were dropped, by reason."""
    total = Counter[str]()
    for dropped in each:
        total.update(dropped)
    return dict(total)


def _fault(start: float, end: float, text: object) -> str | None:
    """Return why a caption cannot be used; ``None`` where it can."""
    if not isinstance(text, str):  # null, or the NaN of a data frame
        return "without text"
    if not (math.isfinite(start) and math.isfinite(end)):
        return "with a time that is no number"
    if start < 0:
        return "that start before 0 s"
    if end == start:
        return "of no length"
    return "that end before they start" if end < start else None


def _mark(faults: Sequence[str | None], absent: Sequence[bool], fault: str) -> list[str | None]:
    return [known or (fault if lacks else None) for known, lacks in zip(faults, absent, strict=True)]


def _choices(column: Any, name: str, count: int) -> tuple[tuple[str, ...], ...]:
    """Return the texts of each caption that are texts."""
    rows = _column(column, name, count)
    found = [(item,) if isinstance(item, str) or not _is_list(item) else tuple(item) for item in rows]
    return tuple(tuple(text for text in texts if isinstance(text, str)) for texts in found)


def _times(column: object, name: str, count: int) -> np.ndarray:
    """Return the times of a column; NaN for what is no number."""
    values = _column(column, name, count)
    # all at once is fast; only a column with a wrong cell is converted one by one
    try:
        times = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        times = np.array([_number(value) for value in values], dtype=np.float64)
    if times.ndim != 1:
        raise InputError(f"expected a list in the column {name}, found an array of shape {times.shape}")
    return times


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _column(column: Any, name: str, count: int | None = None) -> tuple[Any, ...]:
    """Return the rows of a column, of which there must be as many as texts."""
    rows = tuple(column) if _is_list(column) else None
    if rows is None or (count is not None and len(rows) != count):
        wanted = "a list" if rows is None else f"as many rows as texts ({count})"
        found = f"a {type(column).__name__}" if rows is None else len(rows)
        raise InputError(f"expected {wanted} in the column {name}, found {found}")
    return rows


def _topics(column: object, count: int) -> list[int | None]:
    """Return the topic of each caption; ``None`` for what is no whole number (a data frame makes them floats)."""
    topics = _column(column, "topic", count)
    # text such as "3" is refused: pandas or JSON would have made a number of it
    numbers = (topic if isinstance(topic, int | float | np.number) else math.nan for topic in topics)
    return [int(number) if float(number).is_integer() else None for number in numbers]
