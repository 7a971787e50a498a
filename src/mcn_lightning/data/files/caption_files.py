"""Caption files of any known form, which is recognised by its contents.

=================================================== =================================================================
``{id: {"start": [], "end": [], "text": []}}``        JSON, or a pickle with lists, arrays or data frames (HowTo100M)
``{"database": {id: {"annotations": [...]}}}``        YouCook2's ``youcookii_annotations_trainval.json``
``{id: {"segments": [...]}}``                         COOT's ``meta_all.json``; Whisper's JSON, a file for each video
``{id: {"timestamps": [], "sentences": []}}``         ActivityNet Captions
CSV with the columns video, start, end, text          ``validation_youcook.csv``; commas, semicolons or tabs
WebVTT and SubRip                                     one file for each video
=================================================== =================================================================

A folder holds one file for each video: ``<id>.json``, ``<id>.vtt`` or ``<id>.srt``, perhaps ``<id>.en.vtt``.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mcn_lightning.data.files.pickles import load_pickle
from mcn_lightning.data.files.subtitles import read_subtitles
from mcn_lightning.errors import InputError
from mcn_lightning.files import binary_form, read_text, reading

FORMS = "JSON or a pickle of {video id: {start, end, text}}, a CSV with the columns video, start, end and text, or a \
folder of <id>.vtt, .srt or .json"
PICKLES = (".pkl", ".pickle", ".p")
SUFFIXES = (".json", ".vtt", ".srt")
"""Suffixes of the files in a folder, in order of preference."""
COLUMNS = {
    "video": ("video_id", "video", "vid", "youtube_id", "video_name", "id"),
    "start": ("start", "start_time", "start_sec", "start_s", "begin", "t_start"),
    "end": ("end", "end_time", "end_sec", "end_s", "stop", "stop_sec", "t_end"),
    "text": ("text", "caption", "sentence", "narration", "description", "transcript"),
}
"""Names of the columns of a CSV file, and of the keys of a segment in JSON, in lower case."""
# "en", "en-US" or "zh-Hans" after the last dot, as yt-dlp names its files
_LANGUAGE = re.compile(r"(.+?)((?:\.[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*)?)")
_LSMDC = re.compile(r"[^\t]+\t\d\d\.\d\d\.\d\d\.\d{3}\t")
_MAX_HEAD = 1_000_000
"""Characters in which the end of the first line is looked for: JSON is often one line of gigabytes."""

Row = Mapping[str, object]
Columns = dict[str, list[object]]
Table = Callable[[str], object]
"""Returns the entry of a video as ``parse_captions`` takes it, or ``None``. Raises ``InputError`` for a bad file."""


def open_table(path: Path) -> Table:
    """Open the captions of a data set in any known form.

    Args:
        path: a file, or a folder with a file for each video.

    Returns:
        A function that returns the entry of a video.

    Raises:
        InputError: if it is missing, damaged, or of a form without captions of videos. The message names the form and
            what to do.
    """
    if path.is_dir():
        files = caption_files(path)
        return lambda video: None if (found := files.get(video)) is None else read_video_captions(found)
    if path.suffix in PICKLES:
        return _of_mapping(path, load_pickle(path))
    if not path.is_file():
        read_text(path, "a captions file")  # raises the error for a missing file
    with open(path, "rb") as file:
        # before it is read as text: a gzip file of gigabytes should be named by its first bytes
        form = binary_form(file.read(4096))
    if form is not None and form[0] != "a pickle":
        raise InputError(f"{path}: expected {FORMS}, found {form[0]}: {form[1]}")
    if path.suffix not in (*SUFFIXES, ".csv", ".tsv", ".txt"):
        return _of_mapping(path, load_pickle(path))
    text = read_text(path, "a captions file")
    if (entry := _subtitles(path, text)) is not None:
        return {_stem(path)[0]: entry}.get
    if path.suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        return _of_mapping(path, _json(path, text))
    return _of_rows(path, text).get


def caption_files(folder: Path) -> dict[str, Path]:
    """Return the caption file of each video, by id, in a folder and its subfolders. English is preferred.

    Raises:
        InputError: if there is none.
    """
    found: dict[str, tuple[tuple[bool, bool, int, int], Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            name, language = _stem(path)
            # without a language first, then English, then by suffix; the shorter of en and en-orig
            rank = (bool(language), not language.startswith(".en"), SUFFIXES.index(path.suffix.lower()), len(language))
            if name not in found or rank < found[name][0]:
                found[name] = rank, path
    if not found:
        raise InputError(f"{folder}: expected files <video id>.vtt, .srt or .json, found none: check the path")
    return {name: path for name, (_, path) in found.items()}


def _stem(path: Path) -> tuple[str, str]:
    """Return the video id and the language of a file name such as ``id.en.vtt``."""
    match = _LANGUAGE.fullmatch(path.stem)
    return (match[1], match[2]) if match is not None else (path.stem, "")


def read_video_captions(path: Path) -> object:
    """Read the file of one video."""
    text = read_text(path, "the captions of a video")
    if (entry := _subtitles(path, text)) is not None:
        return entry
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: expected subtitles with lines of times, 00:01:02.345 --> 00:01:06.789, found none")
    found = _entry(_json(path, text))
    if isinstance(found, Mapping) and "start" not in found and _stem(path)[0] in found:
        return _entry(found[_stem(path)[0]])
    return found


def _subtitles(path: Path, text: str) -> Columns | None:
    """Return the captions of subtitles, or ``None`` for text that is not subtitles."""
    if text.lstrip()[:1] in ("{", "[") or "-->" not in text:
        return None
    captions = read_subtitles(text)
    if not captions:
        raise InputError(f"{path}: expected subtitles with times and words, found none that has both")
    start, end, texts = zip(*captions, strict=True)
    return {"start": [*start], "end": [*end], "text": [*texts]}


def _json(path: Path, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        found = "one JSON object a line: join them to one object" if _is_json_lines(text) else "no whole JSON"
        raise InputError(f"{path}: expected a captions file, found {found} ({error})") from None


def _is_json_lines(text: str) -> bool:
    first, _, rest = text[:_MAX_HEAD].partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


_CLIPS = "data.train_csv, or a retrieval benchmark"


def _of_mapping(path: Path, table: object) -> Table:
    """Return the entries of a JSON file or a pickle.

    Raises:
        InputError: if it holds something else.
    """
    if (found := _foreign_form(table)) is not None:
        raise InputError(f"{path}: expected a mapping from video id to captions with start and end, found {found}")
    if isinstance(table, list):
        table = _group(path, table)
    entries = table if isinstance(table, Mapping) else {}
    if isinstance(entries.get("database"), Mapping):  # YouCook2
        entries = entries["database"]
    # converted when asked for: a data set may have a million videos, of which a run needs a few
    return lambda video: _entry(entries.get(video))


def _foreign_form(table: object) -> str | None:
    """Return what a JSON file or a pickle holds if it is not captions of videos, and what to do with it."""
    if isinstance(table, list) and table and all(isinstance(row, Mapping) for row in table):
        if {"caption", "eval_caption"} & table[0].keys() and not {"start", "end"} & table[0].keys():
            return "a pickle of clips, as those of YouCook2 and MSR-VTT: give it as data.train_csv or data.val_csv"
        return None
    if not isinstance(table, Mapping):
        return f"a {type(table).__name__}"
    if isinstance(table.get("sentences"), list) and "videos" in table:
        return (
            f"MSR-VTT's list of sentences: its clips are read as a pickle of clips ({_CLIPS}), with features and "
            "captions of each"
        )
    if isinstance(table.get("database"), Mapping):
        return None
    if isinstance(table.get("annotations"), list):
        return (
            "one list of annotations of all clips, as in COCO's form: make a CSV of it with the columns video, start, "
            "end and text"
        )
    if {"start", "end", "text"} <= table.keys() or isinstance(table.get("segments"), list):
        return "the captions of one video: name it <video id>.json and give its folder"
    return None


def _entry(entry: object) -> object:
    """Return the captions of one video as the columns start, end and text. Unknown forms are returned unchanged."""
    if isinstance(entry, Mapping):
        for name in ("annotations", "segments"):
            if isinstance(entry.get(name), list):
                return _columns([row if isinstance(row, Mapping) else {} for row in entry[name]])
        times, texts = entry.get("timestamps"), entry.get("sentences")
        if isinstance(times, list) and isinstance(texts, list) and len(times) == len(texts):
            return _columns([{"segment": time, "text": text} for time, text in zip(times, texts, strict=True)])
    if isinstance(entry, list) and entry and all(isinstance(row, Mapping) for row in entry):
        return _columns(entry)
    return entry


def _columns(rows: Sequence[Row]) -> Columns:
    """Return the columns of rows, one row a caption. A missing value is ``None``."""
    found: Columns = {"start": [], "end": [], "text": []}
    for row in rows:
        span = row.get("segment")
        if isinstance(span, list | tuple) and len(span) == 2:
            row = {**row, "start": span[0], "end": span[1]}
        for name, column in found.items():
            column.append(next((row[key] for key in COLUMNS[name] if key in row), None))
    return found


def _group(path: Path, rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each video."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        video = next((row[key] for key in COLUMNS["video"] if key in row), None)
        if video is None:
            raise InputError(f"{path}: expected a video id in each caption, found a list with the keys {sorted(row)}")
        found.setdefault(str(video), []).append(row)
    return found


def _of_rows(path: Path, text: str) -> dict[str, Columns]:
    """Return the captions of each video of a CSV file, sorted by their start.

    Raises:
        InputError: if a column is missing. The message names the form if it is a known one.
    """
    first = text[:_MAX_HEAD].lstrip("\n").partition("\n")[0]
    # the csv module's own sniffer takes letters for delimiters where texts are long
    mark = max("\t,;", key=first.count)
    with reading(path, FORMS, csv.Error):
        # lines, so that line_num counts the lines of the file, also within quoted texts
        reader = csv.reader(text.split("\n"), delimiter=mark)
        rows = [(reader.line_num, row) for row in reader if row]
    header = [name.strip().lower() for name in rows[0][1]] if rows else []
    # reversed: of several known names the first in COLUMNS wins
    columns = {name: header.index(key) for name, keys in COLUMNS.items() for key in reversed(keys) if key in header}
    if (found := _missing_columns(first, columns)) is not None:
        raise InputError(f"{path}: expected {FORMS}, found {found}")
    # the other columns may hold texts of training or evaluation, see data.text.train_column
    columns |= {name: column for column, name in enumerate(header) if name and column not in columns.values()}
    videos: dict[str, list[tuple[float, Row]]] = {}
    for line, row in rows[1:]:
        cells = {name: row[column] if column < len(row) else "" for name, column in columns.items()}
        video, start, end = cells.pop("video").strip(), seconds_of(cells["start"]), seconds_of(cells["end"])
        caption = {"line": line, **cells, "start": start, "end": end, "text": cells["text"] or None}
        videos.setdefault(video, []).append((start, caption))
    return {video: _by_start(captions) for video, captions in videos.items()}


def _missing_columns(first: str, columns: Mapping[str, int]) -> str | None:
    """Return which columns a CSV file lacks, or ``None``.

    Args:
        first: the first line of the file.
        columns: position of each known column.
    """
    if _LSMDC.match(first):
        return (
            f"LSMDC's list of clips: they are read as a pickle of clips ({_CLIPS}), with features and caption of each"
        )
    missing = [name for name in COLUMNS if name not in columns]
    if not missing:
        return None
    found = f"no column for {' and '.join(missing)} in the header '{first:.80}'"
    if {"start", "end"} <= set(missing) and "text" not in missing:
        found += "; clips without times are read as a pickle of clips (data.train_csv)"
    return found


def _by_start(captions: list[tuple[float, Row]]) -> Columns:
    ordered = [row for _, row in sorted(captions, key=lambda item: math.inf if math.isnan(item[0]) else item[0])]
    # a column of that name in a CSV is text, and not the number that stands for a topic
    return {name: [row[name] for row in ordered] for name in ordered[0] if name != "topic"}


def seconds_of(cell: str) -> float:
    """Return the seconds of a cell, ``12.5`` or ``00:00:12.500``, or NaN for other text."""
    try:
        total = 0.0
        for part in cell.strip().split(":"):
            total = 60 * total + float(part.replace(",", "."))
        return total
    except ValueError:
        return math.nan
