"""What is known of a data set before a run begins: how many caption words have a vector, and videos of two lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from mcn_lightning.data.text import TextSource, WordVectorText, split_words
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError

CAPTIONS = 50_000
"""Captions of a split that are looked at: all of them where there are fewer."""
CASED = 0.05
"""Share of unknown words with capitals from which lower-casing is tried."""
MAX_SHOWN = 3


@dataclass(frozen=True)
class WordCoverage:
    """How many words of some captions have a vector.

    Args:
        captions: how many captions there are.
        without: captions without any known word; they have no embedding of their own.
        words: words of all captions, repeated ones included.
        known: those that have a vector.
        cased: unknown words with capital letters.
    """

    captions: int
    without: int
    words: int
    known: int
    cased: int

    @property
    def share(self) -> float:
        """Share of the words that are known; 0 where there is no word."""
        return self.known / max(self.words, 1)

    def __str__(self) -> str:
        return (
            f"{100 * self.share:.1f} % of {self.words} caption words known, {self.without} of {self.captions} captions "
            "without any known word"
        )


def count_known(text: WordVectorText, captions: Iterable[str]) -> WordCoverage:
    """Count the words of captions that have a vector.

    Args:
        text: the word vectors.
        captions: texts.
    """
    count = without = words = known = cased = 0
    for caption in captions:
        found = split_words(caption, text.config.lowercase)
        unknown = [word for word in found if word not in text.vocabulary]
        count += 1
        words += len(found)
        known += len(found) - len(unknown)
        without += len(unknown) == len(found)
        cased += sum(word != word.lower() for word in unknown)
    return WordCoverage(count, without, words, known, cased)


def check_known_words(text: TextSource | None, source: Videos, where: str, path: Path) -> str | None:
    """Return how many words of a split's captions are known, and refuse a split with too few.

    Args:
        text: source of word vectors. A sentence encoder knows all words and is not checked.
        source: videos of the split.
        where: the option and its file, for the message.
        path: the word-vector file.

    Returns:
        One line, or ``None`` if no check applies.

    Raises:
        InputError: if more than ``data.text.max_unknown_share`` of the words are unknown, or all of them.
    """
    if not isinstance(text, WordVectorText) or not (captions := list(source.some_texts(CAPTIONS))):
        return None
    found = count_known(text, captions)
    if not found.words:
        raise InputError(f"{where}: expected captions with words, found none in {len(captions)} captions")
    hint = ""
    # a file of lower-case words misses every capital, which one option mends
    if not text.config.lowercase and found.cased > CASED * found.words:
        hint = _lower_case(text, captions, path, found)
    allowed = text.config.max_unknown_share
    # no known word at all is refused in any case: every text would have the same embedding
    if found.known == 0 or 1 - found.share > allowed:
        wanted = f"at most {100 * allowed:g} % unknown words (--data.text.max_unknown_share)"
        raise InputError(f"{where}: expected {wanted}, found {found}{hint or '; check --data.text.source'}")
    return f"{where}: {found}{hint}"


def _lower_case(text: WordVectorText, captions: Sequence[str], path: Path, found: WordCoverage) -> str:
    """Say how many words would be known in lower case, where that helps."""
    try:
        # the file is read again with other words, which only a run with a hint does
        lower = WordVectorText(replace(text.config, lowercase=True), path, captions)
    except InputError:  # knows none of them either
        return ""
    tried = count_known(lower, captions)
    if tried.known <= found.known:
        return ""
    return f"; with --data.text.lowercase true {100 * tried.share:.1f} % would be known"


def overlaps(sources: Mapping[str, Videos], labels: Mapping[str, str]) -> list[str]:
    """Say which splits have videos, or clips of a pickle, in common.

    Args:
        sources: videos of each split.
        labels: what each split is called.

    Returns:
        One line for each two splits that have some in common.
    """
    ids = {split: {source.id(index) for index in range(len(source) if source.named else 0)}
           for split, source in sources.items()}  # fmt: skip
    lines = []
    for one, other in combinations(ids, 2):
        if shared := sorted(ids[one] & ids[other]):
            more = f" and {len(shared) - MAX_SHOWN} more" if len(shared) > MAX_SHOWN else ""
            lines.append(
                f"{labels[one]} and {labels[other]} have {len(shared)} of {len(ids[other])} videos in common: "
                f"{', '.join(shared[:MAX_SHOWN])}{more}"
            )
    return lines


def repeated_names(source: Videos, where: str) -> list[str]:
    """Say how many clips of a pickle have the name of an earlier one; lists of videos with duplicates are refused."""
    if not source.repeated:
        return []
    some = ", ".join(source.repeated_names()[:MAX_SHOWN])
    return [f"{where}: {source.repeated} of {len(source)} clips have the name of an earlier one, such as {some}"]
