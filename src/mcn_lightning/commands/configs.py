"""Config files on the command line: found by path or recipe name, and checked before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import yaml

from mcn_lightning.commands.recipes import find_recipe
from mcn_lightning.errors import InputError
from mcn_lightning.files import load_yaml, read_text
from mcn_lightning.runs.saved import flat_options

CONFIG = ("--config", "-c")
GROUPS = ("data", "model", "trainer")
EXPECTED = "options in YAML"
NAME = re.compile(r"[^\s:{}\[\]]+")
"""Pattern of a path or recipe name; any other value of --config is YAML on the command line."""


def resolve_configs(args: Sequence[str], own: str = "") -> list[str]:
    """Replace recipe names by the paths of their files, and check every config file.

    Args:
        args: arguments after the command's name.
        own: folder of recipes that a short name means first, such as ``extract``.

    Raises:
        InputError: if there is no such file or recipe, or the file holds no options.
    """
    found = list(args)
    for position, option, value in _values(args):
        path = Path(value)
        if option in CONFIG and NAME.fullmatch(value):
            path = find_recipe(value, own=own)
            found[position] = f"{option}={path}" if "=" in found[position] else str(path)
            check_config(path)
        elif "." not in option and path.suffix in (".yaml", ".yml") and path.is_file():  # a group's file: --data x.yaml
            check_config(path)
        elif "{" in value:
            _check_value(option, value)
    return found


def config_args(args: Sequence[str]) -> list[list[str]]:
    """Return each ``--config`` as a pair of option and file, in order."""
    return [[option, value] for _, option, value in _values(args) if option in CONFIG]


def _values(args: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return the index of the value, the option, and the value of each option that has a value."""
    found = []
    for position, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        before = args[position - 1] if position else ""
        if equals and option.startswith("--"):
            found.append((position, option, value))
        # a value that begins with a single dash may be a negative number
        elif before.startswith("-") and "=" not in before and not arg.startswith("--"):
            found.append((position, before, arg))
    return found


def check_kinds(args: Sequence[str]) -> None:
    """Refuse a ``kind`` that is given after a ``class_path``, as in a recipe: it would have no effect.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: naming the class.
    """
    classes: dict[str, object] = {}
    for _, option, value in _values(args):
        given: Mapping[str, object] = {option.removeprefix("--"): value}
        if option in CONFIG and Path(value).is_file():
            # it keeps values as text, as on the command line
            given = flat_options(load_yaml(read_text(Path(value), EXPECTED), "BaseLoader"))
        own = {name.removesuffix(".class_path"): path for name, path in given.items() if name.endswith(".class_path")}
        for group in (name.removesuffix(".kind") for name in given if name.endswith(".kind")):
            if group not in own and (path := classes.get(group)) not in (None, "", "null"):
                advice = f"first give --{group}.class_path null --{group}.init_args null"
                raise InputError(f"--{group}.kind: expected no class_path before it, found {path}; {advice}")
        classes |= own


def _check_value(option: str, value: str) -> None:
    """Refuse YAML on the command line with an option twice. The parser reports all other mistakes."""
    try:
        root = yaml.compose(value, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return
    if root is not None:
        _refuse_twice(option, root, "", set())


def check_config(path: Path) -> None:
    """Refuse a file without options, or with an option twice. YAML itself would silently keep the last one.

    Args:
        path: a YAML or JSON file.

    Raises:
        InputError: naming the file, and the line if there is one.
    """
    text = read_text(path, EXPECTED)
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(_syntax(path, text, error)) from None
    if not isinstance(root, yaml.MappingNode):
        found = {yaml.SequenceNode: "a list", type(None): "an empty file"}.get(type(root), "text without an option")
        raise InputError(f"{path}: expected {EXPECTED}, as in `data: {{root: DATA}}`, found {found}")
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
    # a mistake may be seen only at the end of the file
    shown = lines[line] if line < len(lines) else ""
    # YAML forbids tabs there, but its message does not name them
    if "\t" in shown[: len(shown) - len(shown.lstrip())]:
        return f"{path}, line {line + 1}: expected spaces before an option, found a tab; replace it by spaces"
    problem = getattr(error, "problem", None) or str(error)
    return f"{path}, line {line + 1}: expected {EXPECTED}, found a mistake: {problem}"


def _refuse_twice(where: str, node: yaml.Node, prefix: str, seen: set[int]) -> None:
    """Refuse a key that occurs twice in a mapping, at any depth."""
    if id(node) in seen:  # an alias of a node, which may even contain itself
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
                before = first[key.value]
                found = f"{name} again {f'after line {before}' if before < line else 'in the same line'}"
                raise InputError(f"{where}, line {line}: expected each option once, found {found}; keep one of them")
            first[key.value] = line
        _refuse_twice(where, value, name, seen)
