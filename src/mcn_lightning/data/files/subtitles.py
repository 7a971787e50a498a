"""WebVTT and SubRip subtitles as captions, without markup and without YouTube's rolling repetitions.

YouTube's automatic captions show two rolling lines. Each new line appears below the previous one, stays for 10 ms, and
appears again above the next one. A new line carries the times of its words, unless it is a single word. A conversion to
SubRip loses these times. So a line is new if it has word times, or if it does not stand where the cue before left it:
the first lines of a cue are old as far as they are the last lines of the cue before. What is said twice stays twice.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# hours are optional in WebVTT; SubRip has a comma; some tools write fewer digits than three
_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
# damaged times: another arrow, or a clock with too few or too many parts
_LIKE_TIMES = re.compile(r"-->|^\s*\d+:\d[\d:.,]*\s*(?:-+>|→)\s*\d+:\d|^\s*[\d:]+:\d+[.,]\d+\s*-+\s*[\d:]+:\d+[.,]\d")
_WORD_TIME = re.compile(rf"<{_CLOCK}>")
# tags of WebVTT and HTML, inner times, and ASS overrides such as {\an8}
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|</?>|<[\d:.]+>|\{\\[^}]*\}")
# blocks of WebVTT that are not shown
_COMMENT = re.compile(r"(NOTE|STYLE|REGION)\b")
_ROLLING = 0.3
"""A file without word times rolls if more than this share of its cues begins with the previous line."""
_BRIEF = 0.1
"""Seconds that a cue lasts at most which only holds a line; and between two cues of which the first stays visible."""


@dataclass(frozen=True)
class Cue:
    """Lines that are shown together.

    Args:
        start: in seconds.
        end: in seconds.
        lines: unchanged, without blank ones.
    """

    start: float
    end: float
    lines: tuple[str, ...]


def read_subtitles(text: str) -> list[tuple[float, float, str]]:
    """Return the captions of a WebVTT or SubRip file.

    Args:
        text: content of the file.

    Returns:
        Start and end in seconds and the text of each caption, in the order of the file. Empty for a file without times.
    """
    cues = parse_cues(text)
    return [(cue.start, cue.end, said) for cue in undo_rolling(cues) if (said := _plain(" ".join(cue.lines)))]


def undo_rolling(cues: list[Cue]) -> list[Cue]:
    """Return cues with each rolling line once, where it is new. Cues that do not roll are returned unchanged."""
    shown = [[plain for line in cue.lines if (plain := _plain(line))] for cue in cues]
    if not _rolls(cues, shown):
        return cues
    found = list[Cue]()
    for number, cue in enumerate(cues):
        lines = [line for line in cue.lines if _plain(line)]
        old = _overlap(shown[number - 1], shown[number]) if number else 0
        if old == len(lines) and cue.start - cues[number - 1].end > _BRIEF:  # said again after a pause
            old = 0
        new = tuple(line for place, line in enumerate(lines) if place >= old or _WORD_TIME.search(line))
        if new:
            found.append(Cue(cue.start, cue.end, new))
    return found


def _overlap(before: list[str], lines: list[str]) -> int:
    """Return how many lines of a cue are the last ones of the cue before."""
    most = min(len(before), len(lines))
    return next((count for count in range(most, 0, -1) if before[-count:] == lines[:count]), 0)


def parse_cues(text: str) -> list[Cue]:
    """Return the cues of a WebVTT or SubRip file.

    Only a line of times begins a cue: some conversions leave blank lines inside one.
    """
    cues, lines = list[Cue](), text.split("\n")
    times: tuple[float, float] | None = None
    spoken: list[str] = []
    in_comment = False

    def close() -> None:
        if times is not None:
            cues.append(Cue(*times, tuple(line for line in spoken if line.strip())))

    for number, line in enumerate(lines):
        if (match := _TIMES.fullmatch(line)) is not None:
            # the last line before the times may name the cue that begins, and belongs to no text
            if spoken and _is_cue_name(spoken, lines, number):
                spoken.pop()
            close()
            times, spoken, in_comment = _seconds(match), [], False
        elif _COMMENT.match(line) and (number == 0 or not lines[number - 1].strip()):
            in_comment = True
        elif not line.strip():
            in_comment = False
            spoken.append(line)
        elif not in_comment:
            spoken.append(line)
    close()
    return cues


def _is_cue_name(spoken: list[str], lines: list[str], number: int) -> bool:
    """Tell whether the line before a line of times is the number or name of a cue, which nobody speaks."""
    before = spoken[-1].strip()
    return bool(before) and (before.isdecimal() or number < 2 or not lines[number - 2].strip())


def _seconds(match: re.Match[str]) -> tuple[float, float]:
    return _clock(match.groups()[:4]), _clock(match.groups()[4:])


def _clock(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, part = (each or "0" for each in parts)
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(part.ljust(3, "0")) / 1000


def _rolls(cues: list[Cue], shown: list[list[str]]) -> bool:
    """Tell whether lines roll: cues begin with the last line of the cue before, and add one below or last a moment.

    A cue that only repeats the one before, and lasts, is something that was said twice.
    """
    repeated = sum(
        _overlap(before, lines) > 0 and (len(lines) > 1 or cue.end - cue.start <= _BRIEF)
        for (before, lines), cue in zip(pairwise(shown), cues[1:], strict=True)
    )
    timed = any(_WORD_TIME.search(line) for cue in cues for line in cue.lines)
    return repeated > (0 if timed else _ROLLING * len(cues))


def _plain(line: str) -> str:
    """Return a line without markup and entities, with single spaces."""
    return " ".join(html.unescape(_MARKUP.sub("", line)).split())


def timed_parts(cue: Cue) -> list[tuple[float, str]]:
    """Return the parts of a cue between the times of its words: when each begins, and its text without tags.

    A part keeps its spaces, line breaks and entities. A cue without word times is one part.
    """
    text = "\n".join(cue.lines)
    marks = [*_WORD_TIME.finditer(text)]
    begins = [cue.start, *(_clock(mark.groups()) for mark in marks)]
    # parts lie between the end of one mark and the start of the next
    bounds = [0, *(mark.end() for mark in marks)], [*(mark.start() for mark in marks), len(text)]
    parts = [_MARKUP.sub("", text[first:last]) for first, last in zip(*bounds, strict=True)]
    return [(begin, part) for begin, part in zip(begins, parts, strict=True) if part.strip()]


def readable_cues(text: str) -> tuple[list[Cue], dict[int, str]]:
    """Return the cues of a WebVTT or SubRip file, without those whose times are damaged or run backwards.

    ``parse_cues`` takes a line of damaged times, and the words below it, for words of the cue before.

    Returns:
        The cues, and the damaged lines of times by their number from 1.
    """
    lines, kept, damaged = text.split("\n"), list[str](), dict[int, str]()
    times = list[int]()
    skipping = False
    for number, line in enumerate(lines, 1):
        if _TIMES.fullmatch(line) is not None:
            skipping = False
            times.append(number)
        elif _LIKE_TIMES.search(line) is not None and not _COMMENT.match(line):
            skipping, damaged[number] = True, line.strip()
            if kept and _is_cue_name(kept, lines, number - 1):
                kept[-1] = ""
        kept.append("" if skipping else line)
    cues = [*zip(times, parse_cues("\n".join(kept)), strict=True)]  # each line of times begins one cue
    damaged |= {number: lines[number - 1].strip() for number, cue in cues if cue.end <= cue.start}
    return [cue for number, cue in cues if number not in damaged], dict(sorted(damaged.items()))
