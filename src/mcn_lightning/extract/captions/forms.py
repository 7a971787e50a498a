"""Files with the captions of one video, in every form, which is recognised by the contents.

========================  ==========================================================================================
WebVTT, SubRip            YouTube's rolling lines once; word times where WebVTT has them
``.json3``                YouTube's own form, with the times of words
JSON                      Whisper's and WhisperX's segments, with the times of words; lists or columns of captions
CSV                       columns start, end and text, between commas, semicolons or tabs
ASS, SSA, MicroDVD, SAMI  and TTML, by pysubs2
========================  ==========================================================================================

WebVTT and SubRip are read by the project's own parser. pysubs2 1.8 takes a line with two word times for a line of
times, and names of cues and comments for words; it knows neither rolling lines nor the times of words.
"""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

from mcn_lightning.data.files.caption_files import COLUMNS, seconds_of
from mcn_lightning.data.files.subtitles import Cue, readable_cues, timed_parts, undo_rolling
from mcn_lightning.errors import InputError, need_package
from mcn_lightning.extract.captions.rows import RawCaption, until_next
from mcn_lightning.extract.captions.transcripts import read_transcript
from mcn_lightning.files import read_text

Found = tuple[list[RawCaption], list[str]]
"""Captions, and what was not understood, one line each."""

PYSUBS2 = {".ass": "ass", ".ssa": "ssa", ".sub": "microdvd", ".smi": "sami", ".sami": "sami", ".ttml": "ttml"}
TABLES = (".csv", ".tsv")
SUFFIXES = (".vtt", ".srt", ".json3", ".json", *PYSUBS2, *TABLES)
"""Of files with captions, in order of preference."""
_CLOCK = r"\s*\d+:\d\d:\d\d[.:]\d+\s*"
_DIALOGUE = re.compile(rf"Dialogue:(?![^,]*,{_CLOCK},{_CLOCK},)")
_DAMAGED = {".ass": _DIALOGUE, ".ssa": _DIALOGUE, ".sub": re.compile(r"(?=\s*\S)(?!\s*\{\d+\}\s*\{\d+\})")}
"""Begins of lines at which pysubs2 ends, or which it leaves out silently."""


def read_captions_file(path: Path) -> Found:
    """Read the captions of one video.

    Args:
        path: of the file.

    Returns:
        The captions in the order of the file, and what was not understood, with file and line.

    Raises:
        InputError: if the file is missing, no text in UTF-8, or has no captions in a known form.
    """
    suffix = path.suffix.lower()
    if suffix in PYSUBS2:
        return _with_pysubs2(path, suffix)
    text = read_text(path, "the captions of a video")
    if suffix in (".json", ".json3") or text.lstrip()[:1] in ("{", "["):
        return read_transcript(path), []
    return (_table(path, text), []) if suffix in TABLES else _subtitles(path, text)


def _subtitles(path: Path, text: str) -> Found:
    cues, damaged = readable_cues(text)
    wanted = "lines of times such as 00:01:02.345 --> 00:01:06.789"
    if not cues and not damaged:
        raise InputError(f"{path}: expected subtitles with {wanted}, found none; get the file again")
    problems = [
        f"{path}, line {number}: expected {wanted}, the end after the start, found {line:.60}; this caption is left out"
        for number, line in damaged.items()
    ]
    return [_raw_caption(cue) for cue in undo_rolling(cues)], problems


def _table(path: Path, text: str) -> list[RawCaption]:
    lines = csv.DictReader(io.StringIO(text), restval="", delimiter=max("\t,;", key=text.partition("\n")[0].count))
    try:
        lines.fieldnames = header = [name.strip().lower() for name in lines.fieldnames or ()]
        names = [next((key for key in COLUMNS[column] if key in header), "") for column in ("start", "end", "text")]
        if not all(names):
            found = ", ".join(header) or "none"
            raise InputError(f"{path}: expected the columns start, end and text, found {found}; name them in line 1")
        return [RawCaption(*_cells([row[name] for name in names]), where=f"line {lines.line_num}") for row in lines]
    except csv.Error as error:
        raise InputError(f"{path}: expected a table of captions, found {error}; write it anew") from None


def _cells(cells: list[str]) -> tuple[object, object, str]:
    """Return start, end and text; a time that is none as it is written, for the message."""
    start, end = (cell if math.isnan(seconds_of(cell)) else seconds_of(cell) for cell in cells[:2])
    return start, end, cells[2]


def _raw_caption(cue: Cue) -> RawCaption:
    parts = timed_parts(cue)
    text = "".join(part for _, part in parts)
    return RawCaption(cue.start, cue.end, text, until_next(parts, cue.end))


def _with_pysubs2(path: Path, suffix: str) -> Found:
    """Read a form that pysubs2 knows."""
    need_package("pysubs2", str(path), "pip install 'mcn-lightning[extract]'", f"pysubs2 to read {suffix} files")
    import pysubs2

    # before pysubs2, which ends at such a line or drops it silently
    text, problems = _without_damaged_lines(path, suffix, read_text(path, "the captions of a video"))
    try:
        subtitles = pysubs2.SSAFile.from_string(text, PYSUBS2[suffix])
    except pysubs2.exceptions.UnknownFPSError:
        wanted = "the frame rate of MicroDVD subtitles, as in {1}{1}25"
        raise InputError(f"{path}, line 1: expected {wanted}, found none; write it") from None
    except (pysubs2.exceptions.Pysubs2Error, ValueError, SyntaxError) as error:  # damaged XML is a SyntaxError
        raise InputError(f"{path}: expected {PYSUBS2[suffix]} subtitles, found {error}; get the file again") from None
    captions = [
        RawCaption(event.start / 1000, event.end / 1000, event.plaintext, where=f"caption {number}")
        for number, event in enumerate(subtitles.get_text_events(), 1)
    ]
    if not captions and not problems:
        raise InputError(f"{path}: expected {PYSUBS2[suffix]} subtitles, found no captions; get the file again")
    return captions, problems


def _without_damaged_lines(path: Path, suffix: str, text: str) -> tuple[str, list[str]]:
    damaged, kept, problems = _DAMAGED.get(suffix), list[str](), list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        if damaged is not None and damaged.match(line):
            problems.append(f"{path}, line {number}: expected the times of a caption, found {line:.60}; it is left out")
        else:
            kept.append(line)
    return "\n".join(kept), problems
