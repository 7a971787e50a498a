"""Cleaning of captions: what is written in them and not spoken."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mcn_lightning.options.config import Options

_TAGS = re.compile(
    r"</?(?:b|i|u|s|c|v|em|strong|font|ruby|rt|lang|span|p|div)\b[^<>]*>|\{\\[^}]*\}|[\u200b\u200e\u200f\u2060\ufeff\xad]",
    re.IGNORECASE,
)
"""Tags of WebVTT, SubRip, TTML and ASS, and characters without a width. Other text in angle brackets is kept."""
_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_MUSIC = re.compile(r"[♩♪♫♬🎵🎶🎼]|(?<!\S)#+(?!\S)")
_SQUARE = re.compile(r"\[[^\[\]]*\]")
# a sound, with up to three words before it, as in (upbeat guitar music)
_SOUND = re.compile(
    r"\((?:[\w'-]+ ){0,3}(?:music\w*|singing|applau\w+|cheer\w*|laugh\w*|chuckl\w+|giggl\w+|sigh\w*|gasp\w*|sob\w*"
    r"|cough\w*|scream\w*|inaudible|indistinct|silence)\)",
    re.IGNORECASE,
)
# only at the begin of a line: speech has round brackets too
_ROUND = re.compile(r"^[^\w\n(]*(\([^()]*\))", re.MULTILINE)
_ARROWS = re.compile(r">>+")
_DASH = re.compile(r"^[^\w\n]*?([-–—‐])(?!\d)", re.MULTILINE)
# up to 31 characters: longer text before a colon is speech
_NAME = re.compile(r"^[^\w\n]*(\w[^\n:]{0,30}:)(?=\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class CaptionCleaning(Options, option="--cleaning"):
    """What is taken out of captions. Tags are always taken out, and HTML entities always become characters.

    Args:
        music: music notes such as ♪ and a # that stands alone. The words between them stay.
        sounds: square brackets, as in ``[Music]``; round brackets at the begin of a line, and those with the usual
            English words of sounds, as in ``(applause)``. Other round brackets stay: speech has them, too.
        speakers: ``>>`` anywhere; at the begin of a line a dash, and a name in capital letters with a colon, as in
            ``JOHN:``.
    """

    music: bool = True
    sounds: bool = True
    speakers: bool = True


def clean_parts(parts: Sequence[str], cleaning: CaptionCleaning) -> list[str]:
    """Clean the parts of one text, which may be cut anywhere: a bracket may open in one and close in another.

    Args:
        parts: which make up the text, with its spaces and line breaks.
        cleaning: what is taken out.

    Returns:
        What is left of each part. Spaces and line breaks are left, too.
    """
    plain = [_without_markup(part) for part in parts]
    text = _blanked("".join(plain), cleaning)
    # lengths are unchanged, as _blanked replaces letters by spaces
    bounds = accumulate((len(part) for part in plain), initial=0)
    return [text[begin:end] for begin, end in pairwise(bounds)]


def clean_text(text: str, cleaning: CaptionCleaning) -> str:
    """Return a cleaned text with single spaces."""
    return " ".join(clean_parts([text], cleaning)[0].split())


def has_words(text: str) -> bool:
    """Tell whether a text has a letter or a digit of any script."""
    return any(character.isalnum() for character in text)


def _without_markup(text: str) -> str:
    # twice: some exporters escape what is escaped already, as in &amp;#39;
    return _TAGS.sub("", _BREAK.sub("\n", html.unescape(html.unescape(text))))


def _blanked(text: str, cleaning: CaptionCleaning) -> str:
    """Put spaces in the place of what is taken out, so that every other character keeps its position."""
    if cleaning.music:
        text = _blank(_MUSIC, text)
    if cleaning.sounds:
        text = _blank(_ROUND, _blank(_SOUND, _blank(_SQUARE, text)))
    if cleaning.speakers:
        text = _blank(_DASH, _blank(_ARROWS, text))
        unnamed = _NAME.sub(lambda match: _spaces(match) if match[1].isupper() else match[0], text)
        if not unnamed.isupper():  # where all is in capitals, words before a colon need not be a name
            text = unnamed
    return text


def _blank(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(_spaces, text)


def _spaces(match: re.Match[str]) -> str:
    """Return a match with spaces for its last group, or for all of it where it has no group."""
    begin, end = match.span(match.re.groups)
    before, after = match.string[match.start() : begin], match.string[end : match.end()]
    return before + " " * (end - begin) + after
