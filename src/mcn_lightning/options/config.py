"""Dataclasses of options: checked by their annotated types, read from mappings. Classes named by a path."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from argparse import ArgumentError
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from mcn_lightning.errors import InputError, check_rules, one_line
from mcn_lightning.options.ranges import checked, rephrase_refusal

Config = TypeVar("Config", bound="Options")
Built = TypeVar("Built")
CLASS_FILE = "its file must lie in the folder where the command runs, or on PYTHONPATH"
"""What to do about a class that is not found."""


@dataclasses.dataclass(frozen=True)  # the parser takes a dataclass of dataclasses alone as a group of options
class Options:
    """Base of dataclasses of options. Making one checks every value against its annotated type.

    Args:
        option: keyword of the class statement: name of the group in messages, for instance ``--model.loss``.
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
        check_fields(self, f"{self.option}.")


def check_fields(options: object, prefix: str) -> None:
    """Check every field of a dataclass against its annotated type, and make numbers plain Python numbers.

    Args:
        options: the dataclass, which may be frozen.
        prefix: of the fields' names in messages, for instance ``--model.loss.``.

    Raises:
        InputError: if a value is not of its type.
    """
    for name, hint in get_type_hints(type(options)).items():
        if get_origin(hint) is not ClassVar:
            value = getattr(options, name)
            if (found := checked(hint, value, prefix + name)) is not value:
                object.__setattr__(options, name, found)


def as_config(kind: type[Config], value: Config | Mapping[str, object], option: str) -> Config:
    """Return a dataclass of options. A mapping is read as its fields, at any depth.

    Args:
        kind: the dataclass.
        value: an instance of it, or a mapping of some of its fields.
        option: its name in messages, for instance ``--data.audio``.

    Raises:
        InputError: if the value is neither, or has a key that is no field.
    """
    if isinstance(value, kind):
        return value
    # keys are checked here, as a dataclass would refuse a wrong one without advice
    names = [field.name for field in dataclasses.fields(kind)]
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
    except TypeError as error:  # a field without a default is missing, or a value has the wrong type
        raise InputError(f"{option}: expected the options of {kind.__name__}, found {dict(value)} ({error})") from None


def _field(hint: object, value: object, option: str) -> object:
    """Return the value of a field. A mapping becomes the dataclass that the annotation names."""
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Options)), None)
    return as_config(nested, value, option) if nested is not None and isinstance(value, Mapping) else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassOptions(Options):
    """Options that can name a class of the user in place of a built-in one.

    Args:
        class_path: module and name of the class, as in ``my_loss.MyLoss``. The file ``my_loss.py`` may lie in the
            folder where the command runs.
        init_args: arguments of the class, by name.
    """

    class_path: str | None = None
    init_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        kind, default = getattr(self, "kind", None), getattr(type(self), "kind", None)
        check_rules(
            (
                self.class_path is not None and kind != default,  # both name a class, and neither may win silently
                f"{self.option}.kind: expected {default}, its default, beside class_path {self.class_path}, found "
                f"{kind}; leave one of them out",
            ),
            (
                self.class_path is None and self.init_args,
                f"{self.option}.init_args: expected class_path beside it, found none; give both or none",
            ),
        )

    def find(self, base: type[Built], builtin: type[Built] | None) -> type[Built] | None:
        """Return the class that ``class_path`` names, or the built-in one.

        Args:
            base: required base class.
            builtin: class to use without a path.

        Raises:
            InputError: if the class cannot be imported, or is no subclass.
        """
        return builtin if self.class_path is None else import_class(self.class_path, base, self.option)

    def make(self, kind: type[Built], **first: object) -> Built:
        """Return an object of a class that ``find`` returned.

        Args:
            kind: the class.
            **first: positional arguments in their order; ``init_args`` follow by name.

        Raises:
            InputError: if the class lacks a method, does not take these arguments, refuses their values, or does not
                call the constructor of its base class.
        """
        args = [*first.values()]
        if self.class_path is None:
            return kind(*args)
        if lacking := lacking_methods(kind):
            raise InputError(f"{self.option}: {lacking}")
        signature = inspect.signature(kind)
        try:
            # an argument of another name that has a default is one of the user's own: it must not get this value
            for parameter, name in zip(signature.parameters.values(), first, strict=False):
                if parameter.name != name and parameter.default is not parameter.empty:
                    raise TypeError(f"{parameter.name} would get the {name}")
            given = _arguments(kind, self.init_args or {}, len(args), f"{self.option}.init_args")
            signature.bind(*args, **given)
        except TypeError as error:
            wanted = f"{kind.__name__}.__init__(self, {', '.join(first)}, ...)"
            found = f"{kind.__name__}{signature} ({error})"
            raise InputError(f"{self.option}: expected {wanted}, found {found}; take these first") from None
        return self._build(kind, first, given)

    def _build(self, kind: type[Built], first: Mapping[str, object], given: Mapping[str, object]) -> Built:
        """Return an object of a class of the user, which must call the constructor of its base class."""
        whole = True
        try:
            made = build_own(kind, self.option, *first.values(), **given)
        except AttributeError as error:
            if "before Module.__init__() call" not in str(error):  # what torch says of a layer or weight set too early
                raise
            whole = False
        # torch sets _modules in the constructor of every module
        if not whole or (hasattr(kind, "register_module") and "_modules" not in vars(made)):
            raise InputError(f"{self.option}: {no_super(kind, ', '.join(first))}")
        return made


