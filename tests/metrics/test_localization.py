"""Steps found in a video, against enumeration, plain loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from references import localization as reference

from mcn_lightning.metrics import (
    StepCounts,
    assign_steps,
    average_precision,
    mean_average_precision,
    recall_mean_over_videos,
    recall_pooled,
    step_hits,
    step_scores,
)
from metrics.score_matrices import MANY, REAL, WHOLE, last_first, matrices


@MANY
@given(matrices(WHOLE))
def test_assignment_equals_enumeration_with_ties(scores):
    found = tuple(assign_steps(scores).tolist())
    every = reference.assignments(scores)
    highest = max(every.values())
    assert found == min((chosen for chosen, total in every.items() if total == highest), key=last_first)
    assert highest == reference.assignment_total(scores)


@MANY
@given(matrices(REAL))
def test_assignment_of_real_scores_is_the_best(scores):
    every = reference.assignments(scores)
    assert every[tuple(assign_steps(scores).tolist())] == pytest.approx(max(every.values()), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_assignment_of_medium_size_is_the_best(seed):
    scores = np.random.default_rng(seed).normal(size=(300, 12))
    chosen = assign_steps(scores)
    assert chosen.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert scores[chosen, np.arange(12)].sum() == pytest.approx(reference.assignment_total(scores), rel=1e-12)


def test_assignment_closed_forms():
    assert assign_steps(np.eye(4)).tolist() == [0, 1, 2, 3]
    assert assign_steps(np.zeros((6, 3))).tolist() == [0, 1, 2]
    assert assign_steps(np.array([[0.0, 9.0], [9.0, 0.0], [0.0, 1.0]])).tolist() == [1, 2]  # order forbids 9 and 9
    assert assign_steps(np.array([[1.0], [3.0], [2.0]], dtype=np.float16)).tolist() == [1]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((2, 3)), "a second for each of 3 steps at least, found 2 seconds"),
        (np.zeros(3), r"scores \(T, S\), no size 0, found \(3,\) float64"),
        (np.zeros((3, 0)), r"no size 0, found \(3, 0\)"),
        (np.array([[0.0], [math.nan]]), r"scores: expected finite numbers, found nan at \(1, 0\)"),
        (np.array([[-math.inf, 0.0], [0.0, 0.0]]), r"found -inf at \(0, 0\)"),
    ],
)
def test_assignment_refuses_bad_scores_in_one_line(scores, message):
    with pytest.raises(ValueError, match=message) as error:
        assign_steps(scores)
    assert "\n" not in str(error.value)


def test_hits_are_annotated_seconds():
    truth = np.array([[True, False, False], [True, True, False], [False, False, False]])
    assert step_hits(np.array([0, 1, 2]), truth).tolist() == [True, True, False]
    assert step_hits(np.array([2, 0, 0]), truth).tolist() == [False, False, False]
    for assigned, wrong, message in [
        ([0, 1], truth, r"assigned \(S,\) integers and truth \(T, S\) bool, found \(2,\)"),
        ([0, 1, 2], truth.astype(int), "bool"),
        ([0, 1, 3], truth, "from 0 to 2"),
        ([0, -1, 2], truth, "from 0 to 2"),
        ([0.0, 1.0, 2.0], truth, r"assigned \(S,\) integers .* found \(3,\) float64"),
    ]:
        with pytest.raises(ValueError, match=message):
            step_hits(np.array(assigned), wrong)


@pytest.mark.parametrize("softmax", ["none", "steps", "all"])
def test_steps_are_put_by_the_scores_of_the_reference(softmax):
    columns, chosen = [3, 0, 3], set()
    for seed in range(30):
        similarities = 3 * np.random.default_rng(seed).standard_normal((8, 6))
        found = tuple(assign_steps(step_scores(similarities, columns, softmax)).tolist())
        assert found == reference.steps_found(similarities, columns, softmax)
        others = [tuple(assign_steps(step_scores(similarities, columns, one)).tolist()) for one in ("none", "steps")]
        chosen.add(others[0] == others[1])
    assert chosen == {True, False}  # the protocols differ on some videos


def test_scores_of_steps_closed_forms():
    similarities = np.array([[1000.0, 1000.0, 0.0], [0.0, -1000.0, 1000.0]])
    assert step_scores(similarities, slice(0, 2), "none").tolist() == [[1000, 1000], [0, -1000]]
    half = np.log(0.5)
    assert step_scores(similarities, [0, 1], "steps").tolist() == [[half, half], [0, -1000]]
    assert step_scores(similarities, [0, 1], "all").tolist() == [[half, half], [-1000, -2000]]
    assert step_scores(similarities, [0, 0], "steps")[1].tolist() == [half, half]  # a step that comes twice
    assert step_scores(similarities, [], "steps").shape == (2, 0)


def test_the_two_recalls_differ_by_their_weights():
    videos = [StepCounts("tea", 1, 1), StepCounts("tea", 1, 4), StepCounts("jam", 0, 3), StepCounts("tea", 0, 0)]
    assert recall_pooled(videos) == pytest.approx((100 * 2 / 5 + 0) / 2)
    assert recall_mean_over_videos(videos) == pytest.approx((100 * (1 + 1 / 4) / 2 + 0) / 2)
    for recall in (recall_pooled, recall_mean_over_videos):
        assert recall(videos[::-1]) == pytest.approx(recall(videos))
        assert recall([StepCounts("tea", 3, 3), StepCounts("jam", 0, 0)]) == 100
        assert recall([("tea", np.int64(1), np.int64(2))]) == 50
        with pytest.raises(ValueError, match="none of 1 videos has an annotated step"):
            recall([StepCounts("tea", 0, 0)])
        for counts in ((3, 2), (-1, 2), (1, 0)):
            with pytest.raises(ValueError, match="from 0 to the number of annotated"):
                recall([StepCounts("tea", *counts)])


@MANY
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=12))
def test_average_precision_equals_the_sum_over_thresholds(pairs):
    scores, truth = (np.array(column) for column in zip(*pairs, strict=True))
    found = average_precision(scores[:, None], truth[:, None])
    assert found.shape == (1,)
    if truth.any():
        assert found[0] == pytest.approx(100 * reference.average_precision(scores.tolist(), truth.tolist()))
    else:
        assert math.isnan(found[0])


def test_average_precision_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    scores = np.column_stack([generator.normal(size=(500, 3)), generator.integers(0, 9, (500, 3))])
    truth = generator.random((500, 6)) < 0.1
    expected = [100 * metrics.average_precision_score(truth[:, i], scores[:, i]) for i in range(6)]
    np.testing.assert_allclose(average_precision(scores, truth), expected, rtol=1e-12)


def test_average_precision_closed_forms():
    truth = np.array([[True, True, True, False], [False, False, False, False], [True, False, False, False]])
    scores = np.array([[3.0, 1.0, 0.0, 1.0], [1.0, 2.0, 0.0, 2.0], [2.0, 0.0, 0.0, 3.0]])
    found = average_precision(scores, truth)
    np.testing.assert_allclose(found, [100, 50, 100 / 3, np.nan])
    assert mean_average_precision(found) == pytest.approx((100 + 50 + 100 / 3) / 3)
    with pytest.raises(ValueError, match="none of 2 steps is annotated"):
        mean_average_precision(np.full(2, np.nan))


@pytest.mark.parametrize(
    ("scores", "truth", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1), dtype=bool), r"truth \(N, S\) bool, no size 0, found .* \(3, 1\) bool"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "found .* float64 and .* float64"),
        (np.zeros((0, 2)), np.zeros((0, 2), dtype=bool), "no size 0"),
        (np.full((1, 1), math.inf), np.ones((1, 1), dtype=bool), r"finite numbers, found inf at \(0, 0\)"),
    ],
)
def test_average_precision_refuses_bad_input(scores, truth, message):
    with pytest.raises(ValueError, match=message):
        average_precision(scores, truth)
