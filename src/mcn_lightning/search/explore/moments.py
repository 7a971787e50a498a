"""One video along its time: the score of a query, and the similarity of its clips with its captions."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.search.clips import Row
from mcn_lightning.search.manifest import gallery_names
from mcn_lightning.search.options import modalities_of
from mcn_lightning.search.query import Query

if TYPE_CHECKING:
    import pandas as pd

    from mcn_lightning.search.index import Index

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of a curve in the terminal."""


def score_moments(index: Index, video: str, query: Query, modality: str | None = None) -> pd.DataFrame:
    """Return the score of a query for each clip of a video, in the order of time.

    Windows are scored where the index has them, else captions.

    Args:
        index: of the clips.
        video: name of the video.
        query: what is looked for; not words of captions.
        modality: letters of the modalities that are compared; by default those that a search compares.

    Returns:
        A data frame with the columns ``id``, ``video``, ``start``, ``end`` (seconds), ``text`` and ``score``, a dot
        product.

    Raises:
        InputError: if the query is wrong, or the video is unknown or has no clip with times.
    """
    import pandas as pd

    query.check()
    letters = modality or index.default_gallery
    names = gallery_names(letters, index.manifest.embeddings, "--modality")
    clips = clips_of(index, video, letters)
    vector = query.embed(index, names)
    if vector is None or query.words is not None:
        raise InputError("--words: expected a query with an embedding, found words of captions; give a sentence")
    rows = index.vectors.rows(names, [clip["row"] for clip in clips])
    shown = ("id", "video", "start", "end", "text")
    frame = pd.DataFrame([{name: clip[name] for name in shown} for clip in clips])
    return frame.assign(score=(rows @ vector).numpy())


def clips_of(index: Index, video: str, letters: str) -> list[Row]:
    """Return the clips of a video that have times and a modality: windows, or captions if there are none.

    Args:
        index: of the clips.
        video: its name.
        letters: of the modalities, of which a clip has any.

    Raises:
        InputError: if there is no such video, or no such clip.
    """
    clips = index.clips.of_video(video)
    if not clips:
        near = difflib.get_close_matches(video, index.clips.videos(), n=1)
        advice = f"did you mean {near[0]}?" if near else "the results of a search list them"
        raise InputError(f"expected the name of a video of this index, found {video!r}; {advice}")
    wanted = modalities_of(letters, "--modality")
    there = [clip for clip in clips if clip["start"] is not None and any(clip[f"has_{name}"] for name in wanted)]
    if not there:
        what = " or ".join(wanted)
        raise InputError(f"{video}: expected clips with times and {what}, found none; take another video")
    return [clip for clip in there if clip["kind"] == "window"] or there


def sparkline(frame: pd.DataFrame, width: int = WIDTH) -> str:
    """Draw a curve of scores with block characters.

    Each character stands for an equal part of the time, and shows the highest score of the clips at its middle.

    Args:
        frame: of ``score_moments``.
        width: characters.

    Returns:
        ``width`` characters; a space where there is no clip.
    """
    begin, end = float(frame["start"].min()), float(frame["end"].max())
    middles = begin + (np.arange(width) + 0.5) * (end - begin) / width
    low, high = float(frame["score"].min()), float(frame["score"].max())
    found = []
    for middle in middles:
        at = frame[(frame["start"] <= middle) & (middle < frame["end"])]["score"]
        share = (float(at.max()) - low) / (high - low) if len(at) and high > low else 0.0
        found.append(BARS[round(share * (len(BARS) - 1))] if len(at) else " ")
    return "".join(found)


@dataclass(frozen=True)
class Similarity:
    """The similarity of the clips of a video with its captions.

    Args:
        clips: C clips, in the order of time.
        captions: T captions, in the order of time.
        scores: dot products of the text of each caption with each clip, ``(T, C)`` float32.
    """

    clips: Sequence[Row]
    captions: Sequence[Row]
    scores: np.ndarray


def compare_captions(index: Index, video: str, modality: str | None = None) -> Similarity:
    """Compare the clips of a video with its captions.

    Args:
        index: of the clips.
        video: its name.
        modality: letters of the modalities of the clips; by default those that a search compares.

    Raises:
        InputError: if the video is unknown, or has no clips with times or no captions.
    """
    letters = modality or index.default_gallery
    names = gallery_names(letters, index.manifest.embeddings, "--modality")
    asking = gallery_names("t", index.manifest.embeddings, "captions")
    clips = clips_of(index, video, letters)
    there = [clip for clip in index.clips.of_video(video) if clip["has_text"] and clip["start"] is not None]
    captions = [clip for clip in there if clip["kind"] == "caption"] or there
    if not captions:
        raise InputError(f"{video}: expected captions with times, found none; take another video")
    queries = index.vectors.rows(asking, [clip["row"] for clip in captions])
    items = index.vectors.rows(names, [clip["row"] for clip in clips])
    return Similarity(clips, captions, (queries @ items.T).numpy())
