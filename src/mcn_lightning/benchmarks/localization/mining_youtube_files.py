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
    runs,
)
from mcn_lightning.benchmarks.localization.class_list import (
    BACKGROUND_CLASS,
    class_of,
    read_classes,
    without_background,
)
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines

TASK = "mining_youtube"
CUT = "annotations cut at the start of the next one"
UNKNOWN = "annotations of an unknown class"
REVERSED = "annotations that end before they start"
EMPTY = "videos of which no annotation is left"

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
            if match is None and unknown == "error":
                advice = "correct it, or leave such annotations out (unknown: leave_out)"
                raise InputError(f"{path}: {item}: expected a class of {classes}, found '{name}': {advice}")
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
    if not annotations.is_dir():
        raise InputError(f"{annotations}: expected a folder of {what}, found none: check the path")
    files = {suffix: sorted(annotations.glob(f"*{suffix}")) for suffix in (".srt", ".gt")}
    if all(files.values()) or not any(files.values()):
        found = "both: keep one kind" if all(files.values()) else "neither: check the path"
        raise InputError(f"{annotations}: expected {what}, found {found}")
    if files[".gt"] and not (frame_rate and frame_rate > 0):
        advice = "give the frames a second, for instance 29.97"
        raise InputError(f"{annotations}: expected a frame rate for its .gt files, found {frame_rate}: {advice}")
    by_id = {path.stem: path for paths in files.values() for path in paths}
    if videos is None:
        return list(by_id.values())
    listed: dict[str, int] = {}
    for number, video in enumerate(read_lines(videos, "a list of video ids"), 1):
        if not video:
            continue
        if video in listed or video not in by_id:
            wanted = f"each video once, found {video} in line {listed[video]} too" if video in listed else ""
            wanted = wanted or f"a video with an annotation in {annotations}, found {video}"
            raise InputError(f"{videos}: line {number}: expected {wanted}: remove the line")
        listed[video] = number
    if not listed:
        raise InputError(f"{videos}: expected one video id a line, found none")
    return [by_id[video] for video in listed]


def _items_of(path: Path, frame_rate: float | None) -> list[tuple[str, float, float, str]]:
    """Read the class name, start and end in seconds, and place in the file of each annotation."""
    if path.suffix == ".srt" or frame_rate is None:
        return _read_srt(path)
    lines = read_lines(path, "one class a line")
    while lines and not lines[-1]:
        lines.pop()
    if not lines or not all(lines):
        found = f"a blank line {lines.index('') + 1}" if lines else "no line"
        raise InputError(f"{path}: expected one class for each frame, found {found}: get the file again")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(lines))}
    frames = runs([numbers[line] for line in lines])
    places = [f"lines {first + 1} to {stop}" for _, first, stop in frames]
    return [
        (lines[first], first / frame_rate, stop / frame_rate, place)
        for (_, first, stop), place in zip(frames, places, strict=True)
    ]


def _read_srt(path: Path) -> list[tuple[str, float, float, str]]:
    lines, found = read_lines(path, "subtitles of annotations"), []
    for filled, first, stop in runs([int(bool(line)) for line in lines]):
        if not filled:
            continue
        block = lines[first:stop]
        if len(block) != 3 or not block[0].isdecimal():
            what = "a number, a line of times and a class, and a blank line after them"
            raise InputError(f"{path}: line {first + 1}: expected {what}, found '{' / '.join(block):.80}'")
        number, times, name = block
        match = _TIMES.fullmatch(times)
        if match is None:
            what = "times as 00:01:02,345 --> 00:01:06,789"
            raise InputError(f"{path}: annotation {number}: expected {what}, found '{times}'")
        hours, minutes, seconds, thousandths, *rest = map(int, match.groups())
        start = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        hours, minutes, seconds, thousandths = rest
        end = hours * 3600 + minutes * 60 + seconds + thousandths / 1000
        found.append((name, start, end, f"annotation {number}"))
    if not found:
        raise InputError(f"{path}: expected at least one annotation, found none: get the file again")
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
            if segment.start <= earlier.start or earlier.end - segment.start > overlap:
                what = f"a start no more than {overlap:g} s before the end of {earlier.item}, {earlier.end:.3f} s"
                found = f"{segment.start:.3f} to {segment.end:.3f} s"
                raise InputError(f"{path}: {segment.item}: expected {what}, found {found}: correct the times")
            kept[-1] = replace(earlier, end=segment.start)
            adjusted[CUT] += 1
        kept.append(segment)
    return kept
