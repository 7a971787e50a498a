"""Step localization: assignment of ordered steps to seconds of a video, step recall, and average precision.

Here T counts the seconds of a video and S the steps of its task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mcn_lightning.metrics.checks import check_arrays, check_values

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
RecallSoftmax = Literal["none", "steps", "all"]
"""Texts in the log-softmax of a second before step recall; see `step_scores`."""


def step_scores(similarities: np.ndarray, columns: slice | Sequence[int], softmax: RecallSoftmax) -> FloatArray:
    """Return the scores by which a video's steps are assigned to seconds.

    The released evaluation assigns CrossTask's steps by similarities. On MiningYouTube it first takes the log-softmax
    over the video's own steps (a step that occurs twice counts twice). Alignment uses the log-softmax over the texts of
    all steps. The three choose different seconds: a log-softmax lowers all steps of a second that fits several texts.

    Args:
        similarities: of each second to all texts, ``(T, texts)``.
        columns: texts of the video's steps, in their order. A text may occur several times.
        softmax: texts in the log-softmax of a second: none, the steps in ``columns``, or all texts.

    Returns:
        ``(T, S)`` float64.
    """
    scores = np.asarray(similarities, dtype=np.float64)
    if softmax == "all":
        return _log_softmax(scores)[:, columns]
    return _log_softmax(scores[:, columns]) if softmax == "steps" else scores[:, columns]


def _log_softmax(scores: FloatArray) -> FloatArray:
    if scores.shape[1] == 0:
        return scores
    # exp() of large scores would overflow
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def assign_steps(scores: np.ndarray) -> IntArray:
    """Assign each step to exactly one second, in order, so that the sum of scores is highest.

    Zhukov et al., "Cross-task weakly supervised learning from instructional videos", CVPR 2019. Of equal assignments,
    the one whose last step is earliest is returned. If those are equal too, the step before it decides, and so on.

    Args:
        scores: of each second for each step, ``(T, S)``; higher is better.

    Returns:
        Second of each step, ``(S,)`` int64, strictly increasing.

    Raises:
        ValueError: if the shape does not fit, there are fewer seconds than steps, or a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_arrays(scores=(scores, "(T, S)"))
    check_values("scores", np.isfinite(scores), "finite numbers", scores)
    seconds, steps = scores.shape
    if seconds < steps:
        raise ValueError(f"expected a second for each of {steps} steps at least, found {seconds} seconds")
    # totals[s, t] is the best sum of the steps up to s if step s is at second t
    totals = np.full((steps, seconds), -np.inf)
    totals[0] = scores[:, 0]
    for step in range(1, steps):
        # one second earlier at the latest, as no two steps share a second
        totals[step, 1:] = np.maximum.accumulate(totals[step - 1])[:-1] + scores[1:, step]
    chosen = np.empty(steps, dtype=np.int64)
    end = seconds
    for step in reversed(range(steps)):
        chosen[step] = end = int(totals[step, :end].argmax())
    return chosen


def step_hits(assigned: np.ndarray, truth: np.ndarray) -> BoolArray:
    """Return which steps were assigned to a second that is annotated with them.

    Args:
        assigned: second of each step, ``(S,)`` integers.
        truth: which steps are annotated at each second, ``(T, S)`` bool.

    Returns:
        ``(S,)`` bool; never true for a step without annotation.

    Raises:
        ValueError: if shapes or types do not fit or a second lies outside the video.
    """
    assigned, truth = np.asarray(assigned), np.asarray(truth)
    check_arrays(True, assigned=(assigned, "(S,) integers"), truth=(truth, "(T, S) bool"))
    inside = (assigned >= 0) & (assigned < len(truth))
    check_values("assigned", inside, f"seconds from 0 to {len(truth) - 1}", assigned)
    return truth[assigned, np.arange(len(assigned))]


class StepCounts(NamedTuple):
    """Counts of one video for step recall: its task, the steps that were hit, and the annotated steps."""

    task: str
    hits: int
    annotated: int


def recall_pooled(videos: Sequence[StepCounts]) -> float:
    """Return the share of annotated steps that were hit in all videos of a task, averaged over the tasks.

    This is the definition of Zhukov et al., CVPR 2019. A task without annotated steps has no recall and is left out.

    Args:
        videos: one for each video, in any order.

    Returns:
        In per cent.

    Raises:
        ValueError: if counts are impossible or no step is annotated in any video.
    """
    return _mean(
        [
            100 * sum(video.hits for video in of_task) / sum(video.annotated for video in of_task)
            for of_task in _by_task(videos)
        ]
    )


def recall_mean_over_videos(videos: Sequence[StepCounts]) -> float:
    """Return the share of annotated steps hit in a video, averaged over the videos of a task, then over tasks.

    The released MCN code reports this. It differs from `recall_pooled`, as a video with few annotated steps weighs as
    much as one with many. A video without an annotated step (``annotated == 0``) has no recall and is left out.

    Args:
        videos: one for each video, in any order.

    Returns:
        In per cent.

    Raises:
        ValueError: if counts are impossible or no step is annotated in any video.
    """
    return _mean([_mean([100 * video.hits / video.annotated for video in of_task]) for of_task in _by_task(videos)])


def _by_task(videos: Sequence[StepCounts]) -> list[list[StepCounts]]:
    """Return the videos with annotated steps, grouped by task."""
    tasks: dict[str, list[StepCounts]] = defaultdict(list)
    for video in videos:
        counts = StepCounts(*video)
        if not 0 <= counts.hits <= counts.annotated:
            raise ValueError(f"hits must be from 0 to the number of annotated steps, got {counts}")
        if counts.annotated:
            tasks[counts.task].append(counts)
    if not tasks:
        raise ValueError(f"no recall: none of {len(videos)} videos has an annotated step")
    return list(tasks.values())


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> FloatArray:
    """Return the area under each step's precision-recall curve, summed without interpolation.

    ``AP = sum_n (R_n - R_{n-1}) P_n`` over the thresholds n from high to low, by scikit-learn. Seconds of equal score
    pass a threshold together, so that their order does not matter and a constant score gets the share of positives.

    Args:
        scores: of each second for each step, ``(N, S)``, the seconds of several videos one after another.
        truth: which steps are annotated at each second, ``(N, S)`` bool.

    Returns:
        Of each step in per cent, ``(S,)`` float64; NaN for a step that is annotated nowhere.

    Raises:
        ValueError: if shapes or types do not fit or a score is not finite.
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    check_arrays(scores=(scores, "(N, S)"), truth=(truth, "(N, S) bool"))
    check_values("scores", np.isfinite(scores), "finite numbers", scores)
    from sklearn.metrics import average_precision_score  # imported here, as it takes a quarter of a second

    found = np.full(scores.shape[1], np.nan)
    # for a step without annotation scikit-learn would warn and return 0
    for step in np.flatnonzero(truth.any(axis=0)):
        found[step] = 100 * average_precision_score(truth[:, step], scores[:, step])
    return found


def mean_average_precision(precisions: np.ndarray) -> float:
    """Return the mean over the steps that are annotated somewhere.

    Args:
        precisions: result of `average_precision`, ``(S,)``, with NaN for the steps to leave out.

    Returns:
        In the unit of ``precisions``.

    Raises:
        ValueError: if no step is left.
    """
    precisions = np.asarray(precisions, dtype=np.float64)
    known = precisions[~np.isnan(precisions)]
    if len(known) == 0:
        raise ValueError(f"no average precision: none of {precisions.size} steps is annotated")
    return float(known.mean())
