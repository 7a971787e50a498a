"""Recognition against sorting in every order, at chance, and where torchmetrics favours the first class."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import recognition as reference
from torchmetrics.functional.classification import multiclass_accuracy

from mcn_lightning.metrics import class_metrics, neighbour_metrics, ties


def same(result, expected):
    assert set(result) == set(expected)
    for name, value in expected.items():
        assert result[name].dtype == torch.float32
        assert result[name].tolist() == pytest.approx(value, rel=1e-5, abs=1e-5, nan_ok=True), name


@settings(max_examples=60)
@given(st.data())
def test_classes_equal_the_reference_with_many_ties(data):
    clips, classes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    row = st.lists(st.integers(-1, 1), min_size=classes, max_size=classes)
    scores = data.draw(st.lists(row, min_size=clips, max_size=clips))
    labels = data.draw(st.lists(st.integers(0, classes - 1), min_size=clips, max_size=clips))
    result = class_metrics(torch.tensor(scores).float(), torch.tensor(labels), ks=(1, 2, 9))
    same(result, reference.class_metrics(scores, labels, (1, 2, 9)))


@settings(max_examples=60)
@given(st.data())
def test_neighbours_equal_the_reference_with_many_ties(data):
    """Rows along the axes: their cosines are 0, 1 or -1 whatever their length."""
    clips, train = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    axis = st.tuples(st.integers(0, 2), st.sampled_from([-8.0, -0.5, 0.0, 0.25, 1.0, 1e-30, 1e30]))
    sides = [data.draw(st.lists(axis, min_size=count, max_size=count)) for count in (clips, train)]
    queries, items = (torch.stack([value * torch.eye(3)[number] for number, value in side]) for side in sides)
    labels, train_labels = (
        data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)) for count in (clips, train)
    )
    cosines = (queries.sign() @ items.sign().T).tolist()
    for chunk in (1, 3, 1024):
        result = neighbour_metrics(
            queries, torch.tensor(labels), items, torch.tensor(train_labels), ks=(1, 2, 5), chunk=chunk
        )
        same(result, reference.neighbour_metrics(cosines, labels, train_labels, (1, 2, 5)))


def test_real_valued_neighbours_are_found_by_cosine(monkeypatch):
    torch.manual_seed(0)
    train, train_labels = torch.randn(6, 8), torch.tensor([0, 1, 1, 2, 3, 3])
    queries, labels = torch.randn(30, 8), torch.randint(0, 5, (30,))
    lengths = torch.rand(30, 1) + 0.1
    cosines = torch.cosine_similarity(queries.double()[:, None], train.double(), dim=2).tolist()
    expected = reference.neighbour_metrics(cosines, labels.tolist(), train_labels.tolist(), (1, 3))
    same(neighbour_metrics(lengths * queries, labels, 3 * train, train_labels, ks=(1, 3)), expected)
    monkeypatch.setattr(ties, "MAX_SCORES", 20)
    same(neighbour_metrics(queries, labels, train, train_labels, ks=(1, 3)), expected)
    assert math.isnan(reference.summary([[1.0]], [1], 2, ())["per_class"][0])
    assert expected["per_class"][4] == 0  # a class without training clips is never found


def test_neighbours_by_dot_product_are_those_of_the_reference():
    torch.manual_seed(1)
    train, train_labels = (
        torch.randn(6, 8) * torch.tensor([5.0, 1, 1, 1, 1, 1])[:, None],
        torch.tensor([0, 1, 1, 2, 3, 3]),
    )
    queries, labels = torch.randn(30, 8), torch.randint(0, 4, (30,))
    products = (queries.double() @ train.double().T).tolist()
    expected = reference.neighbour_metrics(products, labels.tolist(), train_labels.tolist(), (1, 3))
    found = neighbour_metrics(queries, labels, train, train_labels, ks=(1, 3), similarity="dot")
    same(found, expected)
    by_cosine = neighbour_metrics(queries, labels, train, train_labels, ks=(1, 3))
    assert by_cosine["per_class"].tolist() != found["per_class"].tolist()  # the long one is near to many
    twice = torch.cat([train, train[:1]])  # equal rows tie exactly
    labels_twice = torch.cat([train_labels, torch.tensor([2])])
    products = (queries.double() @ twice.double().T).tolist()
    same(
        neighbour_metrics(queries, labels, twice, labels_twice, ks=(1, 3), similarity="dot"),
        reference.neighbour_metrics(products, labels.tolist(), labels_twice.tolist(), (1, 3)),
    )


def test_constant_scores_give_chance_where_torchmetrics_favours_class_0():
    labels = torch.arange(40) % 8
    scores = torch.full((40, 8), 0.3)
    result = class_metrics(scores, labels)
    assert (float(result["top1"]), float(result["top5"])) == (12.5, 62.5)
    assert result["per_class"].tolist() == [12.5] * 8
    assert float(result["mean_class"]) == 12.5
    theirs = multiclass_accuracy(scores, torch.zeros_like(labels), num_classes=8, average="micro")
    assert float(theirs) == 1
    assert float(class_metrics(scores, torch.zeros_like(labels))["top1"]) == 12.5


@pytest.mark.parametrize("width", [64, 300])
def test_constant_embeddings_give_chance_by_neighbours(width):
    torch.manual_seed(0)
    constant = torch.randn(width)
    labels, train_labels = torch.arange(50) % 10, torch.arange(100) % 10
    result = neighbour_metrics(constant.expand(50, width), labels, constant.expand(100, width), train_labels)
    assert float(result["top1"]) == pytest.approx(10)
    # five of 100 clips without one of the ten
    assert float(result["top5"]) == pytest.approx(100 * (1 - math.comb(90, 5) / math.comb(100, 5)))


def test_repeated_training_rows_tie_wherever_they_stand():
    torch.manual_seed(0)
    rows = torch.randn(40, 301)
    order = torch.randperm(160)
    train, train_labels = rows.repeat(4, 1)[order], torch.arange(4).repeat_interleave(40)[order]
    result = neighbour_metrics(rows, torch.zeros(40, dtype=torch.int64), train, train_labels, ks=(1, 2, 4))
    assert [float(result[f"top{k}"]) for k in (1, 2, 4)] == pytest.approx([25, 50, 100])


def test_a_class_without_clips_is_nan_and_left_out_of_the_mean():
    scores = torch.tensor([[2.0, 1, 0], [2, 1, 0], [0, 2, 1]])
    result = class_metrics(scores, torch.tensor([0, 0, 2]))
    assert result["per_class"].tolist() == pytest.approx([100, math.nan, 0], nan_ok=True)
    assert float(result["mean_class"]) == 50
    assert float(result["top1"]) == pytest.approx(200 / 3)
    assert float(result["top5"]) == 100


@pytest.mark.parametrize(
    ("scores", "labels", "ks", "message"),
    [
        (torch.ones(3), torch.zeros(3, dtype=torch.int64), (1,), "expected scores"),
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.int64), (1,), "expected scores"),
        (torch.ones(3, 2), torch.zeros(3), (1,), "expected scores"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), (1,), "no size 0"),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), (1,), "labels: expected classes from 0 to 1, found 2 at 2"),
        (torch.ones(3, 2), torch.tensor([0, 1, -1]), (1,), "labels: expected classes from 0 to 1, found -1 at 2"),
        (
            torch.tensor([[0.0, math.nan]]),
            torch.tensor([0]),
            (1,),
            r"scores: expected finite numbers, found nan at \(0, 1\), the first of 1",
        ),
        (torch.ones(1, 2), torch.tensor([0]), (0,), "ks must be"),
    ],
)
def test_bad_scores_are_refused(scores, labels, ks, message):
    with pytest.raises(ValueError, match=message) as error:
        class_metrics(scores, labels, ks)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.ones(2, 3)}, r"gallery \(N, D\), no size 0, found \(2, 3\) float32 and \(3, 4\)"),
        ({"train": torch.ones(0, 4), "train_labels": torch.zeros(0, dtype=torch.int64)}, "no size 0"),
        ({"labels": torch.zeros(2)}, r"labels \(N,\) int64, no size 0, found .* \(2,\) float32"),
        (
            {"train_labels": torch.zeros(1, dtype=torch.int64)},
            r"train_labels \(M,\) int64, no size 0, found \(3, 4\) float32 and \(1,\)",
        ),
        ({"train_labels": torch.tensor([0, -1, 2])}, "train_labels: expected classes from 0 to 2, found -1 at 1"),
        (
            {"train": torch.full((3, 4), math.inf)},
            "gallery: expected finite embeddings, found .inf.* at 0, the first of 3",
        ),
        ({"chunk": 0}, "chunk: expected a whole number above 0, found 0"),
        ({"ks": ()}, "ks must be"),
    ],
)
def test_bad_neighbours_are_refused(change, message):
    arguments = {
        "queries": torch.ones(2, 4),
        "labels": torch.tensor([0, 1]),
        "train": torch.ones(3, 4),
        "train_labels": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(ValueError, match=message) as error:
        neighbour_metrics(**(arguments | change))
    assert "\n" not in str(error.value)
