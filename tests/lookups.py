"""Options are found once in each parser: jsonargparse goes through all of them for every value, which takes long."""

from __future__ import annotations

import sys
from argparse import Action
from typing import Any

import jsonargparse._subcommands

search = jsonargparse._subcommands.find_action_and_subcommand


def find_action_and_subcommand(parser: Any, dest: str, exclude: Any = None) -> tuple[Action | None, str | None]:
    """Return what jsonargparse's function returns; a parser of subcommands, which is short, is searched again."""
    if getattr(parser, "_subcommands_action", None):
        return search(parser, dest, exclude)
    known = vars(parser).setdefault("_found", {})
    key = (len(parser._actions), dest, exclude)
    if key not in known:
        known[key] = search(parser, dest, exclude)
    return known[key]


for name, module in list(sys.modules.items()):
    if name.startswith("jsonargparse.") and vars(module).get(search.__name__) is search:
        setattr(module, search.__name__, find_action_and_subcommand)
