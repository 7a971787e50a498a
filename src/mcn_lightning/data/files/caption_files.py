"""The files that captions come in: what they are is seen from their contents, and known forms are read as they are.

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
from typing import Any

from mcn_lightning.data.files.pickles import load_pickle
from mcn_lightning.data.files.subtitles import read_subtitles
from mcn_lightning.errors import InputError
from mcn_lightning.files import binary_form, read_text

FORMS = "JSON or a pickle of {video id: {start, end, text}}, a CSV with the columns video, start, end and text, or a \
folder of <id>.vtt, .srt or .json"
PICKLES = (".pkl", ".pickle", ".p")
SUFFIXES = (".json", ".vtt", ".srt")
"""Of the files in a folder, the preferred one first."""
COLUMNS = {
    "video": ("video_id", "video", "vid", "youtube_id", "video_name", "id"),
    "start": ("start", "start_time", "start_sec", "start_s", "begin", "t_start"),
    "end": ("end", "end_time", "end_sec", "end_s", "stop", "stop_sec", "t_end"),
    "text": ("text", "caption", "sentence", "narration", "description", "transcript"),
}
"""Names of the columns of a CSV file, and of the keys of a segment in JSON, in small letters."""
_LANGUAGE = re.compile(r"(.+?)((?:\.[A-Za-z]{2,3}(?:-[A-Za-z0-9]+)*)?)")
_LSMDC = re.compile(r"[^\t]+\t\d\d\.\d\d\.\d\d\.\d{3}\t")
_MANY_LETTERS = 1_000_000

Row = Mapping[str, Any]
Entry = dict[str, Any]
Columns = dict[str, list[Any]]
Table = Callable[[str], Any]
"""Gives the entry of a video as ``parse_captions`` takes it, or ``None``; raises ``InputError`` for a bad file."""


def open_table(path: Path) -> Table:
    """Open the captions of a data set, whatever form they have.

    Args:
        path: a file, or a folder with a file for each video.

    Returns:
        What gives the entry of a video.

    Raises:
        InputError: if it is missing, damaged, or of a form that has no captions of videos; the message says which
            form it is and what to do.
    """
    if path.is_dir():
        files = caption_files(path)
        return lambda video: None if (found := files.get(video)) is None else _one_video(found)
    if path.suffix in PICKLES:
        return _of_mapping(path, load_pickle(path)).get
    if not path.is_file():
        read_text(path, "a captions file")  # which refuses it
    with open(path, "rb") as file:
        head = file.read(4096)
    form = binary_form(head)
    if form is not None and form[0] != "a pickle":
        raise InputError(f"{path}: expected {FORMS}, found {form[0]}: {form[1]}")
    if path.suffix not in (*SUFFIXES, ".csv", ".tsv", ".txt"):
        return _of_mapping(path, load_pickle(path)).get
    text = read_text(path, "a captions file")
    if (entry := _subtitles(path, text)) is not None:
        return {_stem(path)[0]: entry}.get
    if path.suffix == ".json" or text.lstrip()[:1] in ("{", "["):
        return _of_mapping(path, _json(path, text)).get
    return _of_rows(path, text).get


def caption_files(folder: Path) -> dict[str, Path]:
    """Return the caption file of each video in a folder and those below it, by id; English goes before others.

    Raises:
        InputError: if there is none.
    """
    found: dict[str, tuple[tuple[Any, ...], Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            name, language = _stem(path)
            rank = (bool(language), not language.startswith(".en"), SUFFIXES.index(path.suffix.lower()), len(language))
            if name not in found or rank < found[name][0]:
                found[name] = rank, path
    if not found:
        raise InputError(f"{folder}: expected files <video id>.vtt, .srt or .json, found none: check the path")
    return {name: path for name, (_, path) in found.items()}


def _stem(path: Path) -> tuple[str, str]:
    """Return the id of a video and the language, of ``id.en.vtt``."""
    match = _LANGUAGE.fullmatch(path.stem)
    return (match[1], match[2]) if match is not None else (path.stem, "")


def _one_video(path: Path) -> Any:
    """Read the file of one video."""
    text = read_text(path, "the captions of a video")
    if (entry := _subtitles(path, text)) is not None:
        return entry
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: expected subtitles with lines of times, 00:01:02.345 --> 00:01:06.789, found none")
    entry = _entry(_json(path, text))
    if isinstance(entry, Mapping) and "start" not in entry and _stem(path)[0] in entry:
        return _entry(entry[_stem(path)[0]])
    return entry


def _subtitles(path: Path, text: str) -> Columns | None:
    """Return the captions of subtitles, ``None`` where the text is none."""
    if text.lstrip()[:1] in ("{", "[") or "-->" not in text:
        return None
    captions = read_subtitles(text)
    if not captions:
        raise InputError(f"{path}: expected subtitles with times and words, found none that has both")
    return {
        name: list(column) for name, column in zip(("start", "end", "text"), zip(*captions, strict=True), strict=True)
    }


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = "one JSON object a line: join them to one object" if _is_json_lines(text) else "no whole JSON"
        raise InputError(f"{path}: expected a captions file, found {lines} ({error})") from None


def _is_json_lines(text: str) -> bool:
    first, _, rest = text[:_MANY_LETTERS].partition("\n")
    try:
        return bool(rest.strip()) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


class _Entries(dict[str, Any]):
    """Entries of videos, each brought to columns when it is asked for: a data set may have a million."""

    def get(self, video: str, default: Any = None) -> Any:
        return _entry(super().get(video, default))


def _of_mapping(path: Path, table: Any) -> _Entries:
    """Return the entries of a JSON file or a pickle.

    Raises:
        InputError: if it holds something else.
    """
    if isinstance(table, Mapping) and isinstance(table.get("sentences"), list) and "videos" in table:
        raise InputError(
            f"{path}: expected captions with start and end, found MSR-VTT's list of sentences: its clips are read as a "
            "pickle of clips (data.train_csv, or a retrieval benchmark), with features and captions of each"
        )
    if isinstance(table, Mapping) and isinstance(table.get("database"), Mapping):
        return _Entries(table["database"])  # YouCook2
    if isinstance(table, list) and table and all(isinstance(row, Mapping) for row in table):
        if {"caption", "eval_caption"} & table[0].keys() and not {"start", "end"} & table[0].keys():
            raise InputError(
                f"{path}: expected captions with start and end, found a pickle of clips, as those of YouCook2 and "
                "MSR-VTT: give it as data.train_csv or data.val_csv"
            )
        return _Entries(_group(path, table))
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: expected a mapping from video id to captions, found a {type(table).__name__}")
    if isinstance(table.get("annotations"), list):
        raise InputError(
            f"{path}: expected a mapping from video id to captions, found one list of annotations of all clips, as in "
            "COCO's form: make a CSV of it with the columns video, start, end and text"
        )
    if {"start", "end", "text"} <= table.keys() or isinstance(table.get("segments"), list):
        raise InputError(
            f"{path}: expected a mapping from video id to captions, found the captions of one video: name it "
            "<video id>.json and give its folder"
        )
    return _Entries(table)


def _entry(entry: Any) -> Any:
    """Bring the captions of one video to the columns start, end and text, where they are of another known form."""
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
    """Return the columns of rows, each a caption; ``None`` where a row lacks something."""
    found: Columns = {"start": [], "end": [], "text": []}
    for row in rows:
        span = row.get("segment")
        if isinstance(span, list | tuple) and len(span) == 2:
            row = {**row, "start": span[0], "end": span[1]}
        for name, column in found.items():
            column.append(next((row[key] for key in COLUMNS[name] if key in row), None))
    return found


def _group(path: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """Return the rows of each video."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        video = next((row[key] for key in COLUMNS["video"] if key in row), None)
        if video is None:
            raise InputError(f"{path}: expected a video id in each caption, found a list with the keys {sorted(row)}")
        found.setdefault(str(video), []).append(row)
    return found


