"""The captions of one video: from what a file has to what is used, with the times of words where they are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from mcn_lightning.extract.captions.cleaning import CaptionCleaning, clean_parts, clean_text, has_words

WITHOUT_WORDS = "without words"
"""Why captions are dropped that are empty, or have only marks after cleaning. The reason is a key of ``dropped``."""

MOST_PROBLEMS = 5
"""Problems with the captions of a video that are printed. Its record has all."""

Word = tuple[float, float, str]
"""Start and end in seconds, and the word."""


@dataclass(frozen=True)
class Part:
    """A part of a caption's text whose time may be known, mostly a word.

    Args:
        text: with the spaces before it.
        start: in seconds; ``None`` if it is not known.
        end: in seconds; ``None`` if it is not known.
    """

    text: str
    start: float | None
    end: float | None


@dataclass(frozen=True)
class RawCaption:
    """A caption as its file has it, before any check.

    Args:
        start: in seconds, if it is a number.
        end: in seconds, if it is a number.
        text: of the caption, if it is a string.
        parts: its text in parts whose times are known; empty if they are not.
        where: its position in the file, for messages: "caption 3".
    """

    start: object
    end: object
    text: object
    parts: Sequence[Part] = ()
    where: str = ""


def until_next(parts: Sequence[tuple[float, str]], end: float) -> list[Part]:
    """Return parts that last until the next one begins; none of a single part, whose words have no times.

    Args:
        parts: when each begins in seconds, and its text.
        end: of the last, in seconds.
    """
    if len(parts) < 2:
        return []
    return [Part(text, begin, after) for (begin, text), (after, _) in pairwise([*parts, (end, "")])]


@dataclass(frozen=True)
class Caption:
    """A caption.

    Args:
        start: in seconds.
        end: in seconds, after the start.
        text: cleaned, in one line.
        words: the times of its words; empty if they are not known.
    """

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class VideoCaptions:
    """What was found for one video. It is false if there are no captions.

    Args:
        captions: by their start.
        path: the file that they come from; ``None`` if there was none.
        dropped: captions that were left out on purpose, by reason.
        problems: what was not understood, one line each, with file and line or position. It is left out.
    """

    captions: tuple[Caption, ...] = ()
    path: Path | None = None
    dropped: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def record(self) -> dict[str, object]:
        """Return what the record of a video keeps of its captions."""
        return {
            "captions": self.entry() if self else None,
            "dropped_captions": dict(self.dropped),
            "caption_problems": list(self.problems),
        }

    def told(self, name: str) -> str:
        """Return the first problems, one a line, and how many more there are.

        Args:
            name: of the video.
        """
        more = len(self.problems) - MOST_PROBLEMS
        rest = [f"{name}: {more} more captions are left out; its record names them"] if more > 0 else []
        return "\n".join([*self.problems[:MOST_PROBLEMS], *rest])

    def entry(self) -> dict[str, list[object]]:
        """Return the entry of the video in ``captions.json``: the columns start, end, text, and words if there are any.

        Each item of ``words`` is a list of ``[start, end, word]``; empty where the times of words are not known.
        """
        found: dict[str, list[object]] = {
            "start": [caption.start for caption in self.captions],
            "end": [caption.end for caption in self.captions],
            "text": [caption.text for caption in self.captions],
        }
        if any(caption.words for caption in self.captions):
            found["words"] = [[[*word] for word in caption.words] for caption in self.captions]
        return found


def cleaned_captions(
    raw: Iterable[RawCaption], path: Path, cleaning: CaptionCleaning, problems: Sequence[str] = (), video: str = ""
) -> VideoCaptions:
    """Check and clean the captions of a file.

    Args:
        raw: as read.
        path: of the file, for messages.
        cleaning: what is taken out.
        problems: what reading found already.
        video: id, where the file has several.
    """
    where = f"{video}, " if video else ""
    captions, dropped, found = list[Caption](), Counter[str](), [*problems]
    for caption in raw:
        start, end = _seconds(caption.start), _seconds(caption.end)
        if (fault := _fault(caption, start, end)) is not None:
            found.append(f"{path}, {where}{caption.where}: {fault}; this caption is left out")
        elif not has_words(text := clean_text(str(caption.text), cleaning)):
            dropped[WITHOUT_WORDS] += 1
        else:
            captions.append(Caption(start, end, text, _words(caption.parts, start, end, cleaning)))
    # files may list overlapping speakers one after another; the sort is stable
    captions.sort(key=lambda caption: caption.start)
    return VideoCaptions(tuple(_with_single_words(captions)), path, dict(dropped), tuple(found))


def _seconds(value: object) -> float:
    try:
        # through text, as bool and None would pass float() or raise another error
        return round(float(str(value)), 3)
    except ValueError:
        return math.nan


def _fault(caption: RawCaption, start: float, end: float) -> str | None:
    """Return why a caption cannot be used; ``None`` if it can."""
    if not (math.isfinite(start) and math.isfinite(end)):
        return f"expected start and end in seconds, found {caption.start!r:.40} and {caption.end!r:.40}"
    if not 0 <= start < end:
        return f"expected a start of at least 0 s and an end after it, found {start:g} s and {end:g} s"
    return None if isinstance(caption.text, str) else f"expected text, found {caption.text!r:.40}"


def _words(parts: Sequence[Part], start: float, end: float, cleaning: CaptionCleaning) -> tuple[Word, ...]:
    """Return the words of the parts with their times; those that cleaning takes out are left out."""
    found = list[Word]()
    timed = zip(clean_parts([part.text for part in parts], cleaning), _times(parts, start, end), strict=True)
    for text, (first, last) in timed:
        if not (word := " ".join(text.split())):
            continue
        if found and not (text[0].isspace() or text[0].isalnum()):  # the rest of a word: "college" and "."
            before = found.pop()
            first, word = before[0], before[2] + word
        found.append((first, last, word))
    return tuple(found)


def _times(parts: Sequence[Part], start: float, end: float) -> list[tuple[float, float]]:
    """Return start and end of each part. Those that are not known share the time between their neighbours evenly."""
    found = list[tuple[float, float]]()
    waiting = 0
    for number in range(len(parts) + 1):
        part = parts[number] if number < len(parts) else Part("", end, end)
        if part.start is None or part.end is None:
            waiting += 1
            continue
        first = found[-1][1] if found else start
        step = max(part.start - first, 0.0) / (waiting or 1)
        found += [(round(first + n * step, 3), round(first + (n + 1) * step, 3)) for n in range(waiting)]
        found.append((round(part.start, 3), round(max(part.end, part.start), 3)))
        waiting = 0
    return found[:-1]


def _with_single_words(captions: Sequence[Caption]) -> list[Caption]:
    """Give captions of one word its time. In files with word times only these have none."""
    if not any(caption.words for caption in captions):
        return [*captions]
    return [
        Caption(caption.start, caption.end, caption.text, ((caption.start, caption.end, caption.text),))
        if not caption.words and " " not in caption.text
        else caption
        for caption in captions
    ]
