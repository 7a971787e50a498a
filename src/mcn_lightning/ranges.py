"""Types of the numbers that options take: the parser checks them, and messages say them in words.

To mypy they are plain numbers. This file holds no class: the parser reads ``TYPE_CHECKING`` blocks beside a class.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from jsonargparse import typing as restricted

from mcn_lightning.errors import InputError

if TYPE_CHECKING:  # to mypy they are plain numbers
    from builtins import float as NonNegativeFloat
    from builtins import float as PositiveFloat
    from builtins import float as PositiveShare
    from builtins import float as Share
    from builtins import float as ShareBelowOne
    from builtins import int as NonNegativeInt
    from builtins import int as PositiveInt
else:
    PositiveInt, NonNegativeInt = restricted.PositiveInt, restricted.NonNegativeInt
    PositiveFloat = restricted.restricted_number_type("PositiveFinite", float, [(">", 0), ("<", math.inf)])
    NonNegativeFloat = restricted.restricted_number_type("NonNegativeFinite", float, [(">=", 0), ("<", math.inf)])
    Share = restricted.ClosedUnitInterval
    ShareBelowOne = restricted.restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])
    PositiveShare = restricted.restricted_number_type("PositiveShare", float, [(">", 0), ("<=", 1)])

_SIGNS = {">=": "of at least", "<=": "at most", ">": "above", "<": "below"}
_REFUSED = re.compile(
    r"Not of type (\w+): (?:(.+) does not conform to restriction .*|(.+) not an? (?:number|integer)"
    r"|(?:could not convert string to float|invalid literal for int\(\) with base 10): (.+))$"
)


def words_of(kind: Any) -> str | None:
    """Return what a number of a restricted type must be, such as ``a whole number above 0``; ``None`` for other types.

    Args:
        kind: the type.
    """
    if not hasattr(kind, "_restrictions"):
        return None
    bounds = re.findall(r"v(>=|<=|>|<)(\S+)", kind._expression)
    words = [f"{_SIGNS[sign]} {bound}" for sign, bound in bounds if bound != "inf"]
    return f"{'a whole number' if kind._type is int else 'a number'} {' and '.join(words)}"


def in_words(message: str) -> str:
    """Return a parser's refusal of a number in the words of ``words_of``; other messages stay as they are.

    Args:
        message: one line of jsonargparse.
    """
    found = _REFUSED.search(message)
    known = {kind.__name__: kind for kind in restricted.registered_types.values()}
    words = words_of(known.get(found[1])) if found else None
    if found is None or words is None:
        return message
    value = (found[2] or found[3] or found[4]).strip("'")
    return f"{message[: found.start()]}expected {words}, found {value}"


def checked(hint: Any, value: Any, option: str) -> Any:
    """Return a value as its annotated type holds it, in plain Python types.

    Args:
        hint: restricted number types, ``Literal``, sequences of them, or these or ``None``; others take every value.
        value: of the option.
        option: what the message calls it.

    Raises:
        InputError: if the type does not take the value.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for kind in kinds if value is not None or type(None) not in kinds else ():
        if get_origin(kind) is Literal and value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise InputError(f"{option}: expected one of {choices}, found {value!r}; choose one")
        if get_origin(kind) in (Sequence, tuple) and words_of(item := get_args(kind)[0]):
            return type(value)(checked(item, each, option) for each in value)
        if (words := words_of(kind)) is not None:
            try:
                number = kind(value)
            except (TypeError, ValueError):
                raise InputError(f"{option}: expected {words}, found {value}") from None
            # the types themselves would not load from a checkpoint with weights_only=True
            return kind._type(number) if isinstance(value, kind) else value
    return value
