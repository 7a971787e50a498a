"""Queries of the page: their parameters, each of them bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from mcn_lightning.errors import InputError
from mcn_lightning.search.options import modalities_of

MOST_TEXT, MOST_NAME = 500, 1_000
MOST_CLIPS = 200
By = Literal["meaning", "words", "both"]


@dataclass(frozen=True)
class Asked:
    """A query of the page.

    Args:
        text: a sentence.
        by: whether the sentence is searched by its embedding, its words in captions, or both.
        file: name of a file that was dropped on the page.
        use: letters of what is used of the file: v for its picture, a for its sound.
        like: id of a clip.
        modality: letters of what is compared; empty for the default of the index.
        k: answers.
        per_video: answers of a video at most.
        merge: join overlapping clips.
        video: part of the name of the videos.
        cluster: number of the cluster.
        first: second from which clips start.
        last: second until which clips end.
    """

    text: str = ""
    by: By = "meaning"
    file: str = ""
    use: str = "va"
    like: str = ""
    modality: str = ""
    k: int = 24
    per_video: int | None = None
    merge: bool = False
    video: str = ""
    cluster: int | None = None
    first: float | None = None
    last: float | None = None

    @property
    def empty(self) -> bool:
        """Whether there are filters at most."""
        return not (self.text or self.file or self.like)


def read_query(given: Mapping[str, str]) -> Asked:
    """Read the parameters of a query.

    Args:
        given: from the address of the page.

    Raises:
        InputError: if one is wrong or too long.
    """
    by = given.get("by", "meaning")
    if by not in ("meaning", "words", "both"):
        raise InputError("The words are searched by meaning, words or both.")
    modality = given.get("modality", "")
    return Asked(
        text=_text(given, "q", MOST_TEXT),
        by=cast(By, by),
        file=_text(given, "file", 64),
        use=_text(given, "use", 2) or "va",
        like=_text(given, "like", MOST_NAME),
        modality=_letters(modality),
        k=_whole(given, "k", 1, MOST_CLIPS) or 24,
        per_video=_whole(given, "per_video", 1, MOST_CLIPS),
        merge=given.get("merge") == "1",
        video=_text(given, "video", MOST_NAME),
        cluster=_whole(given, "cluster", 0, 2**31),
        first=_second(given, "from"),
        last=_second(given, "to"),
    )


def condition_of(asked: Asked) -> str | None:
    """Return the filters as a condition in SQL, ``None`` without any.

    Numbers were read as numbers, and the quotes of the name are doubled, so a filter cannot be another condition.
    """
    found = []
    if asked.video:
        name = asked.video.replace("'", "''")
        # instr and not LIKE, for which % and _ in a name are patterns
        found.append(f"instr(lower(video), lower('{name}')) > 0")
    if asked.cluster is not None:
        found.append(f"cluster = {asked.cluster:d}")
    if asked.first is not None:
        found.append(f"start >= {asked.first:f}")
    if asked.last is not None:
        found.append(f'"end" <= {asked.last:f}')
    return " AND ".join(found) or None


def _text(given: Mapping[str, str], name: str, most: int) -> str:
    found = " ".join(given.get(name, "").split())
    if len(found) > most:
        raise InputError(f"{name}: {len(found)} letters are too many; write {most} at most.")
    # control characters would end up in messages and logs
    if not found.isprintable():
        raise InputError(f"{name}: expected letters, found a control character.")
    return found


def _letters(text: str) -> str:
    if text:
        modalities_of(text, "modality")
    return text


def _whole(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    # isdecimal alone is also true for digits of other scripts
    if not (text.isascii() and text.isdecimal()) or len(text) > 12 or not least <= int(text) <= most:
        raise InputError(f"{name}: expected a whole number from {least} to {most}, found {text[:20]!r}.")
    return int(text)


def _second(given: Mapping[str, str], name: str) -> float | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e9:
        raise InputError(f"{name}: expected seconds, found {text[:20]!r}.")
    return found
