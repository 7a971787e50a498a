"""How columns of the table divide the clips into groups, and the names of the groups by their captions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mcn_lightning.search.clips import Clips

WORDS = 4  # of a name
CAPTIONS = 100_000
"""Captions from which names are made, at most."""


@dataclass(frozen=True)
class Groups:
    """How a column divides the clips.

    Args:
        codes: number of each clip's group ``(N,)`` int32; -1 for none.
        labels: of the groups that have clips, by number.
    """

    codes: np.ndarray
    labels: dict[int, str]

    def sizes(self) -> dict[int, int]:
        """Return the number of clips of each group, the largest first."""
        groups, counts = np.unique(self.codes[self.codes >= 0], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {int(groups[place]): int(counts[place]) for place in order}


def read_groups(clips: Clips, column: str) -> Groups:
    """Read a column.

    Args:
        clips: the table.
        column: ``cluster``, ``topic`` or ``video``. Clusters and topics are named by the words of their captions.
    """
    count = clips.count
    with closing(_open(clips.path)) as table:
        values = (row[0] for row in table.execute(f"SELECT {column} FROM clips ORDER BY row"))
        if column == "video":
            videos: dict[str, int] = {}
            codes = np.fromiter((videos.setdefault(video, len(videos)) for video in values), np.int32, count)
            return Groups(codes, {code: video for video, code in videos.items()})
        codes = np.fromiter((-1 if value is None else value for value in values), np.int32, count)
    words = class_words(*_captions(clips.path, column, count))
    groups = np.unique(codes[codes >= 0]).tolist()
    return Groups(codes, {code: ", ".join(words.get(code, ())) for code in groups})


def _captions(path: Path, column: str, count: int) -> tuple[Sequence[str], Sequence[int]]:
    step = -(-count // CAPTIONS) or 1
    query = f"SELECT text, {column} FROM clips WHERE text IS NOT NULL AND {column} IS NOT NULL AND row % {step} = 0"
    with closing(_open(path)) as table:
        found: Iterator[tuple[str, int]] = iter(table.execute(query).fetchall())
    texts, groups = [], []
    for text, group in found:
        texts.append(text)
        groups.append(group)
    return texts, groups


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def class_words(texts: Sequence[str], classes: Sequence[int], count: int = WORDS) -> dict[int, list[str]]:
    """Return the words that stand out in each class, by class-based TF-IDF.

    A word's weight in a class is ``tf * log(1 + A / f)``: ``tf`` is its count in the class, ``f`` its count in all
    classes, ``A`` the mean number of words of a class (Grootendorst 2022, "BERTopic", equation 2). English function
    words and words of one letter do not count. Equal weights are ordered by the alphabet.

    Args:
        texts: captions.
        classes: the class of each.
        count: words of a class at most.

    Returns:
        Words by class, the best first. A class of captions without words has none.
    """
    from sklearn.feature_extraction.text import CountVectorizer  # imported here, as it takes long and few need it

    joined: dict[int, list[str]] = {each: [] for each in sorted(set(classes))}
    for text, each in zip(texts, classes, strict=True):
        joined[each].append(text)
    vectorizer = CountVectorizer(stop_words="english", token_pattern=r"(?u)\b\w\w+\b")
    try:
        counts = vectorizer.fit_transform(" ".join(own) for own in joined.values()).tocsr()
    except ValueError:  # no words at all
        return {each: [] for each in joined}
    words = vectorizer.get_feature_names_out()
    total = np.asarray(counts.sum(axis=0)).ravel()
    weight = np.log1p(counts.sum() / len(joined) / total)
    found = {}
    for row, each in enumerate(joined):
        own = counts[row]
        scores = own.data * weight[own.indices]
        best = np.lexsort((words[own.indices], -scores))[:count]
        found[each] = [str(words[own.indices[place]]) for place in best]
    return found
