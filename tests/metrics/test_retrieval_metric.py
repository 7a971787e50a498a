"""The retrieval metric over batches and processes, ids of items, and the density of queries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from processes import run
from references import retrieval as reference

from mcn_lightning.distributed import rank
from mcn_lightning.metrics import RetrievalRecall, expected_ranks, item_ranks, query_density, retrieval_metrics
from mcn_lightning.metrics.items import first_of_each, gather_rows, hash_ids, rows_of


def test_ids_become_the_same_numbers_in_every_run():
    # printf 'abc:0' | b2sum -l 64
    assert hash_ids(["abc:0", "ü"]).tolist() == hash_ids(("abc:0", "ü")).tolist()
    assert hash_ids(["abc:0"]).item() == -3317401748757729085
    assert hash_ids([]).shape == (0,)
    for wrong in ("abc", [1, 2]):
        with pytest.raises(ValueError, match="sequence of strings"):
            hash_ids(wrong)


def test_first_of_each_keeps_the_first_row_of_an_id():
    rows = first_of_each(torch.tensor([7, -3, 7, 5, -3]))
    assert rows.tolist() == [1, 3, 0]
    assert first_of_each(torch.tensor([], dtype=torch.int64)).shape == (0,)


def test_rows_are_found_in_a_list_of_tensors():
    whole = torch.randn(9, 2)
    numbers = torch.tensor([8, 0, 5, 4])
    for state in (whole, [whole], [whole[:4], whole[4:4], whole[4:6], whole[6:]]):
        assert torch.equal(rows_of(state, numbers), whole[numbers])


def pairs(count=37, width=12, seed=0):
    torch.manual_seed(seed)
    gallery = torch.randn(count, width)
    return [f"video{i}:0" for i in range(count)], gallery + 0.8 * torch.randn(count, width), gallery


def plain(result):
    return {name: float(value) for name, value in result.items()}


def test_batches_equal_all_at_once_in_any_order():
    ids, queries, gallery = pairs()
    whole = RetrievalRecall()
    whole.update(ids, queries, gallery)
    summary = plain(whole.compute())
    assert summary == plain(retrieval_metrics(expected_ranks(queries, gallery, torch.arange(37))))
    assert 0 < summary["R@1"] < 100
    parts = RetrievalRecall(chunk=5, compute_on_cpu=True)
    order = torch.randperm(37).tolist()
    for start in range(0, 37, 10):
        rows = order[start : start + 10]
        parts.update([ids[i] for i in rows], queries[rows], gallery[rows])
    assert plain(parts.compute()) == summary
    parts.reset()
    parts.update(ids, queries, gallery)
    assert plain(parts.compute()) == summary


def captioned(clips=8, each=5, width=12, seed=3):
    """Rows of clips with several captions, as evaluation gives them: the features of a clip come again in each."""
    torch.manual_seed(seed)
    gallery = torch.randn(clips, width)
    rows = [(clip, caption) for clip in range(clips) for caption in range(each)]
    items = [f"clip{clip}" for clip, _ in rows]
    features = torch.stack([gallery[clip] for clip, _ in rows])
    return (
        [f"clip{clip}#{caption}" for clip, caption in rows],
        items,
        features + 3 * torch.randn(len(rows), width),
        features,
    )


@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_several_captions_of_an_item_are_ranked_among_items(side):
    ids, items, texts, features = captioned()
    metric = RetrievalRecall(captions=side)
    order = torch.randperm(40).tolist()
    for start in range(0, 40, 7):
        rows = order[start : start + 7]
        first, second = (texts, features) if side == "queries" else (features, texts)
        metric.update([ids[i] for i in rows], first[rows], second[rows], [items[i] for i in rows])
    summary = plain(metric.compute())
    clips = torch.arange(8).repeat_interleave(5)
    if side == "queries":
        ranks = item_ranks(texts, features[::5], clips, torch.arange(8))
        assert (metric.ranking.queries, metric.ranking.items) == (40, 8)
        assert torch.equal(metric.ranking.ids, hash_ids(ids).sort().values)
    else:
        ranks = item_ranks(features[::5], texts, torch.arange(8), clips)
        assert (metric.ranking.queries, metric.ranking.items) == (8, 40)
        assert torch.equal(metric.ranking.ids, hash_ids(items[::5]).sort().values)
    assert summary == pytest.approx(plain(retrieval_metrics(ranks)))
    assert 0 < summary["R@1"] < 100
    plainly = RetrievalRecall()
    plainly.update(ids, texts, features)
    assert plain(plainly.compute())["R@1"] == 0  # copies of one clip tie: what this is about


def test_a_side_that_is_absent_contributes_no_rows():
    ids, queries, gallery = pairs()
    has_query, has_item = torch.ones(37, dtype=torch.bool), torch.ones(37, dtype=torch.bool)
    has_query[[0, 5]], has_item[[5, 9, 20]] = False, False
    metric = RetrievalRecall()
    metric.update(ids, queries, gallery, (), has_query, has_item)
    summary = plain(metric.compute())
    kept = (has_query & has_item).nonzero()[:, 0]  # 9 and 20 ask for what is not there
    items = has_item.nonzero()[:, 0]
    ranks = item_ranks(queries[kept], gallery[items], kept, items)
    assert summary == plain(retrieval_metrics(ranks))
    assert (metric.ranking.queries, metric.ranking.items) == (33, 34)
    metric.reset()
    metric.update(ids[:2], queries[:2], gallery[:2], (), torch.tensor([True, False]), torch.tensor([False, True]))
    with pytest.raises(ValueError, match="no query whose item is in the gallery"):
        metric.compute()
    with pytest.raises(ValueError, match=r"has_item \(B,\) bool, found .* \(37,\) int64"):
        metric.update(ids, queries, gallery, (), has_query, has_item.long())


def test_ranks_come_with_the_hashes_of_their_ids_in_one_order():
    ids, queries, gallery = pairs()
    metric = RetrievalRecall()
    order = torch.randperm(37).tolist()
    for rows in (order[:20], order[15:]):
        metric.update([ids[i] for i in rows], queries[rows], gallery[rows])
    found = plain(metric.compute())
    hashes, ranks = metric.ranking.ids, metric.ranking.ranks
    assert torch.equal(hashes, hash_ids(ids).sort().values)
    expected = expected_ranks(queries, gallery, torch.arange(37))
    assert torch.equal(ranks, expected[hash_ids(ids).sort().indices])
    assert found == plain(retrieval_metrics(ranks))


def test_an_id_counts_once():
    ids, queries, gallery = pairs()
    metric = RetrievalRecall()
    metric.update(ids, queries, gallery)
    once = plain(metric.compute())
    metric.update(ids[:5], queries[:5], gallery[:5])
    metric.update(ids[:1] * 3, queries[:3], gallery[:3])
    assert plain(metric.compute()) == once


def test_one_item_is_found():
    metric = RetrievalRecall(ks=(1,))
    metric.update(["only"], torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0, 0.0]]))
    assert plain(metric.compute()) == {"R@1": 100, "median_rank": 1, "mean_rank": 1}


def test_collapsed_model_scores_chance():
    metric = RetrievalRecall()
    metric.update([str(i) for i in range(100)], torch.ones(100, 8), torch.ones(100, 8))
    assert plain(metric.compute()) == {"R@1": 0, "R@5": 0, "R@10": 0, "R@50": 0, "median_rank": 50.5, "mean_rank": 50.5}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_an_error():
    with pytest.raises(ValueError, match="RetrievalRecall has seen no items"):
        RetrievalRecall().compute()
    metric = RetrievalRecall()
    metric.update([], torch.ones(0, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="RetrievalRecall has seen no items"):
        metric.compute()


def test_update_refuses_rows_that_do_not_fit():
    metric = RetrievalRecall()
    for ids, queries, gallery in [
        (["a"], torch.ones(2, 3), torch.ones(2, 3)),
        (["a", "b"], torch.ones(2, 3), torch.ones(3, 3)),
        (["a", "b"], torch.ones(2), torch.ones(2)),
    ]:
        with pytest.raises(ValueError, match=r"expected ids \(B,\), queries \(B, D\)"):
            metric.update(ids, queries, gallery)
    metric.update(["a"], torch.ones(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"queries \(B, 3\).* \(1, 4\)"):
        metric.update(["b"], torch.ones(1, 4), torch.ones(1, 4))
    metric.update(["b"], torch.full((1, 3), math.nan), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"found .nan"):
        metric.compute()


def test_state_holds_no_graph():
    metric = RetrievalRecall()
    metric.update(["a"], torch.ones(1, 3, requires_grad=True) * 2, torch.ones(1, 3, dtype=torch.bfloat16))
    assert not metric.queries[0].requires_grad
    assert metric.gallery[0].dtype == torch.float32


def found_on_a_process() -> dict[str, Any]:
    ids, queries, gallery = pairs()
    results = {}
    # as a distributed sampler deals them out: every second item, and the first one again to fill up
    rows = [*range(37), 0][rank() :: 2]
    shared = RetrievalRecall()
    for start in range(0, len(rows), 8):
        part = rows[start : start + 8]
        shared.update([ids[i] for i in part], queries[part], gallery[part])
    results["shared"] = plain(shared.compute())
    results["ranks"] = [shared.ranking.ids.tolist(), shared.ranking.ranks.tolist()]
    names, items, texts, features = captioned()
    several = RetrievalRecall(captions="gallery")
    part = [*range(20 * rank(), 20 * rank() + 20), 0]  # the first process's clips come again on the other
    several.update([names[i] for i in part], features[part], texts[part], [items[i] for i in part])
    results["several"] = [plain(several.compute()), several.ranking.queries, several.ranking.items]
    shared.update([ids[0]], queries[:1], gallery[:1])
    results["again"] = plain(shared.compute())
    idle = RetrievalRecall()
    if rank() == 0:
        idle.update(ids, queries, gallery)
    results["idle"] = plain(idle.compute())
    results["uneven"] = [part.tolist() for part in gather_rows(torch.full((rank(), 2), rank()))]
    results["none"] = [part.tolist() for part in gather_rows(torch.tensor([]))]
    return results


@pytest.mark.filterwarnings("ignore")
def test_two_processes_equal_one():
    both = run(found_on_a_process)
    ids, queries, gallery = pairs()
    alone = RetrievalRecall()
    alone.update(ids, queries, gallery)
    expected = plain(alone.compute())
    ranks = [alone.ranking.ids.tolist(), alone.ranking.ranks.tolist()]
    names, items, texts, features = captioned()
    several = RetrievalRecall(captions="gallery")
    several.update(names, features, texts, items)
    for found in both:
        assert found == {
            "shared": expected,
            "ranks": ranks,
            "several": [plain(several.compute()), 8, 40],
            "again": expected,
            "idle": expected,
            "uneven": [[], [[1, 1]]],
            "none": [[], []],
        }


def test_density_of_clusters_is_that_of_all_their_queries():
    torch.manual_seed(0)
    centroids, gallery, sizes = torch.randn(3, 8), torch.randn(11, 8), torch.tensor([4, 1, 2])
    expected = reference.query_density(gallery, centroids.repeat_interleave(sizes, dim=0), 0.3)
    assert query_density(gallery, centroids, sizes, 0.3).tolist() == pytest.approx(expected, rel=1e-5)
    empty = torch.cat([centroids, 9 * torch.ones(1, 8)]), torch.cat([sizes, torch.tensor([0])])
    assert query_density(gallery, *empty, 0.3).tolist() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(query_density(gallery, centroids[:1], sizes[:1], 0.05), gallery @ centroids[0])
    assert query_density(1e4 * gallery, centroids, sizes, 1e-3).isfinite().all()


def test_a_hub_is_retrieved_less_when_its_density_is_taken():
    queries = torch.eye(4)
    gallery = torch.cat([queries[:3], torch.tensor([[1.1, 1.1, 1.1, 1.2]])])  # the last is nearest to every query
    assert expected_ranks(queries, gallery, torch.arange(4)).tolist() == [2, 2, 2, 1]
    density = query_density(gallery, queries, torch.ones(4), 0.1)
    calibrated = torch.cat([gallery, -0.5 * density[:, None]], dim=1)
    asked = torch.cat([queries, torch.ones(4, 1)], dim=1)
    assert expected_ranks(asked, calibrated, torch.arange(4)).tolist() == [1, 1, 1, 1]
