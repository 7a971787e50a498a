"""Reader of MiningYouTube (Kuehne et al., "Mining YouTube", 2019): 250 cooking videos annotated with 512 actions.

Frames are counted at the frame rate of each video. For the released example it is 30000/1001 per second: its first
action ends at 83.517 s, which is frame 2503.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mcn_lightning.benchmarks.localization.annotations import (
    LENGTH_ZERO,
    AnnotatedVideo,
    LocalizationSet,
    Segment,
)
from mcn_lightning.benchmarks.localization.class_list import (
    BACKGROUND_CLASS,
    class_of,
    read_classes,
    without_background,
)
from mcn_lightning.benchmarks.localization.lines import Line, read_blocks, read_filled, require, runs
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines

TASK = "mining_youtube"
CUT = "annotations cut at the start of the next one"
UNKNOWN = "annotations of an unknown class"
REVERSED = "annotations that end before they start"
EMPTY = "videos of which no annotation is left"
LEAVE_OUT = "correct it, or leave such annotations out (unknown: leave_out)"

# minutes and seconds below 60; some tools write a dot in place of the comma
_TIMES = re.compile(r"(\d+):([0-5]\d):([0-5]\d)[,.](\d{3})\s*-->\s*(\d+):([0-5]\d):([0-5]\d)[,.](\d{3})")


def read_mining_youtube(
    annotations: Path,
    classes: Path,
    videos: Path | None = None,
    frame_rate: float | None = None,
    unknown: Literal["error", "leave_out"] = "error",
    overlap: float = 1.0,
) -> LocalizationSet:
    """Read the annotated videos of MiningYouTube.

    Args:
        annotations: a folder of ``<id>.srt`` files, or of frame-wise ``<id>.gt`` files with one class in each line.
        classes: the class list; see ``read_classes``.
        videos: a text file with one id in each line; ``None`` for all videos of the folder.
        frame_rate: frames per second of ``.gt`` files.
        unknown: treatment of an annotation whose class is not found (see ``class_of``): an error, or left out and
            counted.
        overlap: seconds by which an ``.srt`` annotation may overlap the next one. It is cut there and counted.

    Returns:
        The videos, and one task, "mining_youtube". Its steps are the classes without the background, in the order of
        the list, with spaces for "_". Annotations of length 0, or that end before they start, are left out and counted.
        Annotations of the background are not segments.

    Raises:
        InputError: if a file is missing or malformed, a class is unknown, or an overlap is too long.
    """
    steps = {name: number for number, name in enumerate(without_background(read_classes(classes)))}
    left_out, adjusted = Counter[str](), Counter[str]()
    found = []
    for path in _annotation_files(annotations, videos, frame_rate):
        segments = []
        for name, start, end, item in _items_of(path, frame_rate):
            if name == BACKGROUND_CLASS:
                continue
            match = class_of(name, steps)
            accepted, where = match is not None or unknown == "leave_out", f"{path}: {item}"
            require(accepted, where, f"a class of {classes}", f"'{name}'", LEAVE_OUT)
            if match is None:
                left_out[UNKNOWN] += 1
                continue
            if match.name != name:
                adjusted[f"class names found by {match.rule}"] += 1
            segments.append(Segment(steps[match.name], start, end, item))
        kept = _in_order(path, segments, overlap, left_out, adjusted)
        if kept:
            found.append(AnnotatedVideo(path.stem, TASK, tuple(kept), path))
        else:
            left_out[EMPTY] += 1
    texts = tuple(name.replace("_", " ") for name in steps)
    return LocalizationSet({TASK: texts}, tuple(found), dict(left_out), dict(adjusted))


def _annotation_files(annotations: Path, videos: Path | None, frame_rate: float | None) -> list[Path]:
    """Return the annotation file of each video."""
    what = "annotations <id>.srt or <id>.gt"
    require(annotations.is_dir(), annotations, f"a folder of {what}", "none", "check the path")
    files = {suffix: sorted(annotations.glob(f"*{suffix}")) for suffix in (".srt", ".gt")}
    found = "both: keep one kind" if all(files.values()) else "neither: check the path"
    require(bool(files[".srt"]) != bool(files[".gt"]), annotations, what, found)
    rated, advice = frame_rate is not None and frame_rate > 0, "give the frames a second, for instance 29.97"
    require(not files[".gt"] or rated, annotations, "a frame rate for its .gt files", frame_rate, advice)
    by_id = {path.stem: path for paths in files.values() for path in paths}
    if videos is None:
        return list(by_id.values())
    listed: dict[str, Line] = {}
    for line in read_filled(videos, "a list of video ids", "one video id a line"):
        known = f"a video with an annotation in {annotations}"
        line.require(line.text in by_id, known, line.text, "remove the line")
        earlier = listed.setdefault(line.text, line)
        found = f"{line.text} in line {earlier.number} too"
        line.require(earlier is line, "each video once", found, "remove the line")
    return [by_id[video] for video in listed]


def _items_of(path: Path, frame_rate: float | None) -> list[tuple[str, float, float, str]]:
    """Read the class name, start and end in seconds, and place in the file of each annotation."""
    if path.suffix == ".srt" or frame_rate is None:
        return _read_srt(path)
    lines = read_lines(path, "one class a line")
    # editors end a file with blank lines, but within it each line is a frame
    while lines and not lines[-1]:
        lines.pop()
    found = f"a blank line {lines.index('') + 1}" if "" in lines else "no line"
    require(bool(lines) and all(lines), path, "one class for each frame", found, "get the file again")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(lines))}
    frames = runs([numbers[line] for line in lines])
    items = [f"lines {first + 1} to {stop}" for _, first, stop in frames]
    return [
        (lines[first], first / frame_rate, stop / frame_rate, item)
        for (_, first, stop), item in zip(frames, items, strict=True)
    ]


def _read_srt(path: Path) -> list[tuple[str, float, float, str]]:
    found = []
    for block in read_blocks(path, "subtitles of annotations"):
        what = "a number, a line of times and a class, and a blank line after them"
        joined = " / ".join(line.text for line in block)
        block[0].require(len(block) == 3 and block[0].text.isdecimal(), what, f"'{joined:.80}'")
        number, times, name = (line.text for line in block)
        match = _TIMES.fullmatch(times)
        if match is None:
            what = "times as 00:01:02,345 --> 00:01:06,789"
            raise InputError(f"{path}: annotation {number}: expected {what}, found '{times}'")
        hours, minutes, seconds, thousandths, *rest = map(int, match.groups())
        start = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        hours, minutes, seconds, thousandths = rest
        end = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        found.append((name, start, end, f"annotation {number}"))
    require(bool(found), path, "at least one annotation", "none", "get the file again")
    return found


def _in_order(
    path: Path, segments: Sequence[Segment], overlap: float, left_out: Counter[str], adjusted: Counter[str]
) -> list[Segment]:
    """Cut each segment where the next one starts. Leave out segments of length 0 or that end before they start."""
    kept: list[Segment] = []
    for segment in segments:
        if segment.end <= segment.start:
            left_out[LENGTH_ZERO if segment.end == segment.start else REVERSED] += 1
            continue
        if kept and segment.start < kept[-1].end:
            earlier = kept[-1]
            # the annotations are a transcript: their order must not depend on the cut
            fits = segment.start > earlier.start and earlier.end - segment.start <= overlap
            what = f"a start no more than {overlap:g} s before the end of {earlier.item}, {earlier.end:.3f} s"
            times = f"{segment.start:.3f} to {segment.end:.3f} s"
            require(fits, f"{path}: {segment.item}", what, times, "correct the times")
            kept[-1] = replace(earlier, end=segment.start)
            adjusted[CUT] += 1
        kept.append(segment)
    return kept
