"""Alignment of a video to its ordered transcript, and metrics of the alignment.

Here T counts the frames of a video and L the entries of its transcript.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcn_lightning.metrics.checks import check_arrays, check_values

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def align(log_probs: np.ndarray, mean_lengths: np.ndarray | None = None) -> IntArray:
    """Give each entry of an ordered transcript the run of frames that is most likely.

    Maximises the sum of the frames' log-probabilities. ``mean_lengths`` adds the logarithm of a Poisson distribution of
    each length, ``l log(mean) - mean - log(l!)`` (Richard et al., "NeuralNetwork-Viterbi", CVPR 2018). There is no beam
    and no stride, so the maximum is exact up to the rounding of float64. Of equal alignments, the one whose last entry
    starts first is returned. If those are equal too, the entry before the last one decides, and so on. Scores that are
    equal in exact arithmetic may differ by rounding.

    It takes O(L T) operations without lengths, O(L T log T) with them, and O(L T) memory.

    The score of a run is a difference of sums from the first frame. A log-probability as small as -1e15 would make the
    others vanish in it, so use -inf for a frame that cannot belong to an entry.

    Args:
        log_probs: log-probability of each frame under each entry, in the transcript's order, ``(T, L)``. An entry that
            occurs twice has two columns. -inf is allowed, and values above 0 (densities).
        mean_lengths: mean length of each entry in frames, ``(L,)``, above 0. By default all lengths are equally likely.

    Returns:
        Boundaries in frames, ``(L + 1,)`` int64 from 0 to T, strictly increasing. Entry i takes the frames from
        ``boundaries[i]`` to ``boundaries[i + 1]``, the end excluded.

    Raises:
        ValueError: if shapes do not fit, or there are fewer frames than entries. Also if a value is NaN or +inf, a mean
            length is not above 0, or no alignment has a finite score.
    """
    scores, lengths = _checked(log_probs, mean_lengths)
    frames, entries = scores.shape
    # index 0 and T + 1 stand for impossible lengths, so that lookups need no condition
    tables = _length_scores(frames, lengths, entries)
    forbidden = scores == -np.inf
    # sums[i, t] is the score of the frames before t. positions[i, t] - positions[i, s] is the length of the run from s
    # to t, or more than T if an impossible frame lies in between
    sums = np.zeros((entries, frames + 1))
    # overflow is reported below, in words of the caller's argument
    with np.errstate(over="ignore"):
        np.cumsum(np.where(forbidden, 0.0, scores).T, axis=1, out=sums[:, 1:])
    if not np.isfinite(sums).all():
        raise ValueError("sums of log_probs over frames are not finite: values are too large for float64")
    positions = np.tile(np.arange(frames + 1), (entries, 1))
    positions[:, 1:] += (frames + 1) * np.cumsum(forbidden.T, axis=1)

    best = np.full(frames + 1, -np.inf)  # best score of the entries so far, if they end at each frame
    best[0] = 0
    gains = []  # for a start at each frame: best score before it, minus the sum before the run
    for i in range(entries):
        gains.append(best[:-1] - sums[i, :-1])
        if i < entries - 1:
            find = _best_runs if lengths is None else _best_runs_with_lengths
            best = sums[i] + find(gains[i], positions[i], tables[i])
    boundaries = np.zeros(entries + 1, dtype=np.int64)
    # from the end: argmax returns the first of equal starts, which is the promised choice
    boundaries[entries] = end = frames
    for i in reversed(range(entries)):
        runs = gains[i][:end] + tables[i].take(positions[i, end] - positions[i, :end], mode="clip")
        boundaries[i] = start = int(runs.argmax())
        if runs[start] == -np.inf:
            raise ValueError(f"no alignment of {frames} frames to {entries} entries is possible: -inf rules out all")
        end = start
    return boundaries


def _checked(log_probs: np.ndarray, mean_lengths: np.ndarray | None) -> tuple[FloatArray, FloatArray | None]:
    scores = np.asarray(log_probs, dtype=np.float64)
    check_arrays(log_probs=(scores, "(T, L)"))
    frames, entries = scores.shape
    if frames < entries:
        raise ValueError(f"expected a frame for each of {entries} entries at least, found {frames} frames")
    check_values("log_probs", scores < np.inf, "numbers below infinity", scores)  # NaN compares as false
    if mean_lengths is None:
        return scores, None
    lengths = np.asarray(mean_lengths, dtype=np.float64)
    check_arrays(log_probs=(scores, "(T, L)"), mean_lengths=(lengths, "(L,)"))
    check_values("mean_lengths", np.isfinite(lengths) & (lengths > 0), "finite numbers above 0", lengths)
    return scores, lengths


def _length_scores(frames: int, lengths: FloatArray | None, entries: int) -> FloatArray:
    """Log-probability of each length from 0 to T + 1, ``(L, T + 2)``. 0 and T + 1 are impossible and have -inf.

    The term ``-mean`` is left out, as it is the same for all lengths.
    """
    table = np.zeros((entries, frames + 2))
    if lengths is not None:
        length = np.arange(1, frames + 1)
        # the cumulative sum of logarithms is log(l!), for all lengths at once
        table[:, 1:-1] = length * np.log(lengths)[:, None] - np.cumsum(np.log(length))
    table[:, [0, -1]] = -np.inf
    return table


def _best_runs(gain: FloatArray, positions: IntArray, table: FloatArray) -> FloatArray:
    """Largest gain among the possible starts of each end 0 to T, ``(T + 1,)``; all lengths are equally likely."""
    # complex numbers compare by their real part first: a start after an impossible frame exceeds all starts before it
    ordered = np.empty(len(gain), dtype=np.complex128)
    ordered.real, ordered.imag = positions[:-1] - np.arange(len(gain)), gain
    best = np.full(len(positions), -np.inf)
    best[1:] = np.maximum.accumulate(ordered).imag
    best[1:][np.diff(positions) > 1] = -np.inf
    return best


def _best_runs_with_lengths(gain: FloatArray, positions: IntArray, table: FloatArray) -> FloatArray:
    """Largest sum of a start's gain and the run's length score for each end 0 to T, ``(T + 1,)``.

    The score is concave in the length. So of two starts the later one, once better, stays better as the end grows: the
    best start never moves back (Aggarwal et al., "Geometric applications of a matrix-searching algorithm", Algorithmica
    1987). This holds with impossible frames too, as a start that they forbid stays forbidden for all later ends. So the
    best starts of two ends bound that of the end half-way. Each of log2(T) rounds halves all gaps between known ends in
    about 2 T trials. Ends without a possible start are left out.
    """
    frames = len(gain)
    best = np.full(frames + 1, -np.inf)
    ends = _possible_ends(gain, positions)
    stride = 1 << len(ends).bit_length()
    # best starts of ends[k * stride - 1] for k = 1, 2, ..., with a lower and an upper bound around them
    known = np.array([0, frames - 1])
    while stride > 1:
        stride //= 2
        middle = ends[np.minimum(np.arange(stride, 2 * stride * (len(known) - 1), 2 * stride), len(ends)) - 1]
        counts = np.diff(known) + 1
        first = np.cumsum(counts) - counts
        gap = np.repeat(np.arange(len(counts)), counts)
        starts = np.arange(len(gap)) + (known[:-1] - first)[gap]
        values = gain[starts] + table.take(positions[middle][gap] - positions[starts], mode="clip")
        highest = np.maximum.reduceat(values, first)
        best[middle] = highest
        hits = np.flatnonzero(values == highest[gap])
        known = np.insert(known, np.arange(1, len(known)), starts[hits[np.searchsorted(hits, first)]])
        known = np.append(known[: len(ends) // stride + 1], frames - 1)
    return best


def _possible_ends(gain: FloatArray, positions: IntArray) -> IntArray:
    """Ends from 1 to T that some start with a finite gain reaches, ascending."""
    after = np.arange(1, len(positions))
    earliest = np.maximum.accumulate(np.where(np.diff(positions) > 1, after, 0))
    finite = np.concatenate([[0], np.cumsum(gain > -np.inf)])
    return after[finite[1:] > finite[earliest]]


def frame_labels(boundaries: np.ndarray) -> IntArray:
    """Return the entry that each frame belongs to.

    Args:
        boundaries: result of `align`, ``(L + 1,)`` integers from 0 to T, not decreasing.

    Returns:
        Index of the entry, ``(T,)`` int64.

    Raises:
        ValueError: if the boundaries are no integers, do not start at 0, or decrease.
    """
    boundaries = np.asarray(boundaries)
    check_arrays(boundaries=(boundaries, "(L + 1,) integers"))
    lengths = np.diff(boundaries)
    if len(lengths) == 0 or boundaries[0] != 0 or (lengths < 0).any():
        raise ValueError(f"boundaries: expected two or more, from 0 on, not decreasing, found {boundaries.tolist()}")
    return np.repeat(np.arange(len(lengths)), lengths)


def segment_overlap(aligned: np.ndarray, annotated: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Return the overlap of each entry's aligned segment D with its annotated segment G.

    ``IoU = |G and D| / |G or D|`` and ``IoD = |G and D| / |D|``, as lengths of intervals. IoD is from Bojanowski et
    al., "Weakly supervised action labeling in videos under ordering constraints", ECCV 2014.

    Args:
        aligned: start and end of each D, ``(L, 2)``, in seconds or frames. For boundaries b this is
            ``np.column_stack([b[:-1], b[1:]])``.
        annotated: start and end of each G, ``(L, 2)``, in the same unit.

    Returns:
        IoU and IoD in per cent, each ``(L,)`` float64.

    Raises:
        ValueError: if the shapes differ or a segment does not end after its start.
    """
    found, known = np.asarray(aligned, dtype=np.float64), np.asarray(annotated, dtype=np.float64)
    check_arrays(True, aligned=(found, "(L, 2)"), annotated=(known, "(L, 2)"))
    for name, segments in (("aligned", found), ("annotated", known)):
        good = np.isfinite(segments).all(axis=1) & (segments[:, 1] > segments[:, 0])
        check_values(name, good, "segments that end after their start", segments)
    shared = np.minimum(found[:, 1], known[:, 1]) - np.maximum(found[:, 0], known[:, 0])
    shared = np.maximum(shared, 0)
    length, other = found[:, 1] - found[:, 0], known[:, 1] - known[:, 0]
    return 100 * shared / (length + other - shared), 100 * shared / length


