"""The parsers of all commands: their errors are one line in plain words."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from argparse import Action
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser, Namespace
from omegaconf.errors import OmegaConfBaseException

from mcn_lightning.commands.configs import config_args
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import CLASS_FILE, lacking_methods
from mcn_lightning.options.ranges import rephrase_refusal

UNKNOWN = re.compile(
    r"^(?:unrecognized arguments: --([^\s=]+).*|Group '(\S+)' does not accept option '(\S+)'"
    r"|(?:Subcommand '\S+' does not accept option|Option) '(\S+)'(?: is not accepted)?)$"
)
KEY = re.compile(r'^Parser key "([^"]+)": (?:Problem with given class_path \S+ )?')
# jsonargparse lists the errors of all types, of which the first is shown
# where a number may be None, jsonargparse leaves its value out here
REFUSED = re.compile(r"Not of type \w+: (?=does not conform)")
UNION = re.compile(
    r"^(Parser key \S+ )?(?:- Expected a path but \S+ either not accessible or invalid - )?"
    r"Does not validate against any of the Union subtypes .*? Errors: - "
    r"(?:Problem with given class_path )?(.*?)(?: - .*)? Given value type: .*$"
)
"""The beginning of jsonargparse's messages: the option, and all types that the value might have had."""
INNER = re.compile(r"^(--[^\s:]+): '\S+': Parser key \"([^\"]+)\": ")
REQUIRED = re.compile(r"^the following arguments are required: (.*)$")
LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\](?:\. Got value: (.*))?$")
REMOVED_OPTIONS = {
    "--pack.format": "no such option; LitData is gone, shards are read from URLs as they are: leave it out",
}
"""Options of earlier versions, and what to do instead."""
TYPE_NAMES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Names of Python types in messages."""
_LINK_PREFIX = re.compile(r"Call to compute_fn of link '.*?' with args .*? failed: (?=--)")
"""Prefix of jsonargparse's message about a value from which others are computed."""
_ARGUMENT = re.compile(
    r"^(--\S+): '([\w.]+)': (?:Option '(\S+)' is not accepted|the following arguments are required: (.*))$"
)
_IMPORT = re.compile(r"^(--\S+): '(\S+)': (module '\S+' has no attribute '\S+'|No module named '\S+')$")
_ABSTRACT = re.compile(r"^(--\S+): Expected an instantiatable class, but (?:(\S+) )?is abstract$")
_OTHER = re.compile(r"^(--\S+): Import path does not correspond to a subclass of (\w+)$")
_NO_PATH = re.compile(r"^(--\S+): Expected a dot import path string: (\S+)$")
"""What jsonargparse says of a class: its arguments, that it is not there, lacks a method, or is of another kind."""
_NO_CONFIG = re.compile(r"^Parser key \"(\S+)\": Unable to load config ['\"](\S+?)['\"]")
MAX_SHOWN = 3  # options named in a message


