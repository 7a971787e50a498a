"""A montage of clusters: the words of each, and the clips nearest to its centre."""

from __future__ import annotations

import importlib.util
import io
import textwrap
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.plots.figures import new_figure, shorten
from mcn_lightning.search.clips import Row
from mcn_lightning.search.explore.clusters import describe_clusters
from mcn_lightning.search.explore.decoder import MediaProcess
from mcn_lightning.search.explore.groups import read_groups
from mcn_lightning.search.explore.stills import SECONDS, KeptStills, take_still
from mcn_lightning.search.index import Index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE, LETTERS = 26, 90  # letters of a line, and of a caption


def plot_montage(index: Index, clusters: int = 10, clips: int = 4) -> Figure:
    """Show the largest clusters, a row for each: its words, and the clips nearest to its centre.

    A clip is its picture from the middle of its seconds, with its caption. Without the video, or without PyAV, it is
    the caption alone. Videos are read in a process of their own, which a damaged file may end.

    Args:
        index: of the clips.
        clusters: rows at most.
        clips: of a row, at most.

    Returns:
        A matplotlib figure. ``figure.get_label()`` says how many pictures there are, such as ``30 of 40 pictures``.

    Raises:
        InputError: if matplotlib is missing, or the index has no clusters.
    """
    groups = read_groups(index.clips, "cluster")
    sizes = groups.sizes()
    if not sizes:
        raise InputError("montage: expected clusters, found none in this index; leave this plot out")
    about = describe_clusters(index.vectors, groups.codes, clips)
    shown = [code for code in sizes if code in about][:clusters]
    figure = new_figure("plot_montage", figsize=(2.4 * (clips + 1), 2.1 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), clips + 1, squeeze=False)
    nearest = [about[code].nearest for code in shown]
    rows = [row for own in nearest for row in own]
    found = dict(zip(rows, index.clips.take(rows), strict=True))
    pictures = take_pictures(index, [*found.values()])
    for panel in panels.flat:
        panel.set_axis_off()
    for line, (code, own) in enumerate(zip(shown, nearest, strict=True)):
        words = "\n".join(shorten(groups.labels[code], 200).split(", ")) or f"cluster {code}"
        panels[line, 0].text(0, 0.5, words, weight="bold", va="center", transform=panels[line, 0].transAxes)
        panels[line, 0].set_title(f"cluster {code}, {sizes[code]:,} clips", fontsize="small", loc="left")
        for panel, row in zip(panels[line, 1:], own, strict=False):
            _show(panel, found[row], pictures[row])
    figure.set_label(f"{sum(each is not None for each in pictures.values())} of {len(rows)} pictures")
    return figure


def _show(panel: Axes, clip: Row, picture: np.ndarray | None) -> None:
    text = "\n".join(textwrap.wrap(shorten(clip["text"] or clip["id"], LETTERS), LINE))
    if picture is None:
        panel.text(0.5, 0.5, text, ha="center", va="center", fontsize="small", transform=panel.transAxes)
        return
    panel.imshow(picture)
    panel.set_title(text, fontsize="x-small", y=0, va="top", pad=-3)


def take_pictures(index: Index, clips: Sequence[Row]) -> dict[int, np.ndarray | None]:
    """Return a picture ``(height, width, 3)`` uint8 of each clip by its row, ``None`` where there is none at hand.

    Args:
        index: of the clips.
        clips: of the index.
    """
    from PIL import Image

    kept, readable = KeptStills(index.folder), importlib.util.find_spec("av") is not None
    pictures: dict[int, np.ndarray | None] = {}
    with closing(MediaProcess(SECONDS)) as process:
        for clip in clips:
            jpeg = kept.get(clip["id"]) or (_from_video(index, clip, process) if readable else None)
            pictures[clip["row"]] = None if jpeg is None else np.asarray(Image.open(io.BytesIO(jpeg)))
    return pictures


def _from_video(index: Index, clip: Row, process: MediaProcess) -> bytes | None:
    try:
        return take_still(process, index.media(clip["id"]), clip)
    except InputError:  # not known, moved or damaged: the caption stands for it, and the figure says how many
        return None
