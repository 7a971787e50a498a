"""What the parsers of all commands have in common."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, get_args

from jsonargparse import ArgumentParser
from omegaconf.errors import OmegaConfBaseException

from mcn_lightning.commands.configs import config_words_only
from mcn_lightning.errors import InputError
from mcn_lightning.ranges import in_words

UNKNOWN = re.compile(
    r"^(?:unrecognized arguments: --([^\s=]+).*|Group '(\S+)' does not accept option '(\S+)'"
    r"|(?:Subcommand '\S+' does not accept option|Option) '(\S+)'(?: is not accepted)?)$"
)
KEY = re.compile(r'^Parser key "([^"]+)": (?:Problem with given class_path \S+ )?')
UNION = re.compile(
    r"^(Parser key \S+ )?(?:- Expected a path but \S+ either not accessible or invalid - )?"
    r"Does not validate against any of the Union subtypes .*? Errors: - "
    r"(?:Problem with given class_path )?(.*?)(?: - .*)? Given value type: .*$"
)
"""How jsonargparse begins: with the option, and with all types that a value might have had."""
INNER = re.compile(r"^(--[^\s:]+): '\S+': Parser key \"([^\"]+)\": ")
REQUIRED = re.compile(r"^the following arguments are required: (.*)$")
LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)$")
GONE = {
    "--pack.format": "no such option; LitData is gone, shards are read from URLs as they are: leave it out",
}
"""Options of earlier versions, and what to do without them."""
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
"""Types of Python in the words of a user."""
_OF_LINK = re.compile(r"Call to compute_fn of link '.*?' with args .*? failed: (?=--)")
"""What jsonargparse says before the refusal of a value from which others are computed."""
_ARGUMENT = re.compile(
    r"^(--\S+): '([\w.]+)': (?:Option '(\S+)' is not accepted|the following arguments are required: (.*))$"
)
_IMPORT = re.compile(r"^(--\S+): '(\S+)': (module '\S+' has no attribute '\S+'|No module named '\S+')$")
_ABSTRACT = re.compile(r"^(--\S+): Expected an instantiatable class, but (?:(\S+) )?is abstract$")
_OTHER = re.compile(r"^(--\S+): Import path does not correspond to a subclass of (\w+)$")
_NO_PATH = re.compile(r"^(--\S+): Expected a dot import path string: (\S+)$")
"""What jsonargparse says of a class: its arguments, that it is not there, lacks a method, or is of another kind."""
_NO_CONFIG = re.compile(r"^Parser key \"(\S+)\": Unable to load config ['\"](\S+?)['\"]")
SHOWN = 3  # options in a message


class OneLineErrors:
    """Of a parser whose errors are one line that names what was meant, and that takes no abbreviations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the command with the message.

        Raises:
            InputError: always, unless the parser is a part of another one that tries it.
        """
        if not self.exit_on_error:  # type: ignore[attr-defined]
            super().error(message, ex)  # type: ignore[misc]
        parser: Any = getattr(ex, "subcommand_parser", self)
        message = _OF_LINK.sub("", " ".join(message.split()))
        if found := _NO_CONFIG.match(message):
            kinds = get_args(getattr(_action(parser, f"{found[1]}.kind"), "_typehint", None))
            takes = f"--{found[1]}.kind takes {', '.join(kinds)}; " if kinds else ""
            raise InputError(
                f"--{found[1]}: expected a class of your own, as in my_file.MyClass, or a file of options, found "
                f"{found[2]}; {takes}{'or ' if takes else ''}check the name"
            ) from ex
        raise InputError(brief(message, _options(parser))) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the words of a command; see jsonargparse.

        Raises:
            InputError: if an option is refused, or an interpolation such as ``${oc.env:HOME}`` fails.
        """
        try:
            return super().parse_args(*args, **kwargs)  # type: ignore[misc]
        except OmegaConfBaseException as error:
            vars(self).pop("print_config", None)
            raise InputError(_interpolation(error, bool(self._subcommands_action))) from error  # type: ignore[attr-defined]
        except InputError:
            vars(self).pop("print_config", None)  # which was asked for, and must not be done by the next call
            raise


class CommandParser(OneLineErrors, ArgumentParser):
    """The parser of the commands without a trainer."""


