"""Dataclasses of options: checked by their annotated types, and read from plain data."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from mcn_lightning.errors import InputError
from mcn_lightning.ranges import checked

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)  # the parser takes a dataclass of dataclasses alone as a group of options
class Options:
    """Base of dataclasses of options: values that their annotated types do not take are refused when one is made.

    Args:
        option: keyword of the class statement: what messages call the group, for instance ``--model.loss``.
    """

    option: ClassVar[str] = ""

    def __init_subclass__(cls, option: str | None = None) -> None:
        super().__init_subclass__()
        if option is not None:
            cls.option = option

    def __post_init__(self) -> None:
        """Check every field; a subclass with rules between fields calls this first.

        Raises:
            InputError: if a value is not of its type.
        """
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is ClassVar:
                continue
            value = getattr(self, name)
            found = checked(hint, value, f"{self.option}.{name}")
            if found is not value:
                object.__setattr__(self, name, found)


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