def foreground_mean(overlaps: np.ndarray, background: np.ndarray) -> float:
    """Return the mean over a video's entries without the background.

    Args:
        overlaps: of each entry, such as the IoU of `segment_overlap`, ``(L,)``.
        background: which entries are background, ``(L,)`` bool.

    Returns:
        In the unit of ``overlaps``; NaN for a video with background only.

    Raises:
        ValueError: if the shapes differ or the mask is not bool.
    """
    overlaps, background = np.asarray(overlaps, dtype=np.float64), np.asarray(background)
    check_arrays(True, overlaps=(overlaps, "(L,)"), background=(background, "(L,) bool"))
    return float(overlaps[~background].mean()) if not background.all() else float("nan")


def frame_accuracy(predicted: np.ndarray, truth: np.ndarray, ignore: int | None = None) -> float:
    """Return the share of a video's frames with the right class ("mean over frames").

    Args:
        predicted: class of each frame, ``(T,)`` integers.
        truth: annotated class of each frame, ``(T,)`` integers.
        ignore: class whose frames (by ``truth``) are left out, such as the background. By default no class.

    Returns:
        In per cent; NaN where no frame is left.

    Raises:
        ValueError: if the shapes differ or the arrays hold no integers.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    check_arrays(True, predicted=(predicted, "(T,) integers"), truth=(truth, "(T,) integers"))
    kept = np.ones(len(truth), dtype=bool) if ignore is None else truth != ignore
    return float(100 * (predicted == truth)[kept].mean()) if kept.any() else float("nan")
