"""The map and its clips for embedding-atlas, which draws them with WebGPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.app.options import AppConfig
from mcn_lightning.search.build.export import check_export, write_export
from mcn_lightning.search.explore.groups import read_groups
from mcn_lightning.search.explore.points import points_of
from mcn_lightning.search.index import Index


def export_map(config: AppConfig) -> str:
    """Write a Parquet file of all clips, with their places on the map and the names of their clusters.

    Args:
        config: the index, and the file.

    Returns:
        A line with the command that shows the file.

    Raises:
        InputError: if pyarrow is missing, the index cannot be opened, or the file cannot be written.
    """
    check_export(config.export)
    path = Path(config.export or "")
    index = Index.open(config.index)
    points, _ = points_of(index.folder, index.vectors, index.default_gallery)
    groups = read_groups(index.clips, "cluster")
    names = [None if code < 0 else f"{code} {groups.labels[code]}".strip() for code in groups.codes.tolist()]
    more: dict[str, Sequence[Any] | np.ndarray] = {"map_x": points[:, 0], "map_y": points[:, 1], "cluster_name": names}
    write_export(path, index.clips, index.manifest.own, more)
    return f"{path} ({len(index):,} clips); embedding-atlas {path} --x map_x --y map_y --text text"
