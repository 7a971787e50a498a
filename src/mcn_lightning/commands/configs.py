"""Files of options: found, and checked before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path

import yaml

from mcn_lightning.commands.recipes import find_recipe
from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_text

CONFIG = ("--config", "-c")
GROUPS = ("data", "model", "trainer")
WHAT = "options in YAML"
NAME = re.compile(r"[^\s:{}\[\]]+")
"""What a path or the name of a recipe may look like; anything else is YAML on the command line."""


def config_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the file in place of every recipe's name; every such file is checked.

    Args:
        words: the words after the command's name.

    Raises:
        InputError: if there is no such file or recipe, or the file holds no options.
    """
    found = list(words)
    for place, option, value in _values(words):
        path = Path(value)
        if option in CONFIG and NAME.fullmatch(value):
            path = find_recipe(value)
            found[place] = f"{option}={path}" if "=" in found[place] else str(path)
            check_config(path)
        elif "." not in option and path.suffix in (".yaml", ".yml") and path.is_file():  # of a group: --data mine.yaml
            check_config(path)
        elif "{" in value:
            _check_value(option, value)
    return found


def config_words_only(words: Sequence[str]) -> list[list[str]]:
    """Return the option and the file of every ``--config``, as two words, in their order."""
    return [[option, value] for _, option, value in _values(words) if option in CONFIG]


def _values(words: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return the options that have a value: where the value stands, the option, the value."""
    found = []
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if equals and option.startswith("--"):
            found.append((place, option, value))
        elif place and words[place - 1].startswith("-") and "=" not in words[place - 1] and not word.startswith("--"):
            found.append((place, words[place - 1], word))
    return found


def _check_value(option: str, value: str) -> None:
    """Refuse options in YAML on the command line of which one stands twice; other mistakes are the parser's to find."""
    try:
        root = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    if root is not None:
        _refuse_twice(option, root, "", set())


def check_config(path: Path) -> None:
    """Refuse a file that holds no options, or an option twice.

    Args:
        path: a YAML or JSON file.

    Raises:
        InputError: with the file, and the line where there is one.
    """
    text = read_text(path, WHAT)
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(_syntax(path, text, error)) from None
    if root is None:
        raise InputError(f"{path}: expected {WHAT}, found an empty file")
    if not isinstance(root, yaml.MappingNode):
        kind = "a list" if isinstance(root, yaml.SequenceNode) else "text without an option"
        raise InputError(f"{path}: expected {WHAT}, as in `data: {{root: DATA}}`, found {kind}")
    _refuse_twice(str(path), root, "", set())
    for key, value in root.value:
        if not isinstance(value, yaml.ScalarNode) or not isinstance(key, yaml.ScalarNode):
            continue
        inner = path.parent / value.value
        if inner.suffix in (".yaml", ".yml") and inner.is_file():
            check_config(inner)
        elif key.value in GROUPS:
            line = value.start_mark.line + 1
            raise InputError(f"{path}, line {line}: expected options in {key.value}, found {value.value or 'none'}")


def _syntax(path: Path, text: str, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    line = mark.line if mark is not None else 0
    lines = text.split("\n")
    shown = lines[line] if line < len(lines) else ""
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return f"{path}, line {line + 1}: expected spaces before an option, found a tab; replace it by spaces"
    problem = getattr(error, "problem", None) or str(error)
    return f"{path}, line {line + 1}: expected {WHAT}, found a mistake: {problem}"


def _refuse_twice(where: str, node: yaml.Node, prefix: str, seen: set[int]) -> None:
    """Refuse a key that stands twice in one mapping, at any depth."""
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _refuse_twice(where, item, f"{prefix}[{number}]", seen)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[Hashable, int] = {}
    for key, value in node.value:
        name = f"{prefix}.{key.value}" if prefix else str(key.value)
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            if key.value in first:
                earlier = f"after line {first[key.value]}" if first[key.value] < line else "in the same line"
                raise InputError(
                    f"{where}, line {line}: expected each option once, found {name} again {earlier}; keep one of them"
                )
            first[key.value] = line
        _refuse_twice(where, value, name, seen)
