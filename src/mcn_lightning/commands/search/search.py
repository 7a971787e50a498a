"""The command ``search``: clips of an index for a query, as a table, JSON or CSV."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mcn_lightning.commands.parsers import CommandParser
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.search.options import SearchConfig

if TYPE_CHECKING:
    import pandas as pd

    from mcn_lightning.search.index import Index

Form = Literal["table", "json", "csv"]
WIDTH = 60  # characters of a text in the table
QUERY = ("text", "audio", "video", "start", "end", "like", "words")
LABELS, MOMENTS = ("modality", "where"), ("text", "audio", "video", "start", "end", "like", "modality", "k", "format")
"""Options that have an effect beside ``--labels`` and ``--moments``."""


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
    parser.add_argument("--labels", type=str, help="text file, a label on each line: every clip gets the nearest one")
    parser.add_argument(
        "--moments",
        type=str,
        nargs="+",
        metavar=("VIDEO", "SENTENCE"),
        help="score of the query along a video",
    )
    parser.add_argument("--output", type=str, help=".parquet or .csv of --labels; .png, .svg or .pdf of --moments")
    parser.add_class_arguments(SearchConfig)
    parser.add_argument("--format", type=Form, default="table", help="how the answers are printed")
    parser.add_argument("--media_root", type=str, help="folder of the videos, if they have moved")
    given = vars(parser.parse_args(positionals_first(args)))
    check_together(given)
    from mcn_lightning.search.index import Index

    index = Index.open(given["index"], media_root=given["media_root"])
    options = {each.name: given[each.name] for each in fields(SearchConfig)}
    if given["labels"] is not None:
        from mcn_lightning.commands.search.labels import label_clips

        print(label_clips(index, given["labels"], given["output"], SearchConfig(**options)))
        return
    if given["moments"] is not None:
        video, *sentence = given["moments"]
        query = {name: given[name] for name in QUERY} | ({"text": sentence[0]} if sentence else {})
        _show_moments(index, video, query, given)
        return
    frame = index.search(**{name: given[name] for name in QUERY}, **options)
    _name_unknown(index, given["text"])
    print_answers(frame, given["format"])


def positionals_first(args: Sequence[str]) -> list[str]:
    """Move the folder and the sentence before the options: argparse takes no optional argument after an option.

    Args:
        args: arguments of the command. Every option has one value; ``--moments`` has all that follow.

    Raises:
        InputError: if the words of a sentence are several arguments.
    """
    first: list[str] = []
    rest: list[str] = []
    values = 0
    for arg in args:
        if arg.startswith("--"):
            rest.append(arg)
            values = len(args) if arg == "--moments" else int("=" not in arg)
        elif values:
            rest.append(arg)
            values -= 1
        else:
            first.append(arg)
    if len(first) > 2:
        raise InputError(f"expected INDEX and one sentence, found {' '.join(first[1:])}; put it in quotes")
    return first + rest


def check_together(given: Mapping[str, object]) -> None:
    """Refuse options that would have no effect beside ``--labels`` or ``--moments``.

    Args:
        given: options of the command.

    Raises:
        InputError: naming the first one.
    """
    mode = next((name for name in ("labels", "moments") if given[name] is not None), None)
    if mode is None:
        check_rules((given["output"] is not None, "--output: expected --labels or --moments with it, found neither"))
        return
    defaults = {"start": 0.0, "format": "table"} | {each.name: each.default for each in fields(SearchConfig)}
    used = {"labels": LABELS, "moments": MOMENTS}[mode]
    known = {*QUERY, "labels", "moments", "format", *(each.name for each in fields(SearchConfig))}
    # by the alphabet: a set has no order, and the message must not vary
    useless = sorted(name for name in known - {mode, *used} if given[name] != defaults.get(name))
    if useless:
        name = "sentence" if useless[0] == "text" else f"--{useless[0]}"
        raise InputError(f"--{mode}: expected no {name} with it; leave it out")
    moments = given["moments"]
    if isinstance(moments, list):
        check_rules(
            (len(moments) > 2, f'--moments: expected VIDEO "SENTENCE", found {len(moments)} words; quote the sentence'),
            (len(moments) == 2 and given["text"] is not None, "--moments: expected one sentence, found two"),
        )


def _show_moments(index: Index, video: str, query: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    from mcn_lightning.plots.figures import check_ending, save_figure
    from mcn_lightning.search.explore.moments import score_moments, sparkline
    from mcn_lightning.search.query import Query

    if given["output"] is not None:
        check_ending(Path(given["output"]))
    frame = score_moments(index, video, Query(**query), given["modality"])
    _name_unknown(index, query["text"])
    if given["output"] is not None:
        from mcn_lightning.plots.video import plot_moments

        save_figure(plot_moments(frame, query["text"] or ""), Path(given["output"]))
    if given["format"] != "table":
        print_answers(frame, given["format"])
        return
    print(f"{video}, {frame['start'].min():g} to {frame['end'].max():g} s, score {frame['score'].min():.3f} to "
          f"{frame['score'].max():.3f}\n{sparkline(frame)}")  # fmt: skip
    print_answers(frame.sort_values("score", ascending=False, kind="stable").head(given["k"]), "table")


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
        if "duplicates" in frame:
            frame = frame.assign(duplicates=frame["duplicates"].str.join(" "))
        print(frame.to_csv(index=False), end="")
        return
    if frame.empty:
        print("no clip found")
        return
    # of the table: JSON and CSV have all columns
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
    # captions come from elsewhere, and a terminal obeys control characters
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
