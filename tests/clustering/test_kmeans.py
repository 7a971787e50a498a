"""k-means against the slow formula, and what it does with empty clusters and bad input."""

import pytest
import torch
from references import clustering as reference

from mcn_lightning.clustering import KMeans, assign
from mcn_lightning.clustering import kmeans as room

ENGINES = ("torch", "faiss")


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "faiss":
        pytest.importorskip("faiss")
    return request.param


def blobs(rows=60, dim=4, clusters=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(clusters, dim, generator=generator)
    return centers[torch.arange(rows) % clusters] + 0.7 * torch.randn(rows, dim, generator=generator)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("zero_empty", [True, False])
def test_equals_reference(engine, seed, zero_empty):
    rows = blobs(seed=seed)
    init = rows[:5].clone()
    trace = reference.kmeans(rows, init, zero_empty=True)
    if not zero_empty:
        assert not any(trace.emptied), "the reference does not re-seed"
    centroids, labels, report = KMeans(5, engine=engine, reseed_empty=not zero_empty, chunk=7).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert report.iterations == trace.iterations
    assert report.reseeded == 0
    assert torch.equal(report.counts, labels.bincount(minlength=5))
    cosine = torch.nn.functional.cosine_similarity(rows, centroids[labels]).mean()
    assert report.objective == pytest.approx(float(cosine), abs=1e-5)
    assert torch.equal(init, rows[:5])


def test_stops_at_max_iterations(engine):
    rows = blobs()
    init = rows[:5]
    trace = reference.kmeans(rows, init, max_iterations=1)
    centroids, labels, report = KMeans(5, max_iterations=1, engine=engine).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, trace.labels)
    assert report.iterations == 1


def crowded():
    """Three directions in the plane, and a start in which one centroid is nearest to nothing."""
    angles = torch.cat([base + torch.linspace(-0.1, 0.1, n) for base, n in ((0.0, 8), (1.0, 4), (1.6, 4))])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    return rows, torch.tensor([[1.0, 0.0], [0.3, 1.0], [-1.0, -1.0]])


def test_empty_cluster_becomes_zero_as_released(engine):
    rows, init = crowded()
    trace = reference.kmeans(rows, init)
    assert trace.emptied[0] == 1
    centroids, labels, report = KMeans(3, engine=engine, reseed_empty=False).fit(rows, init)
    torch.testing.assert_close(centroids.double(), trace.centroids, rtol=1e-5, atol=1e-6)
    assert torch.equal(centroids[2], torch.zeros(2))
    assert torch.equal(labels, trace.labels)
    assert report.reseeded == 0
    assert report.counts[2] == 0


def test_empty_cluster_is_reseeded(engine):
    rows, init = crowded()
    centroids, labels, report = KMeans(3, engine=engine).fit(rows, init)
    again, _, _ = KMeans(3, engine=engine).fit(rows, init)
    assert report.reseeded >= 1
    assert (report.counts > 0).all()
    assert torch.equal(labels, reference.assign(rows, centroids))
    assert torch.equal(centroids, again)
    expected = torch.stack([rows[labels == k].mean(dim=0) for k in range(3)])
    torch.testing.assert_close(centroids, expected, rtol=1e-5, atol=1e-3)


def test_identical_rows_end_at_once(engine):
    rows = torch.ones(12, 3)
    centroids, labels, report = KMeans(4, engine=engine).fit(rows)
    assert torch.equal(labels, torch.zeros(12, dtype=torch.int64))
    torch.testing.assert_close(centroids, torch.ones(4, 3))
    assert report.iterations == 1
    assert report.objective == pytest.approx(1.0, abs=1e-6)


def test_as_many_rows_as_clusters(engine):
    rows = torch.eye(4)
    _, labels, report = KMeans(4, engine=engine).fit(rows)
    assert sorted(labels.tolist()) == [0, 1, 2, 3]
    assert report.objective == pytest.approx(1.0)


def test_random_rows_follow_the_generator():
    rows = blobs()
    runs = [KMeans(5, max_iterations=3).fit(rows, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_runs_without_gradient_in_float32_under_autocast():
    rows = blobs().requires_grad_()
    plain = KMeans(5, engine="torch").fit(rows, rows[:5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = KMeans(5, engine="torch").fit(rows, rows[:5])
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


def test_without_faiss(monkeypatch):
    monkeypatch.setattr(room, "_has_faiss", lambda: False)
    with pytest.raises(ValueError, match="faiss-cpu"):
        KMeans(2, engine="faiss")
    assert KMeans(2, engine="auto").fit(torch.eye(2))[2].iterations == 1
