"""Ranks of true items and their summary, against the brute-force reference and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from references import full_video
from references import retrieval as reference

from mcn_lightning.metrics import RetrievalRecall, expected_ranks, item_ranks, retrieval_metrics, ties
from metrics.score_matrices import integer_embeddings


def test_reference_formula_equals_the_mean_over_all_tie_orders():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        row = torch.randint(0, 3, (5,), generator=generator).tolist()
        for target in range(5):
            assert reference.expected_rank(row, target) == pytest.approx(
                reference.expected_rank_over_orders(row, target)
            )


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("chunk", [1, 3, 7, 1024])
def test_ranks_equal_the_reference_with_many_ties(seed, chunk):
    queries, gallery = integer_embeddings(17, 3, seed), integer_embeddings(11, 3, seed + 100)
    targets = torch.randint(0, 11, (17,), generator=torch.Generator().manual_seed(seed))
    ranks = expected_ranks(queries, gallery, targets, chunk=chunk)
    assert ranks.dtype == torch.float64
    assert ranks.tolist() == reference.expected_ranks(queries, gallery, targets.tolist())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_the_best_of_several_rows_of_an_item_counts(seed, chunk):
    queries, gallery = integer_embeddings(9, 3, seed), integer_embeddings(14, 3, seed + 100)
    generator = torch.Generator().manual_seed(seed)
    gallery_items = torch.randint(0, 6, (14,), generator=generator) * 10 - 20  # any numbers, in any order
    query_items = gallery_items[torch.randint(0, 14, (9,), generator=generator)]
    rows = reference.scores(queries, gallery)
    expected = [
        float(full_video.first_rank(row, [other == item for other in gallery_items.tolist()]))
        for row, item in zip(rows, query_items.tolist(), strict=True)
    ]
    found = item_ranks(queries, gallery, query_items, gallery_items, chunk)
    assert found.dtype == torch.float64 and found.tolist() == pytest.approx(expected)
    lost = item_ranks(queries, gallery, torch.where(query_items == query_items[0], 7, query_items), gallery_items)
    assert lost[query_items == query_items[0]].isinf().all() and lost[query_items != query_items[0]].isfinite().all()


def test_one_row_an_item_is_the_plain_rank():
    queries, gallery = integer_embeddings(17, 3, 1), integer_embeddings(11, 3, 2)
    targets = torch.randint(0, 11, (17,), generator=torch.Generator().manual_seed(0))
    items = torch.randperm(11, generator=torch.Generator().manual_seed(1)) * 3
    assert torch.equal(item_ranks(queries, gallery, items[targets], items), expected_ranks(queries, gallery, targets))
    with pytest.raises(
        ValueError, match=r"query_items \(N_q,\) int64, no size 0, found \(17, \d+\) float32 and \(11,\)"
    ):
        item_ranks(queries, gallery, items, items)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_the_reference_on_real_valued_rows(seed):
    torch.manual_seed(seed)
    queries, gallery = torch.randn(20, 16), torch.randn(33, 16)
    targets = torch.randint(0, 33, (20,))
    assert expected_ranks(queries, gallery, targets).tolist() == reference.expected_ranks(
        queries, gallery, targets.tolist()
    )


@pytest.mark.parametrize("count", [1, 2, 7, 1000, 1025])
@pytest.mark.parametrize("width", [64, 300])
def test_constant_embeddings_rank_at_chance(count, width):
    """Equal rows would not tie by the matrix product alone: its last bit depends on the column."""
    torch.manual_seed(0)
    queries, gallery = torch.randn(width).expand(count, width), torch.randn(width).expand(count, width)
    ranks = expected_ranks(queries, gallery, torch.arange(count), chunk=100)
    assert ranks.tolist() == [(count + 1) / 2] * count


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_repeated_gallery_rows_tie_exactly_wherever_they_stand(chunk):
    torch.manual_seed(0)
    rows = torch.randn(50, 301)
    gallery = rows.repeat(3, 1)[torch.randperm(150)]
    queries = torch.randn(9, 301)
    ranks = expected_ranks(queries, gallery, torch.arange(9), chunk=chunk)
    # three copies in a block that starts at 1, 4, 7, ...: the expected rank is the middle one
    assert ((ranks - 2) % 3 == 0).all()


def test_ranks_do_not_depend_on_how_many_scores_fit_in_memory(monkeypatch):
    queries, gallery = integer_embeddings(40, 5, 0), integer_embeddings(30, 5, 1)
    targets = torch.arange(40) % 30
    expected = reference.expected_ranks(queries, gallery, targets.tolist())
    for most in (1, 29, 95, 10_000):
        monkeypatch.setattr(ties, "MAX_SCORES", most)
        assert ties.rows_at_once(7, 30) == max(1, min(7, most // 30))
        assert expected_ranks(queries, gallery, targets).tolist() == expected


@pytest.mark.parametrize("repeated", [False, True])
def test_a_gpu_counts_the_same_ranks_by_comparisons(repeated):
    scores = integer_embeddings(30, 50, 0)
    own, copies = scores[:, 3], torch.arange(50) % 3 + 1 if repeated else None
    each = [1] * 50 if copies is None else copies.tolist()
    repeats = [[value for value, count in zip(row, each, strict=True) for _ in range(count)] for row in scores.tolist()]
    expected = [reference.expected_rank(row, sum(each[:3])) for row in repeats]
    assert ties.rank_by_counts(scores, own, copies).tolist() == expected
    assert ties.expected_rank(scores, own, copies).tolist() == expected


def test_memory_for_scores_is_bounded_whatever_the_gallery():
    assert ties.rows_at_once(1024, 3_350) == 1024
    assert ties.rows_at_once(1024, 100_000) == 671
    assert ties.rows_at_once(1024, 10**9) == 1


def test_negative_zero_is_zero():
    gallery = torch.tensor([[0.0, 1.0, 2.0], [-0.0, 1.0, 2.0], [1.0, 0.0, 0.0]])
    rows, column, copies = ties.distinct_rows(gallery)
    assert rows.tolist() == [[0, 1, 2], [1, 0, 0]] or rows.tolist() == [[1, 0, 0], [0, 1, 2]]
    assert torch.equal(rows[column], gallery)
    assert sorted(copies.tolist()) == [1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keys", ["own", "all the same"])
def test_distinct_rows_are_those_of_a_set_even_where_keys_collide(dtype, keys, monkeypatch):
    rows = integer_embeddings(3000, 4, 0).to(dtype)
    if keys == "all the same":
        monkeypatch.setattr(ties, "_row_keys", lambda rows: torch.zeros(len(rows), dtype=torch.int64))
    distinct, column, copies = ties.distinct_rows(rows)
    assert {tuple(row) for row in distinct.tolist()} == {tuple(row) for row in rows.tolist()}
    assert len({tuple(row) for row in distinct.tolist()}) == len(distinct)
    assert torch.equal(distinct[column], rows)
    assert torch.equal(copies, torch.bincount(column))


def test_rows_without_equals_are_not_copied():
    rows = torch.randn(3000, 4)
    distinct, column, copies = ties.distinct_rows(rows)
    assert distinct.data_ptr() == rows.data_ptr()
    assert torch.equal(column, torch.arange(3000))
    assert (copies == 1).all()


def test_low_precision_input_is_scored_in_float32():
    queries, gallery = integer_embeddings(6, 400, 0), integer_embeddings(6, 400, 1)
    targets = torch.arange(6)
    expected = expected_ranks(queries, gallery, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(expected_ranks(queries.bfloat16(), gallery.half(), targets), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.ones(2, 3)}, r"gallery \(N, D\), no size 0, found \(2, 3\) float32 and \(5, 4\)"),
        ({"queries": torch.ones(2)}, r"queries \(N_q, D\) .* found \(2,\) float32"),
        ({"queries": torch.ones(0, 4), "targets": torch.ones(0, dtype=torch.int64)}, r"no size 0, found \(0, 4\)"),
        ({"gallery": torch.ones(0, 4)}, r"and \(0, 4\) float32"),
        ({"targets": torch.tensor([0, 5])}, "gallery rows from 0 to 4, found 5 at 1, the first of 1 such"),
        ({"targets": torch.tensor([0, -1])}, "gallery rows from 0 to 4"),
        ({"targets": torch.tensor([0.0, 1.0])}, r"targets \(N_q,\) int64.* \(2,\) float32"),
        ({"targets": torch.tensor([0])}, r"targets \(N_q,\) int64.* and \(1,\) int64"),
        ({"chunk": 0}, "chunk: expected a whole number above 0, found 0"),
        (
            {"queries": torch.tensor([[1.0] * 4, [math.nan] * 4])},
            "queries: expected finite embeddings, found .nan.* at 1, the first of 1 such",
        ),
        (
            {"gallery": torch.full((5, 4), math.inf)},
            "gallery: expected finite embeddings, found .inf.* at 0, the first of 5 such",
        ),
        ({"queries": torch.full((2, 4), 3e38), "gallery": torch.full((5, 4), 3e38)}, "score is not finite"),
    ],
)
def test_ranks_refuse_bad_input_in_one_line(change, message):
    arguments = {"queries": torch.ones(2, 4), "gallery": torch.ones(5, 4), "targets": torch.tensor([0, 1])}
    with pytest.raises(ValueError, match=message) as error:
        expected_ranks(**(arguments | change))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [1, 2, 9, 10])
def test_summary_equals_the_reference(count):
    ranks = 1 + torch.randint(0, 40, (count,), generator=torch.Generator().manual_seed(count)).double() / 2
    summary = retrieval_metrics(ranks, ks=(1, 5, 10))
    assert list(summary) == ["R@1", "R@5", "R@10", "median_rank", "mean_rank"]
    for k in (1, 5, 10):
        assert float(summary[f"R@{k}"]) == pytest.approx(100 * reference.recall_at(ranks.tolist(), k))
    assert float(summary["median_rank"]) == reference.median_rank(ranks.tolist())
    assert float(summary["mean_rank"]) == pytest.approx(float(ranks.mean()))


def test_infinite_ranks_are_misses():
    summary = retrieval_metrics(torch.tensor([1.0, 3.0, math.inf, math.inf]))
    assert list(summary) == ["R@1", "R@5", "R@10", "R@50", "median_rank", "mean_rank"]
    assert (float(summary["R@1"]), float(summary["R@10"])) == (25, 50)
    assert (float(summary["median_rank"]), float(summary["mean_rank"])) == (math.inf, 2)
    assert float(retrieval_metrics(torch.tensor([math.inf]))["mean_rank"]) == math.inf


@pytest.mark.parametrize("ranks", [torch.tensor([]), torch.tensor([0.5]), torch.tensor([math.nan]), torch.ones(2, 2)])
def test_summary_refuses_what_are_no_ranks(ranks):
    with pytest.raises(ValueError, match="rank"):
        retrieval_metrics(ranks)


@pytest.mark.parametrize("ks", [(), (0,), (1, -5)])
def test_cut_offs_are_checked(ks):
    with pytest.raises(ValueError, match="ks must be"):
        retrieval_metrics(torch.ones(2), ks)
    with pytest.raises(ValueError, match="ks must be"):
        RetrievalRecall(ks=ks)
