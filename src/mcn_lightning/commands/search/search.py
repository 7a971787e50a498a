"""The command ``search``: clips of an index for a query, as a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.search.options import SearchConfig

if TYPE_CHECKING:
    import pandas as pd

    from mcn_lightning.search.index import Index

Form = Literal["table", "json", "csv"]
WIDTH = 60  # characters of a text in the table


def run_search(args: Sequence[str]) -> None:
    """Parse the options, search and print the answers.

    Args:
        args: arguments after the command's name.

    Raises:
        InputError: if the index, the query or an option is wrong.
    """
    parser = CommandParser(prog="lightning search", description="Find clips of an index.")
    parser.add_argument("index", metavar="INDEX", help="folder that lightning index made")
    parser.add_argument("text", metavar="SENTENCE", nargs="?", help="what is looked for")
    parser.add_argument("--audio", type=str, help="sound or video file that is looked for by its sound")
    parser.add_argument("--video", type=str, help="video or picture file that is looked for by its picture")
    parser.add_argument("--start", type=float, default=0.0, help="first second of the file that counts")
    parser.add_argument("--end", type=float, help="last second of the file that counts")
    parser.add_argument("--like", type=str, help="id of a clip of the index")
    parser.add_argument("--words", type=str, help="words of captions, by full text; mixed with the rest of the query")
    parser.add_class_arguments(SearchConfig)
    parser.add_argument("--format", type=Form, default="table", help="how the answers are printed")
    parser.add_argument("--media_root", type=str, help="folder of the videos, if they have moved")
    given = vars(parser.parse_args(args))
    from mcn_lightning.search.index import Index

    index = Index.open(given["index"], media_root=given["media_root"])
    names = ("text", "audio", "video", "start", "end", "like", "words")
    options = {each.name: given[each.name] for each in fields(SearchConfig)}
    frame = index.search(**{name: given[name] for name in names}, **options)
    _name_unknown(index, given["text"])
    print_answers(frame, given["format"])


def _name_unknown(index: Index, text: str | None) -> None:
    """Name the words of a sentence that the model does not know, and so leaves out."""
    if text is not None and (unknown := index.model.unknown_words(text)):
        print(f"note: words that the model does not know are left out: {', '.join(unknown)}", file=sys.stderr)


def print_answers(frame: pd.DataFrame, form: Form) -> None:
    """Print answers.

    Args:
        frame: what ``Index.search`` returned.
        form: a table for people, or JSON or CSV with all columns.
    """
    if form == "json":
        print(frame.to_json(orient="records", force_ascii=False, indent=1))
        return
    if form == "csv":
        print(frame.to_csv(index=False), end="")
        return
    if frame.empty:
        print("no clip found")
        return
    shown = [name for name in ("score", "video", "start", "end", "text", "id", "merged", "duplicates") if name in frame]
    shown += [
        name for name in frame.columns if name not in _KNOWN and name not in shown and not name.startswith("score_")
    ]
    cells = [shown, *([_cell(name, value) for name, value in zip(shown, row, strict=True)]
                      for row in frame[shown].itertuples(index=False, name=None))]  # fmt: skip
    widths = [max(len(row[column]) for row in cells) for column in range(len(shown))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


_KNOWN = {"split", "kind", "cluster", "topic", "media"}
"""Columns that the table leaves out. JSON and CSV have them."""


def _cell(name: str, value: object) -> str:
    """Return a value as text for the table."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    if value is None or value != value:  # NaN, which stands for an empty cell
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if name == "score" else f"{value:.1f}" if name in ("start", "end") else f"{value:g}"
    line = " ".join(str(value).split())
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