def _of_rows(path: Path, text: str) -> dict[str, Any]:
    """Return the captions of each video of a CSV file, in the order of their start.

    Raises:
        InputError: if a column is missing; the message names the form where it is a known one.
    """
    first = text[:_MANY_LETTERS].lstrip("\n").partition("\n")[0]
    if _LSMDC.match(first):
        raise InputError(
            f"{path}: expected captions with start and end in seconds, found LSMDC's list of clips: they are read as a "
            "pickle of clips (data.train_csv, or a retrieval benchmark), with features and caption of each"
        )
    mark = max("\t,;", key=first.count)
    try:
        rows = [row for row in csv.reader(text.split("\n"), delimiter=mark) if row]
    except csv.Error as error:
        raise InputError(f"{path}: expected {FORMS}, found {error}") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    places = {name: header.index(key) for name, keys in COLUMNS.items() for key in reversed(keys) if key in header}
    if missing := [name for name in COLUMNS if name not in places]:
        what = f"no column for {' and '.join(missing)} in the header '{first:.80}'"
        if {"start", "end"} <= set(missing) and "text" not in missing:
            what += "; clips without times are read as a pickle of clips (data.train_csv)"
        raise InputError(f"{path}: expected {FORMS}, found {what}")
    places |= {name: place for place, name in enumerate(header) if name and place not in places.values()}
    found: dict[str, list[Entry]] = {}
    for row in rows[1:]:
        cells = {name: row[place] if place < len(row) else "" for name, place in places.items()}
        video, times = cells.pop("video").strip(), {name: seconds_of(cells[name]) for name in ("start", "end")}
        found.setdefault(video, []).append({**cells, **times, "text": cells["text"] or None})
    return {video: _by_start(captions) for video, captions in found.items()}


def _by_start(captions: list[Entry]) -> Columns:
    ordered = sorted(captions, key=lambda row: math.inf if math.isnan(row["start"]) else row["start"])
    return {name: [row[name] for row in ordered] for name in ordered[0] if name != "topic"}


def seconds_of(cell: str) -> float:
    """Return the seconds of a cell, ``12.5`` or ``00:00:12.500``; NaN for what is no time."""
    try:
        total = 0.0
        for part in cell.strip().split(":"):
            total = 60 * total + float(part.replace(",", "."))
        return total
    except ValueError:
        return math.nan
