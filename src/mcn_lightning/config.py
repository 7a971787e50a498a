"""Configuration dataclasses from plain data: options that a notebook, or a checkpoint, holds as dictionaries."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mcn_lightning.errors import InputError

Config = TypeVar("Config")


def as_config(kind: type[Config], value: Config | Mapping[str, Any], option: str) -> Config:
    """Return a configuration dataclass; a mapping is read as its fields, at any depth.

    Args:
        kind: the dataclass.
        value: one of them, or a mapping of some of its fields.
        option: what messages call it, for instance ``--data.audio``.

    Raises:
        InputError: if it is neither, or has a key that is no field.
    """
    if isinstance(value, kind):
        return value
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise InputError(f"{option}: expected {kind.__name__} or a dict of its options, found {value!r:.60}")
    for name in value:
        if name not in names:
            near = get_close_matches(str(name), names, 1)
            advice = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise InputError(f"{option}.{name}: expected an option of {kind.__name__}, found no such one; {advice}")
    hints = get_type_hints(kind)
    given = {name: _field(hints[name], item, f"{option}.{name}") for name, item in value.items()}
    try:
        return kind(**given)
    except TypeError as error:  # a field without a default is missing, or a value cannot be compared
        raise InputError(f"{option}: expected the options of {kind.__name__}, found {dict(value)} ({error})") from None


def _field(hint: Any, value: Any, option: str) -> Any:
    """Return the value of a field, in which a mapping stands for a dataclass."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
    return as_config(nested, value, option) if nested is not None and isinstance(value, Mapping) else value
