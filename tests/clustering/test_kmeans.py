"""k-means against the slow formula, and what it does with empty clusters and bad input."""

import pytest
import torch
from processes import run
from references import clustering as reference

from mcn_lightning.clustering import KMeans, assign
from mcn_lightning.clustering import kmeans as kmeans_module
from mcn_lightning.clustering import nearest as nearest_module
from mcn_lightning.clustering.rows import Rows

WAYS = {"on a CPU": (True, 1), "with K above D": (False, 1), "on a GPU": (False, 4)}
"""Whether products are kept, and the rounds between two questions whether k-means has ended."""


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(kmeans_module, "_plan", lambda rows, clusters: WAYS[request.param])
    return request.param


def blobs(rows=60, dim=4, clusters=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(clusters, dim, generator=generator)
    return centers[torch.arange(rows) % clusters] + 0.7 * torch.randn(rows, dim, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("zero_empty", [True, False])
def test_equals_reference(way, seed, zero_empty):
    rows = blobs(seed=seed)
    init = rows[:5].clone()
    trace = reference.kmeans(rows, init, zero_empty=True)
    if not zero_empty:
        assert not any(trace.emptied), "the reference does not re-seed"
    centroids, labels, report = KMeans(5, reseed_empty=not zero_empty, chunk=7).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert report.iterations == trace.iterations
    assert report.reseeded == 0
    assert torch.equal(report.counts, labels.bincount(minlength=5))
    cosine = torch.nn.functional.cosine_similarity(rows, centroids[labels]).mean()
    assert report.objective == pytest.approx(float(cosine), abs=1e-5)
    assert torch.equal(init, rows[:5])


def test_stops_at_max_iterations(way):
    rows = blobs()
    init = rows[:5]
    trace = reference.kmeans(rows, init, max_iterations=1)
    centroids, labels, report = KMeans(5, max_iterations=1).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert report.iterations == 1


def crowded():
    """Three directions in the plane, and a start in which one centroid is nearest to nothing."""
    angles = torch.cat([base + torch.linspace(-0.1, 0.1, n) for base, n in ((0.0, 8), (1.0, 4), (1.6, 4))])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    return rows, torch.tensor([[1.0, 0.0], [0.3, 1.0], [-1.0, -1.0]])


def test_empty_cluster_becomes_zero_as_released(way):
    rows, init = crowded()
    trace = reference.kmeans(rows, init)
    assert trace.emptied[0] == 1
    centroids, labels, report = KMeans(3, reseed_empty=False).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-6)
    assert torch.equal(centroids[2], torch.zeros(2))
    assert torch.equal(labels, trace.labels)
    assert report.reseeded == 0
    assert report.counts[2] == 0


def test_empty_cluster_is_reseeded(way):
    rows, init = crowded()
    centroids, labels, report = KMeans(3).fit(rows, init)
    again, _, _ = KMeans(3).fit(rows, init)
    assert report.reseeded >= 1
    assert (report.counts > 0).all()
    assert torch.equal(labels, reference.assign(rows, centroids))
    assert torch.equal(centroids, again)
    expected = torch.stack([rows[labels == k].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(centroids, expected, rtol=1e-5, atol=1e-3)


def test_identical_rows_end_at_once(way):
    rows = torch.ones(12, 3)
    centroids, labels, report = KMeans(4).fit(rows)
    assert torch.equal(labels, torch.zeros(12, dtype=torch.int64))
    torch.testing.assert_close(centroids, torch.ones(4, 3))
    assert report.iterations == 1
    assert report.objective == pytest.approx(1.0, abs=1e-6)


def test_as_many_rows_as_clusters(way):
    rows = torch.eye(4)
    _, labels, report = KMeans(4).fit(rows)
    assert sorted(labels.tolist()) == [0, 1, 2, 3]
    assert report.objective == pytest.approx(1.0)


def test_random_rows_follow_the_generator():
    rows = blobs()
    runs = [KMeans(5, max_iterations=3).fit(rows, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_runs_without_gradient_in_float32_under_autocast():
    rows = blobs().requires_grad_()
    plain = KMeans(5).fit(rows, rows[:5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = KMeans(5).fit(rows, rows[:5])
        labels = assign(rows, plain[0])
    assert cast[0].dtype == torch.float32
    assert not cast[0].requires_grad
    assert torch.equal(cast[0], plain[0])
    assert torch.equal(labels, plain[1])


def test_assign_equals_reference():
    generator = torch.Generator().manual_seed(3)
    rows, centroids = torch.randn(23, 3, generator=generator), torch.randn(6, 3, generator=generator)
    centroids[4] = 0
    assert torch.equal(assign(rows, centroids, chunk=5), reference.assign(rows, centroids))


def test_ties_go_to_the_lowest_index_and_zero_has_cosine_zero():
    assert assign(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])).tolist() == [1]
    assert assign(torch.zeros(2, 2), torch.randn(3, 2)).tolist() == [0, 0]
    assert assign(torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [1]


def test_refused():
    with pytest.raises(ValueError, match="num_clusters: expected at most the 3 rows"):
        KMeans(4).fit(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"shape \(2, 2\), found \(3, 2\)"):
        KMeans(2).fit(torch.ones(3, 2), init=torch.ones(3, 2))
    with pytest.raises(ValueError, match="not finite"):
        KMeans(2).fit(torch.full((3, 2), float("nan")))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_found(value):
    rows = blobs()
    rows[37, 2] = value
    with pytest.raises(ValueError, match=r"found 1 of 60 rows .*--model\.optimizer\.lr") as caught:
        KMeans(5, chunk=7).fit((rows[:30], rows[30:]))
    assert "\n" not in str(caught.value)


def test_the_largest_values_are_finite():
    centroids, _, _ = KMeans(2, max_iterations=1).fit(torch.tensor([[3e38, 0.0], [0.0, -3e38]]))
    assert sorted(centroids.tolist()) == torch.tensor([[0.0, -3e38], [3e38, 0.0]]).tolist()


@pytest.mark.parametrize("clusters", [0, -1])
def test_no_clusters_are_refused(clusters):
    with pytest.raises(
        ValueError, match=rf"--model\.clustering\.num_clusters: expected a whole number above 0, found {clusters}"
    ):
        KMeans(clusters)


@pytest.mark.parametrize("seed", range(4))
def test_euclidean_equals_reference(way, seed):
    rows = blobs(seed=seed) + 5
    trace = reference.kmeans(rows, rows[:5], metric="euclidean")
    assert not any(trace.emptied)
    centroids, labels, report = KMeans(5, chunk=7, metric="euclidean").fit(rows, rows[:5])
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert torch.equal(assign(rows, centroids, metric="euclidean"), labels)
    assert report.iterations == trace.iterations
    assert report.objective == pytest.approx(reference.objective(rows, centroids, "euclidean"), rel=1e-5)


def empty_start(metric, rows=40):
    """Rows for six clusters, and a start in which three centroids are nearest to nothing."""
    values = blobs(rows, seed=3).abs()
    init = torch.cat([values[:3], -100 * (1 + torch.arange(12.0).reshape(3, 4))])
    assert len(reference.assign(values, init, metric).unique()) <= 3
    return values, init


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_reseeding_equals_reference(way, metric):
    rows, init = empty_start(metric)
    trace = reference.kmeans(rows, init, metric=metric, reseed=True)
    centroids, labels, report = KMeans(6, chunk=7, metric=metric).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert report.iterations == trace.iterations
    assert report.reseeded == sum(trace.emptied) >= 3


def test_share_of_rows_that_changed():
    rows, init = crowded()
    _, labels, report = KMeans(3).fit(rows, init)
    assert report.changed == float((labels != reference.assign(rows, init)).float().mean()) > 0
    assert KMeans(3).fit(rows)[2].changed is None
    assert report.seconds > 0


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(3))
def test_plus_plus_equals_reference(metric, seed):
    rows = blobs(seed=seed)
    shares = torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
    numbers = reference.plus_plus(rows, shares, metric)
    kmeans = KMeans(5, max_iterations=1, metric=metric, init_method="kmeans++", chunk=7)
    found = kmeans.fit((rows[:13], rows[13:]), generator=torch.Generator().manual_seed(seed))
    expected = kmeans.fit(rows, rows[numbers])
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_plus_plus_of_identical_rows():
    centroids, _, _ = KMeans(3, metric="euclidean", init_method="kmeans++").fit(torch.ones(6, 2))
    torch.testing.assert_close(centroids, torch.ones(3, 2))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_parts_of_several_precisions_are_clustered_as_one_tensor(way, metric):
    rows = blobs().bfloat16()
    whole = KMeans(5, chunk=7, metric=metric).fit(rows.float(), rows[:5].float())
    parts = (rows[:20], rows[20:20].float(), rows[20:45].double(), rows[45:].half())
    split = KMeans(5, chunk=7, metric=metric).fit(parts, rows[:5])
    torch.testing.assert_close(split[0], whole[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(split[1], whole[1])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("reseed", [True, False])
def test_the_rounds_between_questions_change_no_bit(metric, reseed, monkeypatch):
    rows, init = empty_start(metric)
    for most, tolerance in ((100, 1e-4), (3, 1e-4), (5, -1.0)):
        kmeans = KMeans(6, most, tolerance, reseed_empty=reseed, chunk=7, metric=metric)
        found = []
        for rounds in (1, 2, 3, 7):
            monkeypatch.setattr(kmeans_module, "_plan", lambda *_, rounds=rounds: (False, rounds))
            found.append(kmeans.fit(rows, init))
        for centroids, labels, report in found[1:]:
            assert torch.equal(centroids, found[0][0]) and torch.equal(labels, found[0][1])
            for name in ("iterations", "objective", "reseeded", "changed"):
                assert getattr(report, name) == getattr(found[0][2], name)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_products_with_centroids_that_stay_are_kept(metric, monkeypatch):
    rows = torch.cat([blobs(600, 24, 12, seed=0), 20 + blobs(30, 24, 2, seed=1)])
    multiplied, linear = [], nearest_module.F.linear
    monkeypatch.setattr(nearest_module.F, "linear", lambda x, y, z=None: multiplied.append(len(y)) or linear(x, y, z))
    options = {"max_iterations": 12, "tolerance": -1.0, "metric": metric, "chunk": 700}
    found = KMeans(12, **options).fit(rows, rows[:12])
    kept = list(multiplied)
    monkeypatch.setattr(kmeans_module, "_plan", lambda *_: (False, 1))
    plain = KMeans(12, **options).fit(rows, rows[:12])
    assert multiplied[len(kept) :] == [12] * 13
    assert kept and max(kept) <= 10 and kept[-1] == 0  # of the 12: the others stayed
    torch.testing.assert_close(found[0], plain[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], plain[1]) and found[2].iterations == plain[2].iterations == 12
    assert found[2].objective == pytest.approx(plain[2].objective, rel=1e-6)


def shares_of(rows, sizes):
    """This process's rows of two tensors, each divided among the processes by shares of its length."""
    from mcn_lightning.distributed import rank

    parts = []
    for part in rows:
        counts = [round(len(part) * size) for size in sizes]
        counts[-1] = len(part) - sum(counts[:-1])
        first = sum(counts[: rank()])
        parts.append(part[first : first + counts[rank()]])
    return parts


CASES = (
    {"start": "empty"},
    {"start": "empty", "metric": "euclidean"},
    {"start": "random"},
    {"start": "kmeans++"},
    {"start": "kmeans++", "metric": "euclidean"},
)


def fit_shares(sizes):
    """Fit this process's shares in every case; only process 0 knows the right seed and start."""
    from mcn_lightning.distributed import rank

    results = []
    for case in CASES:
        options = dict(case)
        rows, start = empty_start(options.get("metric", "cosine"))
        if (method := options.pop("start")) == "empty":
            start = start + 1000 * rank()
        else:
            start, options["init_method"] = None, method
        parts = shares_of((rows[:25], rows[25:]), sizes)
        generator = torch.Generator().manual_seed(11 + 100 * rank())
        results.append((*KMeans(6, chunk=7, **options).fit(parts, start, generator), [len(part) for part in parts]))
    return results


@pytest.mark.parametrize("sizes", [(0.5, 0.5), (0.8, 0.2), (0.0, 1.0)])
def test_two_processes_equal_one(sizes):
    for case, one, *two in zip(CASES, fit_shares((1.0,)), *run(fit_shares, sizes), strict=False):
        assert (one[2].reseeded >= 3) == (case["start"] == "empty"), case
        for centroids, _, report, _ in two:
            assert torch.equal(centroids, two[0][0]), case
            torch.testing.assert_close(centroids, one[0], rtol=1e-5, atol=1e-5)
            for name in ("iterations", "reseeded", "changed"):
                assert getattr(report, name) == getattr(one[2], name), case
            assert report.objective == pytest.approx(one[2].objective, rel=1e-5)
            assert torch.equal(report.counts, one[2].counts), case
        first, second = zip(*(labels.split(lengths) for _, labels, _, lengths in two), strict=True)
        assert torch.equal(torch.cat([*first, *second]), one[1]), case


def refusals_of_a_process():
    """What each process says of faults that only process 1 has."""
    from mcn_lightning.distributed import rank

    rows, said = blobs(8), []
    broken = rows.clone()
    if rank():
        broken[1, 1] = float("nan")
    init = rows[: 2 + rank()]
    for features, start, clusters in ((broken, rows[:2], 2), (rows, init, 2), (rows[: 8 - 8 * rank()], None, 9)):
        try:
            KMeans(clusters).fit(features, start)
        except ValueError as error:
            said.append(str(error))
    return said


def test_all_processes_refuse_what_one_has():
    for said in run(refusals_of_a_process):
        assert len(said) == 3
        assert "1 of 16 rows" in said[0]
        assert "start centroids of shape (2, 4)" in said[1]
        assert "the 8 rows to cluster, found 9" in said[2]


def test_the_running_sum_decides_the_draw():
    rows = Rows([torch.zeros(3, 1), torch.zeros(2, 1)], torch.device("cpu"), 8)
    weights = torch.tensor([1.0, 0.0, 1.0, 0.0, 2.0])
    drawn = [int(rows.sample_row(weights, share)) for share in (0.0, 0.24, 0.25, 0.49, 0.5, 0.99)]
    assert drawn == [0, 0, 2, 2, 4, 4]
    assert [int(rows.sample_row(0 * weights, share)) for share in (0.0, 0.5, 0.99)] == [0, 2, 4]