class CommandParser(ArgumentParser):
    """A parser whose errors are one line that suggests similar options. Options cannot be abbreviated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._known_defaults = (0, Namespace())
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def get_defaults(self, skip_validation: bool = False, **kwargs: Any) -> Namespace:
        """Return the defaults of all options; parsing asks for them several times, and finding them is slow."""
        if skip_validation or self.default_config_files:
            return super().get_defaults(skip_validation, **kwargs)
        if self._known_defaults[0] != len(self._actions):  # options were added since
            self._known_defaults = (len(self._actions), super().get_defaults(skip_validation, **kwargs))
        return self._known_defaults[1].clone()

    def set_defaults(self, *args: Any, **kwargs: Any) -> None:
        """Set defaults of options."""
        self._known_defaults = (0, Namespace())
        super().set_defaults(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message as an error of the command.

        Raises:
            InputError: always, unless another parser uses this one to try a value.
        """
        # jsonargparse tries a value with such parsers, and expects its own error
        if not self.exit_on_error:
            super().error(message, ex)
        parser: ArgumentParser = getattr(ex, "subcommand_parser", self)
        message = _LINK_PREFIX.sub("", " ".join(message.split()))
        if found := _NO_CONFIG.match(message):
            kinds = get_args(getattr(_action(parser, f"{found[1]}.kind"), "_typehint", None))
            takes = f"--{found[1]}.kind takes {', '.join(kinds)}; or " if kinds else ""
            wanted = "a class of your own, as in my_file.MyClass, or a file of options"
            raise InputError(f"--{found[1]}: expected {wanted}, found {found[2]}; {takes}check the name") from ex
        raise InputError(shorten_message(message, _options(parser))) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments of a command; see jsonargparse.

        Raises:
            InputError: if an option is refused, or an interpolation such as ``${oc.env:HOME}`` fails.
        """
        try:
            return super().parse_args(*args, **kwargs)
        except OmegaConfBaseException as error:
            vars(self).pop("print_config", None)
            raise InputError(_interpolation(error, bool(self._subcommands_action))) from error
        except InputError:
            vars(self).pop("print_config", None)  # a later call must not print the config that this call asked for
            raise


def shorten_message(message: str, options: Iterable[str] = ()) -> str:
    """Shorten a parser's message: the option first, without the list of all types of the value.

    Args:
        message: of the parser, in one line.
        options: of the parser; for an unknown option similar ones are suggested.
    """
    if found := UNKNOWN.match(message):
        option = "--" + (found[1] or found[4] or f"{found[2]}.{found[3]}")
        if option in REMOVED_OPTIONS:
            return f"{option}: {REMOVED_OPTIONS[option]}"
        near = similar_options(option, [each for each in options if each.startswith("--")])
        return f"{option}: no such option" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if found := REQUIRED.match(message):  # the name of the subcommand may be a prefix of the option
        known = {*options}
        spellings = [(f"--{name}", f"--{name.partition('.')[2]}", name) for name in found[1].split(", ")]
        shown = [next((spelling for spelling in each if spelling in known), each[-1]) for each in spellings]
        return f"{', '.join(shown)}: expected a value, found none; give it"
    given = next(iter(re.findall(r"Given value: (\S+)$", message)), "")
    message = REFUSED.sub(lambda match: f"{match[0]}{given} ", message)
    message = UNION.sub(r"\1\2", message)
    message = LITERAL.sub(lambda match: f"expected one of {match[1]}, found {match[2] or given}", message)
    for kind, name in TYPE_NAMES.items():
        message = re.sub(rf"Expected a <class '{kind}'>(?:\. Got value: (?=\S))?", f"expected {name}, found ", message)
    message = rephrase_refusal(message)
    message = message + given if given and message.endswith(", found ") else message.removesuffix(", found ")
    message = KEY.sub(r"--\1: ", message, count=1)
    return _of_class(INNER.sub(r"\1.\2: ", message), given)


def _of_class(message: str, given: str) -> str:
    """Return what is wrong with a class of one's own, or with its arguments, in the words of the other options.

    Args:
        message: what ``shorten_message`` made of it.
        given: the value of the option, where the parser says it.
    """
    if found := _ARGUMENT.match(message):
        option, kind, unknown, missing = found.groups()
        if unknown:
            return f"{option}: {kind}: expected an argument of this class, found {unknown}, which it lacks"
        return f"{option}: {kind}: expected the argument {missing}, found none; give it"
    wanted = "expected a class of your own, as in my_file.MyClass"
    if found := _IMPORT.match(message):
        return f"{found[1]}: {wanted}, found {found[2]} ({found[3]}); {CLASS_FILE}"
    if found := _ABSTRACT.match(message):
        path = found[2] or given
        if kinds := _subclasses(path):
            return f"{found[1]}: expected a class that can be built, found the base class {path}; use {kinds}"
        if (kind := _loaded(path)) is None or path.startswith("mcn_lightning."):
            return f"{found[1]}: {wanted}, found the base class {path}; derive a class from it, see docs/extending"
        return f"{found[1]}: {lacking_methods(kind)}"
    if found := _OTHER.match(message):
        return f"{found[1]}: {wanted}, found {given}, which is no subclass of {found[2]}; derive the class from it"
    if found := _NO_PATH.match(message):
        return f"{found[1]}: {wanted}, found {found[2]}"
    return message


def _loaded(path: str) -> type | None:
    """Return the class of a path, which the parser has imported; ``None`` if it has not."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _subclasses(path: str) -> str:
    """Return the classes that derive from an abstract class and lie beside it, as part of a sentence."""
    module = path.rpartition(".")[0]
    beside: dict[str, object] = vars(sys.modules[module]) if module in sys.modules else {}
    kinds: list[type] = base.__subclasses__() if (base := _loaded(path)) else []
    ready = (kind.__name__ for kind in kinds if beside.get(kind.__name__) is kind and not inspect.isabstract(kind))
    return " or ".join(f"{module}.{name}" for name in ready)


