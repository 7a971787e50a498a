"""MiningYouTube (Kuehne et al., "Mining YouTube", 2019): 250 cooking videos densely annotated with 512 actions.

The class list holds crudely stemmed names of two words ("crack_egg", "pres_it", "add_fill"), the annotations of the
test videos what their annotators typed ("crack_eggs", "press_it", "add_filling"): see ``class_of``. Frame numbers count
at the frame rate of each video. That of the released example is 30000/1001 a second: 83.517 s, where its first action
ends, is frame 2503.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mcn_lightning.benchmarks.annotations import (
    LENGTH_ZERO,
    AnnotatedVideo,
    LocalizationSet,
    Segment,
    runs,
)
from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_lines

TASK = "mining_youtube"
BACKGROUND = "background"
CUT = "annotations cut at the start of the next one"
UNKNOWN = "annotations of an unknown class"
REVERSED = "annotations that end before they start"
EMPTY = "videos of which no annotation is left"

# what the annotators typed, and what the class list has for it
SPELLINGS = {
    "appy": "apply",
    "leaf": "leave",  # the stem of leaves
    "omelet": "omelette",
    "omellete": "omelette",
    "sauté": "saute",
    "them": "it",
}
# the endings that the class list lacks, and what stands there instead, in the order in which they are tried
ENDINGS = (("s", ""), ("es", ""), ("ing", ""), ("ings", ""), ("ing", "e"), ("ed", "e"))

_TIMES = re.compile(r"(\d+):([0-5]\d):([0-5]\d)[,.](\d{3})\s*-->\s*(\d+):([0-5]\d):([0-5]\d)[,.](\d{3})")


class ClassMatch(NamedTuple):
    """The class that a name means.

    Attributes:
        name: of the class.
        rule: by which it was found: "as it stands", or of "spelling", "ending" and "first two words" those that it
            took, with "and" between them.
    """

    name: str
    rule: str


def class_of(name: str, classes: Collection[str]) -> ClassMatch | None:
    """Find the class that an annotated name means.

    A name that is in the list means itself. Else its first two words are looked up, as the list has none of more words
    ("add_sauce_soy" is "add_sauce"), each as it stands or under another spelling (``SPELLINGS``), and without an ending
    that the list lacks (``ENDINGS``). Of the 5,132 names in the 250 released files 3,898 are in the list and all others
    are found so, none of them in two ways that disagree.

    Args:
        name: ``verb_object``, and perhaps more words.
        classes: names of the classes.

    Returns:
        The class and the rule, or ``None`` where none is found.
    """
    if name in classes:
        return ClassMatch(name, "as it stands")
    words = name.split("_")
    for stems in product(*(_stems(word) for word in words[:2])):
        found = "_".join(stem for stem, _ in stems)
        if found in classes:
            rules = {rule for _, used in stems for rule in used} | ({"first two words"} if len(words) > 2 else set())
            return ClassMatch(found, " and ".join(sorted(rules)))
    return None


@cache
def _stems(word: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return what may stand for a word in the class list, and the rules that say so."""
    spelt = SPELLINGS.get(word, word)
    rules = ("spelling",) if spelt != word else ()
    cut = [spelt[: -len(ending)] + instead for ending, instead in ENDINGS if spelt.endswith(ending)]
    return ((spelt, rules), *((stem, (*rules, "ending")) for stem in cut))


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
        annotations: a folder of ``<id>.srt`` files, or of frame-wise ``<id>.gt`` files with one class a line.
        classes: the class list; see ``read_classes``.
        videos: a text file with one id a line; ``None`` for all videos of the folder.
        frame_rate: frames a second of ``.gt`` files.
        unknown: what becomes of an annotation whose class is not found (see ``class_of``): an error, or left out and
            counted.
        overlap: seconds by which an ``.srt`` annotation may reach into the next; it is cut there, and counted.

    Returns:
        One task, "mining_youtube", whose steps are the classes without the background, "_" written as a space, in the
        order of the list, and the videos. Annotations of length 0, or that end before they start, are left out and
        counted, those of the background are no segments.

    Raises:
        InputError: if a file is missing or not as it should be, a class is unknown, or an annotation reaches further
            into the next.
    """
    steps = {name: number for number, name in enumerate(_without_background(read_classes(classes)))}
    left_out, adjusted = Counter[str](), Counter[str]()
    found = []
    for path in _annotation_files(annotations, videos, frame_rate):
        segments = []
        for name, start, end, item in _items_of(path, frame_rate):
            if name == BACKGROUND:
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


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a class list.

    Args:
        path: one name a line (``weakYouTube_dict.txt``), or a number from 0 and a name (``mapping_without_meta.txt``).

    Returns:
        The names in the order of the list or of its numbers, that of the background among them where it is listed.

    Raises:
        InputError: if the file is missing or empty, has a name or a number twice, or lines of both forms.
    """
    lines = [(number, line.split()) for number, line in enumerate(read_lines(path, "a list of classes"), 1) if line]
    if not lines:
        raise InputError(f"{path}: expected one class a line, found none")
    numbered = len(lines[0][1]) == 2
    form = "a number and a class" if numbered else "one class"
    found: dict[int, str] = {}
    for place, (line, words) in enumerate(lines):
        where = f"{path}: line {line}"
        if len(words) != 1 + numbered or (numbered and not words[0].isdecimal()):
            raise InputError(f"{where}: expected {form}, as in line {lines[0][0]}, found '{' '.join(words)}'")
        index = int(words[0]) if numbered else place
        if index in found or words[-1] in found.values() or index >= len(lines):
            what = f"each class once, numbered from 0 to {len(lines) - 1}" if numbered else "each class once"
            raise InputError(f"{where}: expected {what}, found '{' '.join(words)}'")
        found[index] = words[-1]
    return tuple(found[index] for index in range(len(found)))


