"""WebVTT and SubRip subtitles as captions, without markup and without YouTube's rolling repetitions.

YouTube's automatic captions show two rolling lines. Each new line appears below the previous one, stays for 10 ms, and
appears again above the next one. A new line carries the times of its words, unless it is a single word. A conversion to
SubRip loses these times. So a line counts as new if it has word times or the cue before did not show it.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from itertools import pairwise

_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_CLOCK}\s*-->\s*{_CLOCK}(?:\s.*)?")
_WORD_TIME = re.compile(rf"<{_CLOCK}>")
_MARKUP = re.compile(r"<[^>]*>|\{\\[^}]*\}")
_COMMENT = re.compile(r"(NOTE|STYLE|REGION)\b")
_ROLLING = 0.3
"""A file without word times rolls if more than this share of its cues begins with the previous line."""


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
    # spoken repetitions stay where lines do not roll
    if not _rolls(cues):
        return [(cue.start, cue.end, joined) for cue in cues if (joined := _plain(" ".join(cue.lines)))]
    found, before = [], set[str]()
    for cue in cues:
        shown = [(_plain(line), _WORD_TIME.search(line) is not None) for line in cue.lines]
        new = " ".join(line for line, timed in shown if line and (timed or line not in before))
        if new:
            found.append((cue.start, cue.end, new))
        before = {line for line, _ in shown}
    return found


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
    first, last = match.groups()[:4], match.groups()[4:]
    start, end = (
        int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(part.ljust(3, "0")) / 1000
        for hours, minutes, seconds, part in (first, last)
    )
    return start, end


def _rolls(cues: list[Cue]) -> bool:
    """Tell whether lines roll: words have times, or many cues begin with the last line of the previous cue."""
    if any(_WORD_TIME.search(line) for cue in cues for line in cue.lines):
        return True
    repeated = sum(
        bool(cue.lines and before.lines) and cue.lines[0].strip() == before.lines[-1].strip()
        for before, cue in pairwise(cues)
    )
    return repeated > _ROLLING * len(cues)


def _plain(line: str) -> str:
    """Return a line without markup and entities, with single spaces."""
    return " ".join(html.unescape(_MARKUP.sub("", line)).split())
