"""The table of clips as Parquet, for other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.errors import need_package
from mcn_lightning.files import replacing, writing
from mcn_lightning.search.clips import COLUMNS, Clips

ROWS = 50_000  # that are in memory at once


def check_export(path: str | None) -> None:
    """Refuse an export that cannot be written, before hours of work.

    Raises:
        InputError: if pyarrow is missing.
    """
    if path is not None:
        need_package("pyarrow", "--export", "pip install pyarrow, or leave it out")


def write_export(
    path: Path, clips: Clips, own: Mapping[str, str], more: Mapping[str, Sequence[Any] | np.ndarray] | None = None
) -> None:
    """Write the table of clips as a Parquet file.

    Args:
        path: of the file.
        clips: the table.
        own: names and SQL types of the user's columns.
        more: further columns, with a value for each clip. They replace columns of the user with the same name.

    Raises:
        InputError: if it cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    added = {name: pa.array(values, from_pandas=True) for name, values in (more or {}).items()}  # NaN becomes null
    table = {name: kinds[kind.split()[0]] for name, kind in {**COLUMNS, **own}.items() if name not in added}
    schema = pa.schema({**table, **{name: values.type for name, values in added.items()}})
    with writing(f"--export {path}"), replacing(path) as partial, parquet.ParquetWriter(partial, schema) as file:
        for first in range(0, clips.count, ROWS):
            rows = clips.take(range(first, min(first + ROWS, clips.count)))
            columns = {name: [row[name] for row in rows] for name in table}
            columns |= {name: values.slice(first, ROWS) for name, values in added.items()}
            file.write_table(pa.table(columns, schema))
