"""From ranked clips to answers: few of a video, overlapping clips joined, near-duplicates grouped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.search.clips import Row

FUSION_CONSTANT = 60
"""Of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


def fuse_ranks(*rankings: Sequence[int]) -> dict[int, float]:
    """Return the sum of ``1 / (60 + rank)`` of each row over several rankings, the best first.

    Args:
        *rankings: rows, the best first.
    """
    total: Counter[int] = Counter()
    for ranking in rankings:
        for rank, row in enumerate(ranking, 1):
            total[row] += 1 / (FUSION_CONSTANT + rank)  # type: ignore[assignment]
    # ties by row, so that answers do not depend on the order of the rankings
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def merge_overlaps(clips: Sequence[Row]) -> list[Row]:
    """Join clips of one video whose seconds overlap. The best one gives its id and score.

    Args:
        clips: with ``score``, the best first.

    Returns:
        The best first. A joined clip lasts from the earliest start to the latest end, has the texts in their order, and
        ``merged``, the number of its clips.
    """
    place = {clip["id"]: number for number, clip in enumerate(clips)}
    timed = [clip for clip in clips if clip["start"] is not None]
    groups: list[list[Row]] = []
    end = 0.0
    for clip in sorted(timed, key=lambda clip: (clip["video"], clip["start"], clip["end"])):
        if groups and groups[-1][0]["video"] == clip["video"] and clip["start"] < end:
            groups[-1].append(clip)
            end = max(end, clip["end"])
        else:
            groups.append([clip])
            end = clip["end"]
    groups += [[clip] for clip in clips if clip["start"] is None]
    best = [(min(group, key=lambda clip: place[clip["id"]]), group) for group in groups]
    return [_join(clip, group) for clip, group in sorted(best, key=lambda pair: place[pair[0]["id"]])]


def _join(best: Row, ordered: Sequence[Row]) -> Row:
    """Return the best of some clips with the span and the texts of all of them, which are in the order of time."""
    if len(ordered) == 1:
        return {**best, "merged": 1}
    texts = list(dict.fromkeys(clip["text"] for clip in ordered if clip["text"]))
    texts = [text for text in texts if not any(text != other and text in other for other in texts)]  # once in a window
    span = {"start": ordered[0]["start"], "end": max(clip["end"] for clip in ordered)}
    return {**best, **span, "text": " ".join(texts) or None, "merged": len(ordered)}


def limit_per_video(clips: Sequence[Row], most: int) -> list[Row]:
    """Return the best clips of each video.

    Args:
        clips: the best first.
        most: clips of a video.
    """
    count: Counter[str] = Counter()
    found = []
    for clip in clips:
        count[clip["video"]] += 1
        if count[clip["video"]] <= most:
            found.append(clip)
    return found


def group_duplicates(clips: Sequence[Row], embeddings: Callable[[list[int]], Tensor], least: float) -> list[Row]:
    """Group clips of different videos with nearly the same embedding. The best one of each group stays.

    Args:
        clips: the best first.
        embeddings: gives the embeddings ``(n, D)`` of rows.
        least: cosine similarity to the best one of the group.

    Returns:
        The best clips, with ``duplicates``: the ids of the others.
    """
    if not clips:
        return []
    rows = F.normalize(embeddings([clip["row"] for clip in clips]), dim=1)
    firsts = torch.empty_like(rows)  # of the best clip of each group
    found: list[Row] = []
    for row, clip in zip(rows, clips, strict=True):
        near = (firsts[: len(found)] @ row >= least).nonzero()[:, 0].tolist()
        group = next((found[each] for each in near if found[each]["video"] != clip["video"]), None)
        if group is not None:
            group["duplicates"].append(clip["id"])
            continue
        firsts[len(found)] = row
        found.append({**clip, "duplicates": []})
    return found
