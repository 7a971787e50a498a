"""Captions of one video in JSON: YouTube's json3, Whisper's and WhisperX's segments, lists and columns of captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcn_lightning.batch import AbsentError
from mcn_lightning.data.captions import parse_captions
from mcn_lightning.data.files.caption_files import COLUMNS, read_video_captions
from mcn_lightning.errors import InputError, naming
from mcn_lightning.extract.captions.rows import Part, RawCaption, until_next
from mcn_lightning.files import read_json

Row = Mapping[str, Any]
"""An object of a JSON file."""


def read_transcript(path: Path) -> list[RawCaption]:
    """Read a JSON file.

    Raises:
        InputError: if it is missing, no JSON, or holds no captions of one video.
    """
    document = read_json(path, "the captions of a video")
    if isinstance(document, Mapping) and isinstance(document.get("events"), list):
        return _of_events(document["events"])
    segments = document.get("segments") if isinstance(document, Mapping) else document
    if isinstance(segments, list):
        return rows_of_segments(segments)
    if not isinstance(document, Mapping):
        raise InputError(f"{path}: expected the captions of a video, found {document!r:.40}; get the file again")
    # columns in a .json file are read here, as read_video_captions drops the times of words
    own_form = path.suffix.lower() != ".json" or {"start", "end", "text"} <= document.keys()
    return rows_of_columns(document if own_form else read_video_captions(path), str(path))


def rows_of_segments(segments: Sequence[object]) -> list[RawCaption]:
    """Return captions that are a list, as those of Whisper and WhisperX.

    Args:
        segments: mappings with start, end and text, and perhaps ``words``: a list of mappings with word, start and
            end. WhisperX gives no times to words that it could not align, such as numbers.
    """
    found = []
    for number, segment in enumerate(segments, 1):
        row = segment if isinstance(segment, Mapping) else {}
        start, end, text = (
            next((row[key] for key in COLUMNS[name] if key in row), None) for name in ("start", "end", "text")
        )
        words = [word for word in row.get("words") or () if isinstance(word, Mapping)]
        texts = [str(word.get("word", word.get("text", ""))) for word in words]
        if not any(text[:1].isspace() for text in texts):  # Whisper's words bring their spaces, WhisperX's do not
            texts = [f" {text}" for text in texts]
        times = [(_number(word.get("start")), _number(word.get("end"))) for word in words]
        parts = [Part(text, *span) for text, span in zip(texts, times, strict=True)]
        timed = any(part.start is not None for part in parts)
        found.append(RawCaption(start, end, text, parts if timed else (), f"caption {number}"))
    return found


def rows_of_columns(entry: Any, source: str) -> list[RawCaption]:
    """Return captions that are columns, as those of ``captions.json`` and of ``open_table``.

    Args:
        entry: a mapping or a data frame with the columns start, end, text, and perhaps words, a list of
            ``[start, end, word]`` for each caption.
        source: file and video, for messages.

    Raises:
        InputError: if a column is missing, is no list or has another length, or no caption can be used.
    """
    try:
        with naming(source):
            parse_captions(entry)
    except AbsentError:
        return []
    words, lines = (entry.get(name) if isinstance(entry, Mapping) else None for name in ("words", "line"))
    rows = zip(entry["start"], entry["end"], entry["text"], strict=True)
    return [
        RawCaption(start, end, text, _parts(words, number), _where(lines, number))
        for number, (start, end, text) in enumerate(rows)
    ]


def _where(lines: object, number: int) -> str:
    """Return the line of a caption in a CSV file, or its number."""
    line = lines[number] if isinstance(lines, list) else None
    return f"line {line}" if isinstance(line, int) else f"caption {number + 1}"


def _parts(words: object, number: int) -> list[Part]:
    """Return the words of a caption in ``captions.json``; none where they are of another form."""
    spans = words[number] if isinstance(words, list) and number < len(words) else ()
    if not isinstance(spans, list) or not all(isinstance(span, list) and len(span) == 3 for span in spans):
        return []
    return [Part(f" {word}", _number(start), _number(end)) for start, end, word in spans]


def _of_events(events: Sequence[object]) -> list[RawCaption]:
    """Return the captions of json3. Events without text are windows and line breaks.

    A line of automatic captions stays while the next one is spoken, so there a caption ends where the next begins.
    """
    shown = [(number, event) for number, event in enumerate(events, 1) if isinstance(event, Mapping) and _spoken(event)]
    rolls = any("tOffsetMs" in segment for _, event in shown for segment in event["segs"])
    begins = [_number(event.get("tStartMs", 0)) for _, event in shown]
    found = []
    for (number, event), begin, after in zip(shown, begins, [*begins[1:], None], strict=True):
        length = _number(event.get("dDurationMs"))
        # the earlier of the two: a last line may stay for seconds after it was spoken
        ends = [after if rolls else None, None if begin is None or length is None else begin + length]
        end = min((each for each in ends if each is not None), default=math.nan)
        found.append(_of_event(event, math.nan if begin is None else begin, end, f"event {number}"))
    return found


def _spoken(event: Row) -> bool:
    segments = event.get("segs")
    return isinstance(segments, list) and any(str(segment.get("utf8", "")).strip() for segment in segments)


def _of_event(event: Row, begin: float, end: float, where: str) -> RawCaption:
    """Return one caption, of times in milliseconds."""
    parts = list[tuple[float, str]]()
    for segment in event["segs"]:
        text, offset = str(segment.get("utf8", "")), _number(segment.get("tOffsetMs", None if parts else 0))
        if parts and (offset is None or not text.strip()):  # belongs to the part before
            parts[-1] = parts[-1][0], parts[-1][1] + text
        elif text.strip():
            parts.append(((begin + (offset or 0)) / 1000, text))
    return RawCaption(
        begin / 1000, end / 1000, "".join(text for _, text in parts), until_next(parts, end / 1000), where
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
