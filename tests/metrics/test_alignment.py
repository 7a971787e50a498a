"""Transcripts aligned to a video, against enumeration, plain loops, closed forms and an annotated video."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import localization as reference

from mcn_lightning.metrics import (
    align,
    assign_steps,
    foreground_mean,
    frame_accuracy,
    frame_labels,
    segment_overlap,
)
from metrics.score_matrices import MANY, REAL, WHOLE, last_first, matrices, means


def check_against_enumeration(log_probs, lengths, exact):
    every = reference.alignments(log_probs, lengths)
    if not every:
        with pytest.raises(ValueError, match="no alignment"):
            align(log_probs, lengths)
        return
    found = tuple(align(log_probs, lengths).tolist())
    assert found in every
    highest = max(every.values())
    margin = 0 if exact else 1e-9
    near = [boundaries for boundaries, score in every.items() if score >= highest - margin]
    assert found == min(near, key=last_first) if exact else found in near
    assert highest == pytest.approx(reference.alignment_total(log_probs, lengths), abs=1e-9)


@MANY
@given(matrices(WHOLE | st.just(-math.inf)))
def test_alignment_equals_enumeration_with_ties_and_impossible_frames(log_probs):
    check_against_enumeration(log_probs, None, exact=True)


@MANY
@given(st.data(), matrices(WHOLE | st.just(-math.inf)))
def test_alignment_with_lengths_is_the_best_with_ties_and_impossible_frames(data, log_probs):
    check_against_enumeration(log_probs, data.draw(means(log_probs.shape[1])), exact=False)


@MANY
@given(st.data(), matrices(REAL))
def test_alignment_of_real_values_is_the_best(data, log_probs):
    lengths = data.draw(st.none() | means(log_probs.shape[1]))
    check_against_enumeration(log_probs, lengths, exact=False)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("impossible", [0, 0.01, 0.1])
@pytest.mark.parametrize("mean", [None, 2, 20, 100])
def test_alignment_of_medium_size_is_the_best(seed, impossible, mean):
    generator = np.random.default_rng(seed)
    log_probs = np.log(generator.random((200, 10))) * generator.choice([0.05, 1, 10])
    truth = np.arange(200) // 20  # stays possible, so that an alignment exists
    forbidden = generator.random((200, 10)) < impossible
    forbidden[np.arange(200), truth] = False
    log_probs[forbidden] = -math.inf
    lengths = None if mean is None else generator.uniform(0.3, 2, 10) * mean
    boundaries = align(log_probs, lengths)
    assert boundaries.dtype == np.int64
    assert (boundaries[0], boundaries[-1], len(boundaries)) == (0, 200, 11)
    assert (np.diff(boundaries) > 0).all()
    score = reference.alignment_score(log_probs, boundaries.tolist(), lengths)
    assert score == pytest.approx(reference.alignment_total(log_probs, lengths), rel=1e-11)


@pytest.mark.parametrize("frames", [*range(3, 18), 31, 32, 33, 63, 64, 65])
def test_alignment_by_lengths_alone_is_what_each_next_frame_prefers(frames):
    lengths = [0.7, 9.1, 3.3]
    found = np.diff(align(np.full((frames, 3), -2.5), np.array(lengths))).tolist()
    assert found == reference.likeliest_lengths(frames, lengths)


def test_alignment_closed_forms():
    assert align(np.zeros((5, 1))).tolist() == [0, 5]
    assert align(np.zeros((5, 5)), np.full(5, 30.0)).tolist() == [0, 1, 2, 3, 4, 5]
    assert align(np.zeros((5, 3))).tolist() == [0, 1, 2, 5]  # the last entry starts as early as it can
    assert align(np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]])).tolist() == [0, 2, 3]
    only = np.full((60, 3), -math.inf)
    only[:10, 0] = only[10:55, 1] = only[55:, 2] = -1
    for lengths in (None, [30.0, 0.3, 2.0]):
        assert align(only, None if lengths is None else np.array(lengths)).tolist() == [0, 10, 55, 60]


def test_an_impossible_frame_ends_a_run():
    log_probs = np.zeros((7, 2))
    log_probs[:, 1] = 5
    log_probs[4, 1] = -math.inf  # the last entry, which would take all but one frame, must start behind it
    for lengths in (None, np.array([1.0, 6.0])):
        assert align(log_probs, lengths).tolist() == [0, 5, 7]


@pytest.mark.parametrize(
    ("log_probs", "lengths", "message"),
    [
        (np.zeros(3), None, r"log_probs \(T, L\), no size 0, found \(3,\) float64"),
        (np.zeros((3, 0)), None, r"no size 0, found \(3, 0\)"),
        (np.zeros((2, 3)), None, "a frame for each of 3 entries at least, found 2 frames"),
        (np.array([[0.0], [math.nan]]), None, r"numbers below infinity, found nan at \(1, 0\), the first of 1"),
        (np.array([[0.0, math.inf], [math.inf, 0]]), None, r"found inf at \(0, 1\), the first of 2"),
        (np.full((3, 1), -1e308), None, "too large for float64"),
        (np.zeros((3, 2)), np.ones(3), r"mean_lengths \(L,\), no size 0, found \(3, 2\) float64 and \(3,\)"),
        (np.zeros((3, 2)), np.array([1.0, 0.0]), "mean_lengths: expected finite numbers above 0, found 0.0 at 1"),
        (np.zeros((3, 2)), np.array([math.nan, 1.0]), "above 0, found nan at 0"),
        (np.array([[0.0], [-math.inf]]), None, "no alignment of 2 frames to 1 entries is possible"),
        (np.array([[0.0, 0.0], [0.0, -math.inf]]), np.ones(2), "no alignment of 2 frames to 2 entries is possible"),
    ],
)
def test_alignment_refuses_bad_input_in_one_line(log_probs, lengths, message):
    with pytest.raises(ValueError, match=message) as error:
        align(log_probs, lengths)
    assert "\n" not in str(error.value)


def test_inputs_stay_as_they_were():
    log_probs, lengths = np.zeros((4, 2), dtype=np.float32), np.array([1, 2])
    log_probs[0, 1] = -math.inf
    kept = log_probs.copy()
    align(log_probs, lengths)
    assign_steps(np.zeros((4, 2)))
    np.testing.assert_array_equal(log_probs, kept)
    assert lengths.tolist() == [1, 2]


def test_frame_labels():
    assert frame_labels(np.array([0, 2, 3])).tolist() == [0, 0, 1]
    assert frame_labels(np.array([0, 2, 3])).dtype == np.int64
    for wrong, message in [
        ([1, 2], "from 0 on"),
        ([0, 3, 2], "not decreasing"),
        ([0], "two or more"),
        ([0.0, 1.0], r"boundaries \(L . 1,\) integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            frame_labels(np.array(wrong))


def test_overlap_closed_forms():
    aligned = np.array([[0, 2], [2, 6], [6, 7], [7, 9]])
    annotated = np.array([[0, 2], [4, 5], [5, 9], [0, 7]])
    iou, iod = segment_overlap(aligned, annotated)
    np.testing.assert_allclose(iou, [100, 25, 25, 0])
    np.testing.assert_allclose(iod, [100, 25, 100, 0])
    background = np.array([True, False, False, True])
    assert (foreground_mean(iou, background), foreground_mean(iod, background)) == (25, 62.5)
    assert math.isnan(foreground_mean(iou, np.ones(4, dtype=bool)))
    iou, _ = segment_overlap(np.array([[0.5, 1.75]]), np.array([[1.0, 2.0]]))
    np.testing.assert_allclose(iou, [50])


@pytest.mark.parametrize("seed", range(3))
def test_overlap_equals_counting_frames(seed):
    generator = np.random.default_rng(seed)
    aligned, annotated = np.sort([generator.choice(30, (2, 2), replace=False) for _ in range(2)], axis=2)
    for index, (iou, iod) in enumerate(zip(*segment_overlap(aligned, annotated), strict=True)):
        found, known = set(range(*aligned[index])), set(range(*annotated[index]))
        assert iou == pytest.approx(100 * len(found & known) / len(found | known))
        assert iod == pytest.approx(100 * len(found & known) / len(found))


def test_overlap_refuses_bad_input():
    good = np.array([[0.0, 1.0]])
    for aligned, annotated, message in [
        (good, np.array([[0.0, 1.0], [1.0, 2.0]]), r"aligned \(L, 2\) and annotated \(L, 2\), found"),
        (np.array([0.0, 1.0]), np.array([0.0, 1.0]), r"aligned \(L, 2\) and annotated \(L, 2\), found"),
        (
            np.array([[1.0, 1.0]]),
            good,
            r"aligned: expected segments that end after their start, found \[1.0, 1.0\] at 0",
        ),
        (good, np.array([[2.0, 1.0]]), r"annotated: .* found \[2.0, 1.0\] at 0"),
        (good, np.array([[0.0, math.nan]]), r"annotated: .* found \[0.0, nan\] at 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            segment_overlap(aligned, annotated)
    for background in (np.array([False, True]), np.array([0])):
        with pytest.raises(ValueError, match="bool"):
            foreground_mean(np.array([1.0]), background)


def test_frame_accuracy():
    truth = np.array([9, 9, 1, 2])
    assert frame_accuracy(np.array([9, 1, 1, 3]), truth) == 50
    assert frame_accuracy(np.array([9, 1, 1, 3]), truth, ignore=9) == 50
    assert frame_accuracy(np.array([0, 0, 1, 2]), truth, ignore=9) == 100
    assert math.isnan(frame_accuracy(truth[:2], truth[:2], ignore=9))
    with pytest.raises(ValueError, match=r"predicted \(T,\) integers and truth \(T,\) integers, found"):
        frame_accuracy(truth, truth[:2])
    with pytest.raises(ValueError, match="integers"):
        frame_accuracy(truth.astype(float), truth)


@pytest.fixture(scope="module")
def annotated_video(annotations):
    """Classes of the transcript (L,), true class of each frame (T,), mean lengths of the classes in frames (C,)."""
    folder = annotations / "mining_youtube" / "alignment_example"
    classes = (folder / "weakYouTube_dict.txt").read_text().split()
    lengths = np.array((folder / "weakYouTube_length.txt").read_text().split(), dtype=np.float64)
    number = {name: index for index, name in enumerate(classes)}
    read = {
        suffix: [number[word] for word in next(folder.glob(f"*/-1okAudsnAc.{suffix}")).read_text().split()]
        for suffix in ("gt", "grammar")
    }
    return np.array(read["grammar"]), np.array(read["gt"]), lengths


def test_alignment_finds_the_segments_of_an_annotated_video(annotated_video):
    transcript, truth, lengths = annotated_video
    assert (len(transcript), len(truth), len(lengths)) == (10, 3374, 513)
    changes = np.flatnonzero(np.diff(truth)) + 1
    boundaries = np.concatenate([[0], changes, [len(truth)]])
    assert truth[boundaries[:-1]].tolist() == transcript.tolist()
    background = transcript == 512
    log_probs = np.where(truth[:, None] == np.arange(513), math.log(0.9), math.log(0.1 / 512))
    for mean_lengths in (None, lengths[transcript]):
        found = align(log_probs[:, transcript], mean_lengths)
        assert found.tolist() == boundaries.tolist()
        segments = np.column_stack([found[:-1], found[1:]])
        for overlap in segment_overlap(segments, np.column_stack([boundaries[:-1], boundaries[1:]])):
            assert foreground_mean(overlap, background) == 100
        predicted = transcript[frame_labels(found)]
        assert frame_accuracy(predicted, truth) == frame_accuracy(predicted, truth, ignore=512) == 100


def test_uniform_probabilities_split_a_video_as_the_lengths_say(annotated_video):
    transcript, truth, lengths = annotated_video
    assert (lengths == 150).all()  # the file holds one placeholder for all classes
    uniform = np.full((len(truth), len(transcript)), math.log(1 / 513))
    found = np.diff(align(uniform, lengths[transcript]))
    assert sorted(found.tolist()) == [337] * 6 + [338] * 4  # 3374 frames in ten
    known = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(truth)) + 1, [len(truth)]]))
    assert np.diff(align(uniform, known)).tolist() == known.tolist()
    halves = [np.diff(align(uniform[::2], known / 2)), reference.likeliest_lengths(len(uniform[::2]), known / 2)]
    found, expected = (
        sum(reference.poisson(int(n), mean / 2) for n, mean in zip(x, known, strict=True)) for x in halves
    )
    assert found == pytest.approx(expected, rel=1e-12)
