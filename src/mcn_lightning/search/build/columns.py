"""Columns of the table of clips that come from the user's files and from ``lightning extract``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, read_text, reading
from mcn_lightning.search.clips import check_column

MEDIA = "media"
RECORD = "_record.json"
"""End of the names of the records that ``lightning extract`` writes."""


def read_columns(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Read the user's columns.

    Args:
        path: CSV file with the column ``video``. A column ``media`` gives the path of the video's file.

    Returns:
        SQL types by column, and the values of each video.

    Raises:
        InputError: if the file cannot be read, has no column ``video``, or names a video twice.
    """
    reader = csv.reader(io.StringIO(read_text(path, "a table with the column video"), newline=""))
    with reading(path, "a table with the column video", csv.Error):
        rows = [row for row in reader if row]
    header = [name.strip() for name in rows[0]] if rows else []
    if "video" not in header or len({name.lower() for name in header}) < len(header):
        raise InputError(f"{path}: expected a table with the column video and each column once, found {header}")
    names = [name for name in header if name != "video"]
    for name in names:
        if name != MEDIA:
            check_column(name, str(path))
    values: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(header):
            raise InputError(f"{path}, row {number}: expected {len(header)} cells, found {len(row)}")
        cells = dict(zip(header, row, strict=True))
        video = cells.pop("video")
        if video in values:
            raise InputError(f"{path}, row {number}: expected each video once, found {video} again")
        values[video] = cells
    kinds = {name: _kind([cells[name] for cells in values.values()]) for name in names if name != MEDIA}
    convert = {"INTEGER": int, "REAL": float, "TEXT": str}
    for own in values.values():
        if own.get(MEDIA) == "":
            del own[MEDIA]  # then it is that of the record, if there is one
        for name, kind in kinds.items():
            own[name] = convert[kind](own[name]) if own[name] != "" else None
    return kinds, values


def _kind(cells: list[str]) -> str:
    """Return the SQL type of a column's cells; empty ones have none."""
    for kind, convert in (("INTEGER", int), ("REAL", float)):
        try:
            for cell in cells:
                if cell != "":
                    convert(cell)
        except ValueError:
            continue
        return kind
    return "TEXT"


def find_records(features: Path) -> dict[str, Path]:
    """Return the record of each video that ``lightning extract`` read, by the video's id.

    Args:
        features: folder of the features.
    """
    return {path.name.removesuffix(RECORD): path for path in sorted(features.rglob(f"*{RECORD}"))}


def media_of(records: Mapping[str, Path], video: str) -> str | None:
    """Return the path of a video's file; ``None`` without a record.

    Raises:
        InputError: if the record cannot be read.
    """
    path = records.get(video)
    found = None if path is None else read_json(path, "the record of a video").get("file")
    return str(found) if found else None
