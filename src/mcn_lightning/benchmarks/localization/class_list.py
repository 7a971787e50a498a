"""The class list of MiningYouTube, and the matching of annotated names to its classes.

The list holds crudely stemmed names of two words ("crack_egg", "pres_it", "add_fill"). The annotations of the test
videos hold the words that annotators typed ("crack_eggs", "press_it", "add_filling").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mcn_lightning.benchmarks.localization.lines import read_filled, require

BACKGROUND_CLASS = "background"

# words that annotators typed, and the words of the class list
SPELLINGS = {
    "appy": "apply",
    "leaf": "leave",  # the stem of leaves
    "omelet": "omelette",
    "omellete": "omelette",
    "sauté": "saute",
    "them": "it",
}
# endings that the class list lacks, and their replacements; the order decides which class a name finds
ENDINGS = (("s", ""), ("es", ""), ("ing", ""), ("ings", ""), ("ing", "e"), ("ed", "e"))


class ClassMatch(NamedTuple):
    """The class that matches an annotated name.

    Attributes:
        name: of the class.
        rule: that found it: "as it stands", or one or more of "spelling", "ending" and "first two words", joined by
            "and".
    """

    name: str
    rule: str


def class_of(name: str, classes: Collection[str]) -> ClassMatch | None:
    """Find the class that matches an annotated name.

    A name in the list matches itself. For others the first two words are looked up, as the list has no longer names
    ("add_sauce_soy" is "add_sauce"). Each word is tried as it stands, in another spelling (``SPELLINGS``), and without
    an ending that the list lacks (``ENDINGS``). Of the 5,132 names in the 250 released files, 3,898 are in the list.
    All others are found in this way, and none of them matches two classes.

    Args:
        name: ``verb_object``, possibly with more words.
        classes: names of the classes.

    Returns:
        The class and the rule, or ``None`` without a match.
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


# the 5,132 names share a few hundred words
@cache
def _stems(word: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the possible forms of a word in the class list, with the rules that lead to each."""
    spelt = SPELLINGS.get(word, word)
    rules = ("spelling",) if spelt != word else ()
    cut = [spelt[: -len(ending)] + instead for ending, instead in ENDINGS if spelt.endswith(ending)]
    return ((spelt, rules), *((stem, (*rules, "ending")) for stem in cut))


def read_classes(path: Path) -> tuple[str, ...]:
    """Read a class list.

    Args:
        path: one name a line (``weakYouTube_dict.txt``), or a number from 0 and a name (``mapping_without_meta.txt``).

    Returns:
        The names in the order of the list or of its numbers, including the background if it is listed.

    Raises:
        InputError: if the file is missing or empty, has a name or a number twice, or lines of both forms.
    """
    lines = read_filled(path, "a list of classes", "one class a line")
    # both forms are in the release; the first line tells which one this file has
    numbered = len(lines[0].text.split()) == 2
    form = f"{'a number and a class' if numbered else 'one class'}, as in line {lines[0].number}"
    once = f"each class once, numbered from 0 to {len(lines) - 1}" if numbered else "each class once"
    found: dict[int, str] = {}
    for position, line in enumerate(lines):
        *number, name = line.columns(form, (str, str) if numbered else (str,), None)
        line.require(all(text.isdecimal() for text in number), form)
        index = int(number[0]) if number else position
        line.require(index not in found and name not in found.values() and index < len(lines), once)
        found[index] = name
    return tuple(found[index] for index in range(len(found)))


def read_lengths(path: Path, classes: Sequence[str]) -> np.ndarray:
    """Read the mean length of each class.

    Args:
        path: one number a line, in frames, in the order of ``classes``.
        classes: names of the classes; see ``read_classes``.

    Returns:
        ``(S,)`` float64 in frames; ``(S + 1,)`` with the background last, if it is a class.

    Raises:
        InputError: if the file is missing, or has another number of lines than classes, or a line that is no length.
    """
    lines = read_filled(path, "one mean length a class")
    require(len(lines) == len(classes), path, f"{len(classes)} lengths, one a class", len(lines), "give their list")
    lengths = np.empty(len(classes))
    # the background is last here, wherever the class list has it
    steps = {name: number for number, name in enumerate([*without_background(classes), BACKGROUND_CLASS])}
    for name, line in zip(classes, lines, strict=True):
        expected = f"the mean length of {name} in frames"
        (length,) = line.columns(expected, (float,), None)
        line.require(0 < length < np.inf, expected)
        lengths[steps[name]] = length
    return lengths


def without_background(classes: Sequence[str]) -> list[str]:
    """Return the classes without the background, in their order."""
    return [name for name in classes if name != BACKGROUND_CLASS]