def read_transcript(path: Path, classes: Sequence[str]) -> tuple[int, ...]:
    """Read the ordered actions of a video.

    Args:
        path: a ``.grammar`` file, class names with white space between them.
        classes: names of the classes; see ``read_classes``.

    Returns:
        The step of each, as in ``read_mining_youtube``; S, the number of steps, stands for the background.

    Raises:
        InputError: if the file is missing or empty, or a class is unknown.
    """
    steps = _steps_and_background(classes)
    words = " ".join(read_lines(path, "a transcript of class names")).split()
    if not words:
        raise InputError(f"{path}: expected a transcript of class names, found none")
    found = []
    for number, word in enumerate(words, 1):
        match = class_of(word, steps)
        if match is None:
            raise InputError(f"{path}: action {number}: expected a class of the list, found '{word}': correct it")
        found.append(steps[match.name])
    return tuple(found)


def read_lengths(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Read the mean length of each class.

    Args:
        path: one number a line, in frames, in the order of ``classes``.
        classes: names of the classes; see ``read_classes``.

    Returns:
        ``(S,)`` float64, and the background's after them, ``(S + 1,)``, where it is a class; in frames.

    Raises:
        InputError: if the file is missing, or has another number of lines than classes, or a line that is no length.
    """
    lines = [(number, line) for number, line in enumerate(read_lines(path, "one mean length a class"), 1) if line]
    if len(lines) != len(classes):
        raise InputError(f"{path}: expected {len(classes)} lengths, one a class, found {len(lines)}: give their list")
    lengths = np.empty(len(classes))
    steps = _steps_and_background(classes)
    for name, (number, line) in zip(classes, lines, strict=True):
        try:
            length = float(line)
        except ValueError:
            length = np.nan
        if not 0 < length < np.inf:
            raise InputError(f"{path}: line {number}: expected the mean length of {name} in frames, found '{line}'")
        lengths[steps[name]] = length
    return lengths


def _without_background(classes: Sequence[str]) -> list[str]:
    return [name for name in classes if name != BACKGROUND]


def _steps_and_background(classes: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate([*_without_background(classes), BACKGROUND])}


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
    """Read the name, the start and end in seconds and the place of each annotation of a file."""
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
    """Cut each segment where the next one starts, and drop those of length 0 or that end before they start."""
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
