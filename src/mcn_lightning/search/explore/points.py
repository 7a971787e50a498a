"""The map: a point for each clip, by UMAP, t-SNE or the first two principal components of its embedding."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mcn_lightning.errors import InputError, need_package
from mcn_lightning.files import replacing, writing
from mcn_lightning.search.manifest import gallery_names
from mcn_lightning.search.options import LETTERS
from mcn_lightning.search.vectors import Vectors

Method = Literal["umap", "tsne", "pca"]
PACKAGES = {"umap": ("umap", "umap-learn", "mcn-lightning[plots]"), "tsne": ("openTSNE", "openTSNE", "openTSNE")}
"""The module and the package of a method, and what pip installs it by."""
UMAP_CLIPS = 200_000
"""Clips up to which UMAP is the usual method: 60,000 clips take 25 s of one core."""
SAMPLE = 20_000
"""Clips from which the components are computed."""
COMPONENTS = 50
"""Principal components that UMAP and t-SNE arrange."""
NEIGHBOURS, PERPLEXITY = 15, 30  # of UMAP and t-SNE: the defaults of their packages
LEAST = 10
"""Clips that UMAP and t-SNE need."""


def map_file(folder: Path, letters: str) -> Path:
    """Return the file of a map in the folder of an index.

    Args:
        folder: of the index.
        letters: of the modalities, in any order.
    """
    return folder / f"map_{''.join(letter for letter in LETTERS if letter in letters)}.npy"


def check_method(method: Method) -> None:
    """Refuse a method whose package is missing.

    Raises:
        InputError: naming the package.
    """
    module, package, wanted = PACKAGES.get(method, ("", "", ""))
    if module:
        need_package(module, f"--method {method}", f"pip install '{wanted}', or take pca", package)


def usual_method(count: int) -> Method:
    """Return UMAP where it is installed and the clips are neither too few nor too many, else principal components.

    Args:
        count: clips of the map.
    """
    installed = importlib.util.find_spec(PACKAGES["umap"][0]) is not None
    return "umap" if installed and LEAST <= count <= UMAP_CLIPS else "pca"


def make_points(vectors: Vectors, names: Sequence[str], method: Method, seed: int = 0) -> np.ndarray:
    """Arrange clips on a plane, so that clips with similar embeddings lie near each other.

    UMAP (McInnes et al. 2018) and t-SNE (van der Maaten and Hinton 2008, by openTSNE) arrange the first 50 principal
    components. The same seed gives the same map.

    Args:
        vectors: the embeddings.
        names: those that are added.
        method: UMAP, t-SNE or principal components.
        seed: of UMAP and t-SNE.

    Returns:
        ``(N, 2)`` float32, within -1 and 1; NaN for clips without any of them.

    Raises:
        InputError: if the package of the method is missing, or there are fewer than 10 clips.
    """
    check_method(method)
    if method == "pca":
        return principal_points(vectors, names)
    rows = principal_components(vectors, names, COMPONENTS)
    there = np.isfinite(rows).all(axis=1)
    count = int(there.sum())
    if count < LEAST:
        raise InputError(f"--method {method}: expected at least {LEAST} clips, found {count}; take pca")
    found = np.full((len(rows), 2), np.nan, dtype=np.float32)
    found[there] = _arrange(rows[there], method, seed)
    return fit_square(found)


def _arrange(rows: np.ndarray, method: Method, seed: int) -> np.ndarray:
    count = len(rows)
    if method == "umap":
        from umap import UMAP

        # the spectral start needs more clips than components, and several threads would not give the same map
        start = "spectral" if count > COMPONENTS else "random"
        near = min(NEIGHBOURS, count - 1)
        return np.asarray(UMAP(n_neighbors=near, init=start, random_state=seed, n_jobs=1).fit_transform(rows))
    from openTSNE import TSNE

    return np.asarray(TSNE(perplexity=min(PERPLEXITY, (count - 1) / 3), random_state=seed).fit(rows))


def write_points(path: Path, points: np.ndarray) -> None:
    """Write the coordinates of a map, whole or not at all.

    Args:
        path: NumPy file.
        points: ``(N, 2)``.

    Raises:
        InputError: if the file cannot be written.
    """
    with writing(str(path), "use --store false"), replacing(path) as partial, partial.open("wb") as file:
        np.save(file, points.astype(np.float32), allow_pickle=False)


def points_of(folder: Path, vectors: Vectors, letters: str) -> tuple[np.ndarray, bool]:
    """Return the map that an index keeps, or principal components where it keeps none.

    Args:
        folder: of the index.
        vectors: the embeddings.
        letters: of the modalities.

    Returns:
        ``(N, 2)`` float32, within -1 and 1; NaN for clips without any of them. And whether the map that the index keeps
        was left aside, as clips were added since.

    Raises:
        InputError: if the index has no such embeddings, or the map cannot be read.
    """
    names = gallery_names(letters, vectors.names, "modality")
    path = map_file(folder, letters)
    kept = read_points(path, len(vectors)) if path.is_file() else None
    if kept is not None:
        return kept, False
    return principal_points(vectors, names), path.is_file()


def read_points(path: Path, count: int) -> np.ndarray | None:
    """Read the coordinates of a map.

    Args:
        path: NumPy file.
        count: N, clips of the index.

    Returns:
        ``(N, 2)`` float32, within -1 and 1; ``None`` if the map was made of fewer clips.

    Raises:
        InputError: if the file holds something else.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected the coordinates of a map, found {error}; delete the file") from None
    if found.ndim == 2 and found.shape[1] == 2 and found.dtype.kind == "f" and len(found) < count:
        return None
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
    return fit_square(principal_components(vectors, names, 2))


def principal_components(vectors: Vectors, names: Sequence[str], most: int) -> np.ndarray:
    """Return the first principal components, as ``principal_points`` does, in their own scale.

    Args:
        vectors: the embeddings.
        names: those that are added.
        most: C, components.

    Returns:
        ``(N, C)`` float32, 0 beyond the width of the embeddings; NaN for clips without any of them.
    """
    count = len(vectors)
    rows = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))
    sample = _unit(vectors.rows(names, rows))
    sample = sample[sample.any(dim=1)]
    if len(sample) < 2:
        return np.zeros((count, most), dtype=np.float32)
    middle = sample.mean(dim=0)
    # float64: near eigenvalues would else depend on the order of summation
    centred = (sample - middle).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    # eigh gives the smallest eigenvalues first
    axes = axes[:, -most:].flip(1)
    axes = (axes * torch.sign(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)))).float()
    found = np.zeros((count, most), dtype=np.float32)
    for first, chunk in vectors.chunks(names):
        # scaled after the product: a copy of all embeddings at length 1 costs more than the product
        lengths = chunk.norm(dim=1, keepdim=True)
        found[first : first + len(chunk), : axes.shape[1]] = (chunk @ axes / lengths - middle @ axes).numpy()
    return found


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def fit_square(points: np.ndarray) -> np.ndarray:
    """Move and scale points ``(N, 2)`` into the square from -1 to 1, both axes alike."""
    there = np.isfinite(points).all(axis=1)
    if not there.any():
        return points
    low, high = points[there].min(axis=0), points[there].max(axis=0)
    # 1e-12: all clips may lie at one point
    return (points - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-12)
