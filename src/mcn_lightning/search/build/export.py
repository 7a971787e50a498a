"""The table of clips as Parquet, for other programs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing, writing
from mcn_lightning.search.clips import Clips


def check_export(path: str | None) -> None:
    """Refuse an export that cannot be written, before hours of work.

    Raises:
        InputError: if pyarrow is missing.
    """
    if path is not None and importlib.util.find_spec("pyarrow") is None:
        raise InputError("--export: expected the package pyarrow, found none; pip install pyarrow, or leave it out")


def write_export(path: Path, clips: Clips) -> None:
    """Write the table of clips as a Parquet file.

    Args:
        path: of the file.
        clips: the table.

    Raises:
        InputError: if it cannot be written.
    """
    import pandas as pd

    frame = pd.DataFrame(clips.take(range(clips.count)), columns=clips.columns)
    with writing(f"--export {path}"), replacing(path) as partial:
        frame.to_parquet(partial, index=False)
