"""Ordered assignment, alignment and average precision by enumeration or by plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np


def assignments(scores: np.ndarray) -> dict[tuple[int, ...], float]:
    """Sum of every ordered choice of one second a step, (T, S) -> T choose S choices."""
    seconds, steps = scores.shape
    return {
        chosen: math.fsum(scores[second, step] for step, second in enumerate(chosen))
        for chosen in itertools.combinations(range(seconds), steps)
    }


def assignment_total(scores: np.ndarray) -> float:
    """Largest sum of an ordered choice, second by second: leave it out or give it to the next step."""
    seconds, steps = scores.shape
    best = [0.0] + [-math.inf] * steps
    for second in range(seconds):
        for step in reversed(range(steps)):
            best[step + 1] = max(best[step + 1], best[step] + scores[second, step])
    return best[steps]


def log_softmax(row: Sequence[float]) -> list[float]:
    """Logarithm of each number's share in the sum of exponentials."""
    total = math.fsum(math.exp(value) for value in row)
    return [math.log(math.exp(value) / total) for value in row]


def steps_found(similarities: np.ndarray, columns: Sequence[int], softmax: str) -> tuple[int, ...]:
    """Second of each step: of all ordered choices the one with the largest sum of scores.

    Args:
        similarities: (T, texts).
        columns: text of each step of the video.
        softmax: "none", "steps" (over these columns) or "all" (over all texts).
    """
    rows = []
    for row in similarities.tolist():
        own = [row[column] for column in columns]
        if softmax == "steps":
            own = log_softmax(own)
        elif softmax == "all":
            own = [log_softmax(row)[column] for column in columns]
        rows.append(own)
    sums = assignments(np.array(rows))
    return max(sums, key=lambda chosen: sums[chosen])


def poisson(length: int, mean: float) -> float:
    """Logarithm of the probability of a length."""
    return length * math.log(mean) - mean - math.log(math.factorial(length))


def alignment_score(log_probs: np.ndarray, boundaries: Sequence[int], lengths: Sequence[float] | None) -> float:
    """Sum over frames and lengths; -inf where an entry takes an impossible frame."""
    total = 0.0
    for entry, (start, end) in enumerate(itertools.pairwise(boundaries)):
        total += sum(log_probs[start:end, entry].tolist())
        total += 0.0 if lengths is None else poisson(end - start, lengths[entry])
    return total


def all_boundaries(frames: int, entries: int) -> Iterator[tuple[int, ...]]:
    """Every way to cut the frames into non-empty runs."""
    for inner in itertools.combinations(range(1, frames), entries - 1):
        yield (0, *inner, frames)


def alignments(log_probs: np.ndarray, lengths: Sequence[float] | None) -> dict[tuple[int, ...], float]:
    """Score of every alignment that is possible."""
    scored = {cut: alignment_score(log_probs, cut, lengths) for cut in all_boundaries(*log_probs.shape)}
    return {cut: score for cut, score in scored.items() if score > -math.inf}


def alignment_total(log_probs: np.ndarray, lengths: Sequence[float] | None) -> float:
    """Largest score: every end of every entry tries every start, T * T * L."""
    frames, entries = log_probs.shape
    best = [0.0] + [-math.inf] * frames
    for entry in range(entries):
        scores = log_probs[:, entry].tolist()
        length_scores = [0.0 if lengths is None else poisson(n, lengths[entry]) for n in range(1, frames + 1)]
        found = [-math.inf] * (frames + 1)
        for end in range(1, frames + 1):
            run = 0.0
            for start in reversed(range(end)):
                run += scores[start]
                found[end] = max(found[end], best[start] + run + length_scores[end - start - 1])
        best = found
    return best[frames]


def likeliest_lengths(frames: int, means: Sequence[float]) -> list[int]:
    """Lengths of largest Poisson probability: each frame goes where the factor mean / (length + 1) is largest."""
    lengths = [1] * len(means)
    for _ in range(frames - len(means)):
        gains = [mean / (length + 1) for mean, length in zip(means, lengths, strict=True)]
        lengths[gains.index(max(gains))] += 1
    return lengths


def average_precision(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Sum over the distinct thresholds of the recall gained times the precision, 0 to 1."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        retrieved = [positive for score, positive in zip(scores, truth, strict=True) if score >= threshold]
        gained = sum(retrieved) / sum(truth)
        total += (gained - recall) * sum(retrieved) / len(retrieved)
        recall = gained
    return total
