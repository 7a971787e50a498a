"""Cluster quality against formulas counted pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from references import retrieval as reference

from mcn_lightning.metrics import ClusterQuality, adjusted_rand_index, mean_entropy, purity


def draw(seed, count=40):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    noise = torch.randint(0, 6, (count,), generator=generator)
    kept = torch.rand(count, generator=generator) < 0.6
    return torch.where(kept, labels, noise) * 3 - 1, labels


def quality(assignments, labels):
    metric = ClusterQuality()
    metric.update([str(i) for i in range(len(labels))], assignments, labels)
    return {name: float(value) for name, value in metric.compute().items()}


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_reference(seed):
    assignments, labels = draw(seed)
    lists = assignments.tolist(), labels.tolist()
    assert quality(assignments, labels) == pytest.approx(
        {
            "nmi": reference.nmi(*lists),
            "adjusted_rand_index": reference.adjusted_rand_index(*lists),
            "purity": reference.purity(*lists),
            "mean_entropy": reference.mean_entropy(*lists),
        },
        abs=1e-5,
    )


def test_closed_forms():
    labels = torch.tensor([0, 0, 1, 1])
    perfect = {"nmi": 1, "adjusted_rand_index": 1, "purity": 1, "mean_entropy": 0}
    assert quality(torch.tensor([5, 5, 2, 2]), labels) == pytest.approx(perfect, abs=1e-6)
    collapsed = {"nmi": 0, "adjusted_rand_index": 0, "purity": 0.5, "mean_entropy": math.log(2)}
    assert quality(torch.zeros(4, dtype=torch.int64), labels) == pytest.approx(collapsed, abs=1e-6)
    alone = {"nmi": 0, "adjusted_rand_index": 1, "purity": 1, "mean_entropy": 0}
    assert quality(torch.tensor([3]), torch.tensor([0])) == pytest.approx(alone, abs=1e-6)


def test_rand_index_does_not_overflow():
    labels = torch.arange(200_000) % 2
    assert float(adjusted_rand_index(labels, labels)) == 1
    half = torch.arange(200_000) // 2 % 2
    assert float(adjusted_rand_index(half, labels)) == pytest.approx(0, abs=1e-4)


def test_ids_count_once_and_batches_equal_all_at_once():
    assignments, labels = draw(0)
    ids = [str(i) for i in range(40)]
    metric = ClusterQuality()
    for start in range(0, 40, 13):
        part = slice(start, start + 13)
        metric.update(ids[part], assignments[part].int(), labels[part])
    metric.update(ids[:9], assignments[:9], labels[:9])
    assert {name: float(value) for name, value in metric.compute().items()} == quality(assignments, labels)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bad_input_is_refused():
    whole = torch.tensor([0, 1])
    metric = ClusterQuality()
    with pytest.raises(ValueError, match="ClusterQuality has seen no items"):
        metric.compute()
    with pytest.raises(ValueError, match=r"expected ids \(B,\), assignments"):
        metric.update(["a"], whole, whole)
    with pytest.raises(ValueError, match=r"expected ids \(B,\), assignments"):
        metric.update(["a", "b"], whole, whole[:1])
    with pytest.raises(ValueError, match=r"assignments \(B,\) integers .* found \(2,\) names, \(2,\) float32"):
        metric.update(["a", "b"], whole.float(), whole)
    for function in (purity, mean_entropy, adjusted_rand_index):
        with pytest.raises(ValueError, match=r"found \(2,\) int64 and \(1,\) int64"):
            function(whole, whole[:1])
        with pytest.raises(ValueError, match="no size 0"):
            function(whole[:0], whole[:0])
