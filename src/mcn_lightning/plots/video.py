"""One video along its time: its clips against its captions, and the score of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcn_lightning.plots.figures import new_figure, shorten
from mcn_lightning.search.clips import Row
from mcn_lightning.search.explore.moments import compare_captions
from mcn_lightning.search.index import Index

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAME = 40  # letters of a caption
TICKS = 40
"""Captions and clips that have a tick of their own; of more, every second or third one has one."""


def plot_video(index: Index, video: str, modality: str | None = None) -> Figure:
    """Plot the similarity of the clips of a video with its captions, both in the order of time.

    A frame marks each pair that overlaps in time.

    Args:
        index: of the clips.
        video: its name.
        modality: letters of the modalities of the clips; by default those that a search compares.

    Returns:
        A matplotlib figure.

    Raises:
        InputError: if matplotlib is missing, or the video is unknown, or has no clips with times or no captions.
    """
    found = compare_captions(index, video, modality)
    rows, columns = found.scores.shape
    size = (4.5 + 0.2 * min(columns, TICKS), 2.2 + 0.2 * min(rows, TICKS))
    figure = new_figure("plot_video", figsize=size, layout="constrained")
    panel = figure.subplots()
    image = panel.imshow(found.scores, aspect="auto", interpolation="nearest", cmap="viridis")
    own = np.array([[_overlap(caption, clip) for clip in found.clips] for caption in found.captions])
    down, right = np.nonzero(own)
    # frames of smaller cells would hide their colours
    if max(rows, columns) <= 2 * TICKS:
        from matplotlib.patches import Rectangle

        for y, x in zip(down, right, strict=True):
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=1))
    panel.set_yticks(*_ticks([shorten(each["text"], NAME) for each in found.captions]), fontsize="x-small")
    panel.set_xticks(*_ticks([f"{each['start']:g}" for each in found.clips]), fontsize="x-small", rotation=90)
    kinds = "windows" if found.clips[0]["kind"] == "window" else "clips"
    letters = modality or index.default_gallery
    panel.set(xlabel=f"{kinds} by their first second", ylabel="captions", title=f"{video}: t->{letters}")
    figure.colorbar(image, label="dot product")
    return figure


def _overlap(one: Row, other: Row) -> bool:
    return bool(one["start"] < other["end"] and other["start"] < one["end"])


def _ticks(names: Sequence[str]) -> tuple[list[int], list[str]]:
    step = -(-len(names) // TICKS)
    places = [*range(0, len(names), step)]
    return places, [names[place] for place in places]


def plot_moments(moments: pd.DataFrame, query: str = "") -> Figure:
    """Plot the score of a query along the time of a video.

    Args:
        moments: of ``Index.moments``.
        query: for the title.

    Returns:
        A matplotlib figure: a line from the first to the last second of each clip, and a curve through their middles.

    Raises:
        InputError: if matplotlib is missing.
    """
    figure = new_figure("plot_moments", figsize=(9, 3), layout="constrained")
    panel = figure.subplots()
    panel.hlines(moments["score"], moments["start"], moments["end"], linewidth=2.5, alpha=0.5)
    panel.plot((moments["start"] + moments["end"]) / 2, moments["score"], marker=".", linewidth=1)
    title = ": ".join(filter(None, [str(moments["video"].iloc[0]), shorten(query, 90)]))
    panel.set(xlabel="seconds", ylabel="score (dot product)", title=title)
    panel.grid(alpha=0.3)
    return figure