def brief(message: str, options: Iterable[str] = ()) -> str:
    """Return what a parser says, with the option first and without all the types that a value might have had.

    Args:
        message: the parser's, in one line.
        options: all that it knows; those that an unknown one may stand for are named.
    """
    if found := UNKNOWN.match(message):
        option = "--" + (found[1] or found[4] or f"{found[2]}.{found[3]}")
        if option in GONE:
            return f"{option}: {GONE[option]}"
        near = similar(option, [each for each in options if each.startswith("--")])
        return f"{option}: no such option" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if found := REQUIRED.match(message):  # a subcommand's name may stand before the option's
        known = {*options}
        words = [(f"--{name}", f"--{name.partition('.')[2]}", name) for name in found[1].split(", ")]
        shown = [next((word for word in each if word in known), each[-1]) for each in words]
        return f"{', '.join(shown)}: expected a value, found none; give it"
    given = next(iter(re.findall(r"Given value: (\S+)$", message)), "")
    message = UNION.sub(r"\1\2", LITERAL.sub(r"expected one of \1, found \2", message))
    for kind, name in KINDS.items():
        message = re.sub(rf"Expected a <class '{kind}'>(?:\. Got value: (?=\S))?", f"expected {name}, found ", message)
    message = KEY.sub(r"--\1: ", in_words(message).removesuffix(", found "), count=1)
    return _of_class(INNER.sub(r"\1.\2: ", message), given)


def _of_class(message: str, given: str) -> str:
    """Return what is wrong with a class of one's own, or with its arguments, in the words of the other options.

    Args:
        message: what ``brief`` made of it.
        given: the value of the option, where the parser says it.
    """
    if found := _ARGUMENT.match(message):
        option, kind, unknown, missing = found.groups()
        if unknown:
            return f"{option}: {kind}: expected an argument of this class, found {unknown}, which it lacks"
        return f"{option}: {kind}: expected the argument {missing}, found none; give it"
    wanted = "expected a class of your own, as in my_file.MyClass"
    if found := _IMPORT.match(message):
        return f"{found[1]}: {wanted}, found {found[2]} ({found[3]})"
    if found := _ABSTRACT.match(message):
        return f"{found[1]}: {wanted}, found {found[2] or given}, which lacks a method; see docs/extending"
    if found := _OTHER.match(message):
        return f"{found[1]}: {wanted}, found {given}, which is no subclass of {found[2]}"
    if found := _NO_PATH.match(message):
        return f"{found[1]}: {wanted}, found {found[2]}"
    return message


def _options(parser: Any) -> list[str]:
    """Return the options of a parser, those of its subcommands with them."""
    inner = parser._subcommands_action.choices.values() if parser._subcommands_action else ()
    return [option for each in (parser, *inner) for option in each._option_string_actions]


def _action(parser: Any, name: str) -> Any:
    """Return the action of an option, which may be one of a subcommand; ``None`` where there is none."""
    inner = parser._subcommands_action.choices.values() if parser._subcommands_action else ()
    return next((action for each in (parser, *inner) for action in each._actions if action.dest == name), None)


def similar(option: str, options: Sequence[str]) -> list[str]:
    """Return the options that an unknown one may stand for: those that it abbreviates, else those with close names."""
    known = [each for each in options if not each.endswith((".help", "+"))]
    return [each for each in known if each.startswith(option)][:SHOWN] or difflib.get_close_matches(
        option, known, SHOWN, 0.8
    )


def parse_words(parser: Any, words: Sequence[str], first: int = 0) -> Any:
    """Parse the words of a command; what is wrong with one of several files of options names this file.

    Args:
        parser: a parser with ``--config``.
        words: the words.
        first: how many of them come before the options (the name of a subcommand).

    Raises:
        InputError: if an option is refused.
    """
    try:
        return parser.parse_args([*words])
    except InputError as error:
        message = str(error)
    kept = list(words[:first])
    for files in config_words_only(words):
        kept += files
        try:
            parser.parse_args(kept)
        except InputError as error:
            if str(error).partition(";")[0] == message.partition(";")[0] and files[-1] not in message:
                raise InputError(f"{files[-1]}: {message}") from error
    raise InputError(message)


def _interpolation(error: OmegaConfBaseException, subcommand: bool) -> str:
    """Say which option cannot be resolved, and why; its name begins with the subcommand where there is one."""
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
    """Return the whole name of an option that is given relative to another one, as ``.root`` in ``data.captions``."""
    rest = name.lstrip(".")
    above = key.split(".")[: -(len(name) - len(rest)) or None] if name != rest else []
    return ".".join([*above, rest])