def import_class(path: str, base: type[Built], option: str) -> type[Built]:
    """Import a class by its path.

    Args:
        path: module and name, as in ``my_loss.MyLoss``.
        base: required base class.
        option: name of the group of options in messages.

    Raises:
        InputError: if it cannot be imported, or is no subclass of ``base``.
    """
    module, _, name = path.rpartition(".")
    wanted = f"{option}.class_path: expected a subclass of {base.__module__}.{base.__name__}"
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise InputError(f"{wanted}, as in my_file.MyClass, found {path} ({error}); {CLASS_FILE}") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{wanted}, found {path}, which is none; derive the class from it")
    return found


def build_own(kind: type[Built], option: str, *args: object, **given: object) -> Built:
    """Return an object of a class of the user.

    Args:
        kind: the class.
        option: that names the class, for messages.
        *args: of the class.
        **given: arguments of the class by name.

    Raises:
        InputError: if the class refuses its arguments by a ``ValueError``. Option and class come before its message.
    """
    try:
        return kind(*args, **given)
    except ValueError as error:
        if str(error).startswith("--") or kind.__module__.startswith("mcn_lightning."):
            raise  # a class of this package names the option itself
        message = one_line(error)
        raise InputError(f"{option}: {kind.__module__}.{kind.__qualname__}: {message}") from error


def lacking_methods(kind: type) -> str:
    """Return which methods a class lacks that its base class leaves to it, as part of a message; empty for none."""
    lacking = sorted(getattr(kind, "__abstractmethods__", ()))
    method, them = ("method", "it") if len(lacking) == 1 else ("methods", "them")
    text = f"expected {kind.__name__} to have the {method} {' and '.join(lacking)}, found none; write {them}"
    return text if lacking else ""


def no_super(kind: type, first: str) -> str:
    """Return that a class does not call the constructor of its base class, as part of a message.

    Args:
        kind: the class.
        first: arguments of the base class.
    """
    return f"expected {kind.__name__}.__init__ to call super().__init__({first}) first, found no such call; add it"


def _arguments(kind: type, given: Mapping[str, object], skip: int, option: str) -> dict[str, object]:
    """Return the keyword arguments of a class, checked against the annotations of its parameters."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={skip})
    # an argument that is a dataclass has an action for each of its fields
    names = list(dict.fromkeys(action.dest.partition(".")[0] for action in parser._actions if action.dest != "help"))
    for name in (each for each in given if each.partition(".")[0] not in names):
        near = get_close_matches(name, names, 1)
        takes, advice = ", ".join(names) or "it takes none", f"did you mean {near[0]}?" if near else "leave it out"
        wanted = f"an argument of {kind.__name__} ({takes})"
        raise InputError(f"{option}.{name}: expected {wanted}, found no such one; {advice}")
    try:
        # instantiate, as annotated classes and dataclasses arrive as plain dicts
        return dict(vars(parser.instantiate(parser.parse_object(dict(given)))))
    except (ArgumentError, TypeError, ValueError) as error:
        found = rephrase_refusal(one_line(error)).removeprefix("Parser key ")
        raise InputError(f"{option}: expected arguments of {kind.__name__}, found {found}") from None