def _options(parser: ArgumentParser) -> list[str]:
    """Return the options of a parser and of its subcommands."""
    inner = parser._subcommands_action.choices.values() if parser._subcommands_action else ()
    return [option for each in (parser, *inner) for option in each._option_string_actions]


def _action(parser: ArgumentParser, name: str) -> Action | None:
    """Return the action of an option, which may be one of a subcommand; ``None`` where there is none."""
    inner = parser._subcommands_action.choices.values() if parser._subcommands_action else ()
    return next((action for each in (parser, *inner) for action in each._actions if action.dest == name), None)


def similar_options(option: str, options: Sequence[str]) -> list[str]:
    """Return suggestions for an unknown option: options that it abbreviates, else options with similar names."""
    # jsonargparse adds these two to options of classes and lists
    known = [each for each in options if not each.endswith((".help", "+"))]
    # 0.8 is strict: a wrong suggestion costs more than none
    return [each for each in known if each.startswith(option)][:MAX_SHOWN] or difflib.get_close_matches(
        option, known, MAX_SHOWN, 0.8
    )


def parse_command(parser: ArgumentParser, args: Sequence[str], first: int = 0) -> Namespace:
    """Parse the arguments of a command. The message about a wrong option in a config file names this file.

    Args:
        parser: a parser with ``--config``.
        args: arguments of the command.
        first: number of arguments before the options (the name of a subcommand).

    Raises:
        InputError: if an option is refused.
    """
    try:
        return parser.parse_args([*args])
    except InputError as error:
        message = str(error)
    # the message does not name the file: add one file after another until the same message comes
    kept = list(args[:first])
    for files in config_args(args):
        kept += files
        try:
            parser.parse_args(kept)
        except InputError as error:
            if str(error).partition(";")[0] == message.partition(";")[0] and files[-1] not in message:
                raise InputError(f"{files[-1]}: {message}") from error
    raise InputError(message)


def _interpolation(error: OmegaConfBaseException, subcommand: bool) -> str:
    """Return a message about an interpolation that cannot be resolved.

    Args:
        error: raised by omegaconf.
        subcommand: whether the name of the option begins with a subcommand.
    """
    key = str(error.full_key or "")
    key = key.partition(".")[2] if subcommand else key
    text = str(error.msg or error).split("\n")[0]
    if variable := re.search(r"Environment variable '(.*)' not found", text):
        return (
            f"--{key}: expected the environment variable {variable[1]}, found none; set it, or give a default: "
            f"${{oc.env:{variable[1]},DEFAULT}}"
        )
    if option := re.search(r"Interpolation key '(.*)' not found", text):
        name = _absolute(option[1], key)
        hint = "" if name != option[1] else "; on the command line give its value, ${...} is for files of options"
        return f"--{key}: expected another option in ${{{name}}}, found none of this name{hint}"
    return f"--{key}: expected an interpolation that can be resolved, found: {text}"


def _absolute(name: str, key: str) -> str:
    """Return the full name of an option that is given relative to another, such as ``.root`` in ``data.captions``."""
    rest = name.lstrip(".")
    above = key.split(".")[: -(len(name) - len(rest)) or None] if name != rest else []
    return ".".join([*above, rest])
