"""Write the pages of the options from the parsers of the commands, each time the site is built."""

from __future__ import annotations

import argparse
import dataclasses
import html
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any, get_args
from unittest.mock import patch

from jsonargparse import ArgumentParser
from jsonargparse import typing as restricted
from jsonargparse._typehints import type_to_str
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from mcn_lightning.commands.main import COMMANDS, main
from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.options.ranges import describe_type

FIRST = "fit"
"""The command with most options; the page of the commands names only what others have beside them."""
SHARING = ("validate", "test", "predict", "check", "prepare")
HIDDEN = ("--help", "--print_config")
ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")
"""Cross-references of Sphinx in the texts of Lightning."""
WRITTEN = "The parsers of the commands write this page when the site is built."


class _Parser(Exception):
    """Carries the parser of a command out of it, before it parses anything."""


def parser_of(command: str) -> Any:
    """Return the parser of a command, as the command builds it."""

    def stop(parser: Any, *args: Any, **kwargs: Any) -> None:
        raise _Parser(parser)

    with patch.object(CommandParser, "parse_args", stop), redirect_stderr(StringIO()):
        try:
            main([command])
        except _Parser as found:
            parser = found.args[0]
    inner = parser._subcommands_action
    return inner.choices[command] if inner else parser


def groups_of(parser: Any) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the titles of a parser's groups, each with its options."""
    for group in parser._action_groups:
        if actions := [each for each in group._group_actions if _is_option(each)]:
            yield group.title or "", actions


def _dataclasses(hint: Any) -> list[type]:
    """Return the dataclasses in a type, such as that of ``list[VisualStream] | None``."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return [hint]
    return [kind for each in get_args(hint) for kind in _dataclasses(each)]


def _groups_inside(actions: Sequence[argparse.Action]) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the options of the dataclasses that options take: ``--data.synthetic.videos``, or of an item of a list."""
    for action in actions:
        for kind in _dataclasses(getattr(action, "_typehint", None)):
            parser = ArgumentParser()
            parser.add_class_arguments(kind, name_of(action).lstrip("-"))
            yield from ((title, found) for title, found in groups_of(parser) if title != "options")


def name_of(action: argparse.Action) -> str:
    """Return the long name of an option; for an argument, the word in its place."""
    long = [name for name in action.option_strings if name.startswith("--")]
    return long[0] if long else str(action.metavar or action.dest)


def _is_option(action: argparse.Action) -> bool:
    """Tell whether a user gives a value here; groups that take a whole file are left out, as all do."""
    file_of_group = action.default == argparse.SUPPRESS and action.dest != "config"
    return action.help != argparse.SUPPRESS and not file_of_group and name_of(action) not in HIDDEN


def _type(text: str) -> str:
    """Return a type in the words of a user: ``a / b`` for choices, ``a number above 0`` for a range."""
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " / "), text)
    text = re.sub(r"Optional\[(.*)\]$", r"\1 or none", text)
    text = re.sub(r"Union\[([^\[\]]*)\]", lambda found: found[1].replace(", ", " or "), text)
    text = text.replace(" | ", " or ").replace("null", "none")
    ranges = {kind.__name__: describe_type(kind) for kind in restricted.registered_types.values()}
    return re.sub(r"\w+", lambda found: ranges.get(found[0]) or found[0], text)


def _row(action: argparse.Action) -> str:
    kind = getattr(action, "_typehint", None) or action.type
    required = getattr(action, "required", False) or not action.option_strings
    default = "none" if action.default is None else str(getattr(action.default, "class_path", action.default))
    meaning = ROLE.sub(r"`\1`", " ".join((action.help or "").split())).replace("``", "`")
    cells = ("" if kind is None else _type(type_to_str(kind)), "required" if required else default, meaning)
    escaped = (html.escape(each, quote=False).replace("|", "\\|").replace("*", "\\*") for each in cells)
    return f"| `{name_of(action)}` | " + " | ".join(escaped) + " |"


def _table(actions: Sequence[argparse.Action]) -> str:
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *map(_row, actions)])


def _heading(title: str, actions: Sequence[argparse.Action]) -> str:
    """Return the name that all options of a group begin with, and its title below."""
    first, last = (name_of(actions[place])[2:].split(".")[:-1] for place in (0, -1))
    title = title[:1].upper() + title[1:]
    if not first or first[: len(last)] != last:
        return title
    return ".".join(min(first, last, key=len)) + f"\n\n{title}."


def options_page() -> str:
    """Return the page of all options of ``fit``."""
    parts = [f"# Options of `lightning {FIRST}`", f"{WRITTEN} `lightning {FIRST} --help` prints the same."]
    for title, actions in groups_of(parser_of(FIRST)):
        parts += [f"## {_heading(title, actions)}", _table(actions)]
        for inner, found in _groups_inside(actions):
            parts += [f"### {_heading(inner, found)}", _table(found)]
    return "\n\n".join(parts) + "\n"


def commands_page() -> str:
    """Return the page of all commands, with the options that each has of its own."""
    shared = {name_of(each) for _, actions in groups_of(parser_of(FIRST)) for each in actions}
    parts = ["# Commands", WRITTEN]
    for name, command in COMMANDS.items():
        parts += [f"## lightning {name}", f"{command.summary[:1].upper()}{command.summary[1:]}."]
        if name == FIRST:
            parts.append("Its options have [a page of their own](options.md).")
            continue
        actions = [each for _, found in groups_of(parser_of(name)) for each in found]
        if name in SHARING:
            lacking = shared - {name_of(each) for each in actions}
            actions = [each for each in actions if name_of(each) not in shared]
            without = f" without {', '.join(f'`{each}`' for each in sorted(lacking))}" if lacking else ""
            parts.append(f"It takes the [options of `fit`](options.md){without}{', and:' if actions else '.'}")
        if actions:
            parts.append(_table(actions))
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for path, content in {"reference/options.md": options_page(), "reference/commands.md": commands_page()}.items():
        files.append(File.generated(config, path, content=content))
    return files
