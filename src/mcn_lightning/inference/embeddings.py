"""The embeddings that ``predict`` wrote, and the ranking of clips by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, reading


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that ``lightning predict`` wrote.

    Args:
        clips: ``id``, ``video``, ``start`` and ``end`` in seconds, ``text`` and ``cluster`` of each of the N clips.
        tensors: ``video``, ``audio`` and ``text`` ``(N, D)``, ``cluster`` ``(N,)``, ``centroids`` ``(K, D)``, where the
            model has them. Row i belongs to clip i.
    """

    clips: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def read_embeddings(path: str | Path) -> Embeddings:
    """Read the two files that ``lightning predict`` wrote.

    Args:
        path: the file of the tensors, .safetensors or .npz, with the .json file beside it.

    Raises:
        InputError: if a file is missing or damaged, or the two do not belong together.
    """
    path = Path(path)
    content = read_json(path.with_suffix(".json"), "what lightning predict wrote")
    clips = content.get("clips") if isinstance(content, Mapping) else None
    with reading(path, "tensors that lightning predict wrote", ValueError, SafetensorError, advice="predict again"):
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            tensors = load_file(path)
    # centroids have a row for each cluster, so they are not counted
    rows = {len(tensors[name]) for name in ("video", "audio", "text", "cluster") if name in tensors}
    if clips is None or rows - {len(clips)}:
        found = "no clips" if clips is None else f"{len(clips)} clips there and {max(rows)} rows here"
        raise InputError(f"{path}: expected a row for each clip of its .json file, found {found}; predict again")
    return Embeddings(clips, tensors)


class Ranked(NamedTuple):
    """The best items of each query, best first.

    Args:
        scores: ``(Q, top)`` float32.
        rows: rows of the gallery, ``(Q, top)`` int64.
    """

    scores: Tensor
    rows: Tensor


def rank(queries: Tensor, gallery: Tensor, top: int = 10) -> Ranked:
    """Find the gallery items with the highest dot products, which is how the evaluation scores them.

    Args:
        queries: ``(Q, D)``.
        gallery: ``(N, D)``; for several modalities the sum of their embeddings.
        top: items to return for each query; N if that is less.

    Raises:
        ValueError: if the widths differ.
        InputError: if ``top`` is below 1.
    """
    if top < 1:
        raise InputError(f"top: expected at least 1 item for each query, found {top}")
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        found = f"{tuple(queries.shape)} and {tuple(gallery.shape)}"
        raise ValueError(f"expected queries (Q, D) and gallery (N, D), found {found}")
    scores = queries.float() @ gallery.to(queries.device).float().T
    return Ranked(*scores.topk(min(top, len(gallery)), dim=1))
