"""Recall of the clips of each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcn_lightning.plots.figures import new_figure, shorten
from mcn_lightning.search.explore.recall import cluster_recall
from mcn_lightning.search.index import Index

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = 46  # letters of a name


def plot_recall(index: Index, modality: str | None = None, clusters: int = 20, k: int = 10) -> Figure:
    """Plot recall@k of captions that look for their own clips, for each of the largest clusters.

    Args:
        index: of the clips.
        modality: letters of the gallery; by default those that a search compares.
        clusters: bars at most.
        k: cut-off.

    Returns:
        A matplotlib figure. A dashed line shows the recall of all clips, and a dotted one that of chance.

    Raises:
        InputError: if matplotlib is missing, or the index has no captions or clusters.
    """
    frame = cluster_recall(index, modality, (k,))
    own, whole = frame[:-1].head(clusters), frame.iloc[-1]
    figure = new_figure("plot_recall", figsize=(8, 1.6 + 0.28 * len(own)), layout="constrained")
    panel = figure.subplots()
    names = [shorten(name, NAME) or f"cluster {code}" for name, code in zip(own["name"], own["cluster"], strict=True)]
    places = [*range(len(own))]
    bars = panel.barh(places, own[f"R@{k}"])
    panel.set_yticks(places, [f"{name} ({count:,})" for name, count in zip(names, own["clips"], strict=True)])
    under = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # a line may cross the number
    panel.bar_label(bars, fmt="%.0f", padding=3, fontsize="small", bbox=under)
    gallery = frame.attrs["gallery"]
    panel.axvline(whole[f"R@{k}"], linestyle="--", color="0.3", label=f"all captions: {whole[f'R@{k}']:.1f}")
    chance = 100 * min(k / gallery, 1)
    panel.axvline(chance, linestyle=":", color="0.3", label=f"chance: {chance:.2g}")
    # matplotlib begins at the bottom, and the largest cluster belongs to the top
    panel.invert_yaxis()
    letters = modality or index.default_gallery
    panel.set(xlim=(0, 110), xlabel=f"R@{k} of t->{letters} in %, among {gallery:,} clips")
    panel.set_ylabel("cluster (captions)")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize="small")
    return figure
