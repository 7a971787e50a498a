"""Full-video retrieval by loops over captions, clips and videos, with exact fractions."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from fractions import Fraction

from references import retrieval


def share(values: Sequence[float], index: int, k: int) -> Fraction:
    """Probability that one of several values is among the k largest when ties are put in random order."""
    higher = sum(1 for value in values if value > values[index])
    same = sum(1 for value in values if value == values[index])
    return min(max(Fraction(k - higher, same), Fraction(0)), Fraction(1))


def share_over_orders(values: Sequence[float], index: int, k: int) -> Fraction:
    """The same by sorting in every way to break ties: N! sorts."""
    orders = list(itertools.permutations(range(len(values))))
    hits = 0
    for order in orders:
        ranking = sorted(range(len(values)), key=lambda item: (-values[item], order[item]))
        hits += index in ranking[:k]
    return Fraction(hits, len(orders))


def first_rank_over_orders(row: Sequence[float], own: Sequence[bool]) -> Fraction:
    """Mean 1-based position of the first own item over every way to break ties: N! sorts."""
    orders = list(itertools.permutations(range(len(row))))
    total = 0
    for order in orders:
        ranking = sorted(range(len(row)), key=lambda item: (-row[item], order[item]))
        total += 1 + min(position for position, item in enumerate(ranking) if own[item])
    return Fraction(total, len(orders))


def first_rank(row: Sequence[float], own: Sequence[bool]) -> Fraction:
    """Expected position of the best own item: those before it, and its place among those that tie with it.

    Taken place by place: it is at place j or later if none of the j - 1 places before holds an own item.
    """
    best = max(value for value, mine in zip(row, own, strict=True) if mine)
    higher = sum(1 for value in row if value > best)
    others = sum(1 for value, mine in zip(row, own, strict=True) if value == best and not mine)
    tied = sum(1 for value in row if value == best)
    expected, none_yet = Fraction(0), Fraction(1)
    for place in range(others + 1):
        expected += none_yet
        none_yet *= Fraction(others - place, tied - place)
    return higher + expected


def full_video(
    scores: Sequence[Sequence[float]], videos: Sequence[Hashable], ks: Sequence[int], asked: Sequence[int] | None = None
) -> dict[str, list[float]]:
    """Ranks and hits (0 to 1) of every setting, a value a caption or a video, from scores of integer value.

    ``asked`` is the clip of each caption, where a clip may have several.
    """
    asked = range(len(videos)) if asked is None else asked
    own_video = [videos[clip] for clip in asked]
    names = sorted(set(videos), key=str)
    clips = {name: [index for index, video in enumerate(videos) if video == name] for name in names}
    captions = {name: [index for index, video in enumerate(own_video) if video == name] for name in names}
    best = [[max(row[clip] for clip in clips[name]) for name in names] for row in scores]
    result: dict[str, list[float]] = {
        "caption_clip": [retrieval.expected_rank(row, clip) for row, clip in zip(scores, asked, strict=True)],
        "caption_video": [
            retrieval.expected_rank(row, names.index(video)) for row, video in zip(best, own_video, strict=True)
        ],
        "caption_video_by_clips": [
            float(first_rank(row, [other == video for other in videos]))
            for row, video in zip(scores, own_video, strict=True)
        ],
        "captions_video": [],
    }
    for name in names:
        summed = [sum(best[caption][column] for caption in captions[name]) for column in range(len(names))]
        result["captions_video"].append(retrieval.expected_rank(summed, names.index(name)))
    for k in ks:
        for kind in ("video_votes", "clip_votes"):
            hits = []
            for name in names:
                votes = [Fraction(0)] * len(names)
                for caption in captions[name]:
                    if kind == "video_votes":
                        for column in range(len(names)):
                            votes[column] += share(best[caption], column, k)
                    else:
                        for clip, video in enumerate(videos):
                            votes[names.index(video)] += share(scores[caption], clip, k)
                own = names.index(name)
                hits.append(float(share(votes, own, k)) if votes[own] else 0.0)  # type: ignore[arg-type]
            result[f"{kind}/R@{k}"] = hits
    return result
