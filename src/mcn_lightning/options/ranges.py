"""Number types with a range, for options: the parser checks them, and messages describe them.

To mypy they are plain numbers. This file must not hold a class: the parser reads the ``TYPE_CHECKING`` block of a
file with classes.
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
    # own types: PositiveFloat and NonNegativeFloat of jsonargparse accept infinity
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


def describe_type(kind: object) -> str | None:
    """Describe the numbers of a restricted type, such as ``a whole number above 0``; ``None`` for other types.

    Args:
        kind: the type.
    """
    expression, number = getattr(kind, "_expression", None), getattr(kind, "_type", None)
    if expression is None:
        return None
    bounds = re.findall(r"v(>=|<=|>|<)(\S+)", expression)
    limits = [f"{_SIGNS[sign]} {bound}" for sign, bound in bounds if bound != "inf"]
    return f"{'a whole number' if number is int else 'a number'} {' and '.join(limits)}"


def rephrase_refusal(message: str) -> str:
    """Return the parser's message about a number with the text of ``describe_type``; others are returned unchanged.

    Args:
        message: one line from jsonargparse.
    """
    found = _REFUSED.search(message)
    # jsonargparse names the type in its message, but does not give it
    known = {kind.__name__: kind for kind in restricted.registered_types.values()}
    wanted = describe_type(known.get(found[1])) if found else None
    if found is None or wanted is None:
        return message
    value = (found[2] or found[3] or found[4]).strip("'")
    return f"{message[: found.start()]}expected {wanted}, found {value}"


def checked(hint: object, value: Any, option: str) -> Any:
    """Check a value against its annotated type, and return it as a plain Python number.

    Args:
        hint: a restricted number type, a ``Literal``, a sequence of them, or one of these or ``None``. Other types are
            not checked.
        value: of the option.
        option: its name in the message.

    Raises:
        InputError: if the value is outside the type's range or choices.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    # None is checked only where the type does not allow it
    for kind in kinds if value is not None or type(None) not in kinds else ():
        if get_origin(kind) is Literal and value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise InputError(f"{option}: expected one of {choices}, found {value!r}; choose one")
        # a sequence keeps its kind: a tuple from Python stays a tuple
        if get_origin(kind) in (Sequence, tuple) and describe_type(item := get_args(kind)[0]):
            return type(value)(checked(item, each, option) for each in value)
        if (wanted := describe_type(kind)) is not None:
            try:
                number = kind(value)
            except (TypeError, ValueError):
                raise InputError(f"{option}: expected {wanted}, found {value}") from None
            # a checkpoint with values of the restricted types would not load with weights_only=True
            return kind._type(number) if isinstance(value, kind) else value
    return value
