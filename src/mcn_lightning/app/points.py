"""The map: a point for each clip, by the first two principal components of its embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mcn_lightning.errors import InputError
from mcn_lightning.search.vectors import Vectors

SAMPLE = 20_000
"""Clips from which the components are computed."""


def read_points(path: Path, count: int) -> np.ndarray:
    """Read the coordinates of a map.

    Args:
        path: NumPy file.
        count: N, clips of the index.

    Returns:
        ``(N, 2)`` float32, within -1 and 1.

    Raises:
        InputError: if the file holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected the coordinates of a map, found {error}; delete the file") from None
    if found.shape != (count, 2) or found.dtype.kind != "f":
        what = f"{found.dtype} {found.shape}"
        raise InputError(f"{path}: expected numbers ({count}, 2), found {what}; make the map again, or delete the file")
    return fit_square(found.astype(np.float32))


def principal_points(vectors: Vectors, names: Sequence[str]) -> np.ndarray:
    """Return the first two principal components of the sum of some embeddings.

    The components come from 20,000 clips at equal distances. Their signs are fixed: the largest weight is positive.

    Args:
        vectors: the embeddings.
        names: those that are added.

    Returns:
        ``(N, 2)`` float32, within -1 and 1; NaN for clips without any of them.
    """
    count = len(vectors)
    rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
    sample = _unit(vectors.rows(names, rows))
    sample = sample[sample.any(dim=1)]
    if len(sample) < 2:
        return np.where(np.arange(count)[:, None] >= 0, np.float32(0), np.float32(0)).repeat(2, axis=1)
    middle = sample.mean(dim=0)
    centred = (sample - middle).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    axes = axes[:, -2:].flip(1)
    axes = (axes * torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))).float()
    found = np.full((count, 2), np.nan, dtype=np.float32)
    for first, chunk in vectors.chunks(names):
        there = chunk.any(dim=1)
        points = (_unit(chunk) - middle) @ axes
        points[~there] = float("nan")
        found[first : first + len(chunk), : axes.shape[1]] = points.numpy()
    return fit_square(found)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def fit_square(points: np.ndarray) -> np.ndarray:
    """Move and scale points ``(N, 2)`` into the square from -1 to 1, both axes alike."""
    there = np.isfinite(points).all(axis=1)
    if not there.any():
        return points
    low, high = points[there].min(axis=0), points[there].max(axis=0)
    return (points - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-12)
