"""The map of all clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.plots.figures import COLOURS, GREY, new_figure, shorten
from mcn_lightning.search.explore.groups import Groups, read_groups
from mcn_lightning.search.explore.points import Method, make_points, usual_method
from mcn_lightning.search.index import Index
from mcn_lightning.search.manifest import gallery_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = 46  # letters of a name


def map_method(index: Index, modality: str | None = None) -> Method:
    """Return how the map of an index is made by default: by UMAP, or by principal components.

    Args:
        index: of the clips.
        modality: letters of the modalities; by default those that a search compares.
    """
    return usual_method(len(index.ranking.rows_with(modality or index.default_gallery)))


def map_points(index: Index, modality: str | None = None, method: Method | None = None, seed: int = 0) -> np.ndarray:
    """Return the coordinates of a map of all clips.

    Args:
        index: of the clips.
        modality: letters of the modalities whose embeddings are added; by default those that a search compares.
        method: UMAP, t-SNE or principal components; by default that of ``map_method``.
        seed: of UMAP and t-SNE.

    Returns:
        ``(N, 2)`` float32, within -1 and 1; NaN for clips without the modality.

    Raises:
        InputError: if the index has no such embeddings, or the package of the method is missing.
    """
    names = gallery_names(modality or index.default_gallery, index.manifest.embeddings, "--modality")
    return make_points(index.vectors, names, method or map_method(index, modality), seed)


def plot_map(
    index: Index,
    modality: str | None = None,
    method: Method | None = None,
    seed: int = 0,
    column: Literal["cluster", "topic", "video"] = "cluster",
    named: int = COLOURS,
    points: np.ndarray | None = None,
) -> Figure:
    """Plot all clips as points: clips with similar embeddings lie near each other.

    The largest groups carry a number at the median of their clips, and the legend names them by class-based TF-IDF.

    Args:
        index: of the clips.
        modality: letters of the modalities whose embeddings are added; by default those that a search compares.
        method: UMAP, t-SNE or principal components; by default UMAP, where it is installed and there are 200,000
            clips at most.
        seed: of UMAP and t-SNE.
        column: what colours the points.
        named: groups that are named, the largest ones.
        points: coordinates ``(N, 2)`` in place of those that the method makes.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: if a package is missing, or the index has no such embeddings.
    """
    figure = new_figure("plot_map", layout="constrained")
    if points is None:
        points = map_points(index, modality, method, seed)
    if points.shape != (len(index), 2):
        raise InputError(f"points: expected coordinates ({len(index)}, 2), found the shape {points.shape}")
    panel = figure.subplots()
    there = np.isfinite(points).all(axis=1)
    figure.set_size_inches(10, _height(points[there]))
    groups = read_groups(index.clips, column)
    # smaller points for more clips, and none below what a printer shows
    size = float(np.clip(2e4 / max(len(points), 1), 0.5, 18))
    codes = np.where(there, groups.codes, -2)  # -2 is shown nowhere
    largest = [code for code in groups.sizes() if (codes == code).any()][:named]
    rest = there & ~np.isin(codes, largest)
    x, y = points[rest].T
    # rasterized: 100,000 points as shapes would make a PDF that no reader opens quickly
    panel.scatter(x, y, s=size, color=GREY, linewidths=0, rasterized=True)
    for number, code in enumerate(largest):
        own = points[codes == code]
        colour = _colour(number)
        x, y = own.T
        name = _name(groups, code, number, column)
        panel.scatter(x, y, s=size, color=colour, linewidths=0, rasterized=True, label=name)
        _mark(panel, np.median(own, axis=0), str(number + 1))
    panel.set(xticks=[], yticks=[], aspect="equal", title=f"{index.folder.resolve().name}: {int(there.sum()):,} clips")
    if largest:
        scale = (18 / size) ** 0.5
        legend = figure.legend(loc="outside right upper", fontsize="small", frameon=False, markerscale=scale)
        legend.set_title(f"{column} (clips)")
    return figure


def _height(points: np.ndarray) -> float:
    """Return the inches in which a map of 6.5 inches shows both axes alike, within limits."""
    wide, high = np.ptp(points, axis=0) if len(points) else (1.0, 1.0)
    return float(np.clip(6.5 * high / max(wide, 1e-9), 3.5, 7.5)) + 0.5


def _colour(number: int) -> str | tuple[float, ...]:
    from matplotlib import colormaps

    return tuple(colormaps["tab20"](number)) if number < COLOURS else GREY


def _name(groups: Groups, code: int, number: int, column: str) -> str:
    name = groups.labels.get(code) or f"{column} {code}"
    return f"{number + 1}: {shorten(name, NAME)} ({int((groups.codes == code).sum()):,})"


def _mark(panel: Axes, place: np.ndarray, text: str) -> None:
    x, y = map(float, place)
    # a frame: the numbers of two clusters side by side would read as one
    frame = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "grey", "linewidth": 0.5}
    panel.annotate(text, (x, y), ha="center", va="center", weight="bold", fontsize="small", bbox=frame)
