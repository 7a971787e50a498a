"""Recall of the clips of each cluster by their own captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mcn_lightning.errors import InputError
from mcn_lightning.metrics import expected_ranks
from mcn_lightning.search.clips import Row
from mcn_lightning.search.explore.groups import read_groups
from mcn_lightning.search.manifest import gallery_names
from mcn_lightning.search.options import modalities_of

if TYPE_CHECKING:
    import pandas as pd

    from mcn_lightning.search.index import Index

SAMPLE = 50_000
"""Captions that are ranked, at most."""


def cluster_recall(index: Index, modality: str | None = None, ks: Sequence[int] = (1, 5, 10)) -> pd.DataFrame:
    """Return text-to-clip recall for the clips of each cluster.

    Each caption is ranked among all clips, and counts for the cluster of its clip. Captions of the same seconds of a
    video share a clip. Windows are ranked where the index has no captions. Items that tie count with their expected
    rank. Above 50,000 captions, a sample at equal distances stands for all: its clips are also the gallery.

    Args:
        index: of the clips.
        modality: letters of the gallery; by default those that a search compares.
        ks: cut-offs.

    Returns:
        A row for each cluster, the largest first: ``cluster``, ``name``, ``clips``, ``R@k`` in per cent. The last row
        is for all, with an empty cluster. ``attrs["gallery"]`` is the number of clips that were ranked.

    Raises:
        InputError: if there are no captions, no clusters, or no embeddings of the modality.
    """
    import pandas as pd

    letters = modality or index.default_gallery
    names = gallery_names(letters, index.manifest.embeddings, "--modality")
    asking = gallery_names("t", index.manifest.embeddings, "recall")
    if "t" in letters:
        raise InputError(f"recall: expected a gallery of v or a, found {letters}, where each caption finds itself")
    groups = read_groups(index.clips, "cluster")
    clips = _captions(index, letters)
    if not clips or not groups.labels:
        lacking = "captions of clips that have " + letters if not clips else "clusters"
        raise InputError(f"recall: expected {lacking}, found none in this index; leave this plot out")
    first: dict[tuple[object, ...], int] = {}
    targets = [first.setdefault(_item(clip), len(first)) for clip in clips]
    rows = np.array([clip["row"] for clip in clips])
    # one row for each clip: captions of the same seconds have the same video and sound
    items = rows[np.unique(targets, return_index=True)[1]]
    ranks = expected_ranks(
        index.vectors.rows(asking, rows), index.vectors.rows(names, items), torch.tensor(targets)
    ).numpy()
    codes = groups.codes[rows]
    sizes = sorted(zip(*np.unique(codes[codes >= 0], return_counts=True), strict=True), key=lambda each: -each[1])
    found = [_row(int(code), groups.labels[int(code)], ranks[codes == code], ks) for code, _ in sizes]
    frame = pd.DataFrame([*found, _row(None, "all", ranks, ks)]).astype({"cluster": "Int64"})
    frame.attrs["gallery"] = len(items)
    return frame


def _captions(index: Index, letters: str) -> list[Row]:
    captions = index.clips.with_text(modalities_of(letters, "--modality"))
    if len(captions) > SAMPLE:
        captions = captions[np.linspace(0, len(captions) - 1, SAMPLE).astype(np.int64)]
    return index.clips.take(captions.tolist())


def _item(clip: Row) -> tuple[object, ...]:
    """Return what captions of one clip share; a clip without times is its own."""
    return (clip["id"],) if clip["start"] is None else (clip["video"], clip["start"], clip["end"])


def _row(cluster: int | None, name: str, ranks: np.ndarray, ks: Sequence[int]) -> dict[str, object]:
    recall = {f"R@{k}": 100 * float((ranks <= k).mean()) for k in ks}
    return {"cluster": cluster, "name": name, "clips": len(ranks), **recall}
