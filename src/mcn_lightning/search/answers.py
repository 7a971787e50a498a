"""From ranked clips to answers: few of a video, overlapping clips joined, near-duplicates grouped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

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
    """Join clips of one video whose seconds overlap or touch. The best one gives its id and score.

    Args:
        clips: with ``score``, the best first.

    Returns:
        The best first. A joined clip lasts from the earliest start to the latest end, has the texts in their order, and
        ``merged``, the number of its clips.
    """
    found: list[list[Row]] = []
    for clip in clips:
        touching = [group for group in found if any(_touch(clip, other) for other in group)]
        if not touching:
            found.append([clip])
            continue
        touching[0].append(clip)
        for group in touching[1:]:  # a clip may close the gap between two
            touching[0].extend(group)
            found.remove(group)
    return [_join(group) for group in found]


def _touch(one: Row, other: Row) -> bool:
    if one["video"] != other["video"] or one["start"] is None or other["start"] is None:
        return False
    return bool(one["start"] <= other["end"] and other["start"] <= one["end"])


def _join(group: Sequence[Row]) -> Row:
    best = max(group, key=lambda clip: clip["score"])
    if len(group) == 1:
        return {**best, "merged": 1}
    ordered = sorted(group, key=lambda clip: (clip["start"], clip["end"]))
    texts = list(dict.fromkeys(clip["text"] for clip in ordered if clip["text"]))
    texts = [text for text in texts if not any(text != other and text in other for other in texts)]  # once in a window
    span = {"start": ordered[0]["start"], "end": max(clip["end"] for clip in group)}
    return {**best, **span, "text": " ".join(texts) or None, "merged": len(group)}


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
    similar = (rows @ rows.T >= least).tolist()
    found: list[tuple[int, dict[str, Any]]] = []
    for number, clip in enumerate(clips):
        for first, best in found:
            if similar[first][number] and best["video"] != clip["video"]:
                best["duplicates"].append(clip["id"])
                break
        else:
            found.append((number, {**clip, "duplicates": []}))
    return [best for _, best in found]
