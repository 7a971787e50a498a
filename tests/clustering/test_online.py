"""The queue and the clustering of a run: order, wrapping, checkpoints, refusals."""

import copy

import pytest
import torch
from processes import run
from references import clustering as reference

from mcn_lightning.clustering import ClusteringConfig, FeatureQueue, OnlineClustering


def numbered(start, count):
    return torch.arange(start, start + count, dtype=torch.float32)[:, None].repeat(1, 2)


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (1, 5, 2, 7), (7,), (8, 3), (20, 1, 4), (0, 2, 6, 14)])
def test_queue_equals_reference(sizes):
    queue, slow, start = FeatureQueue(7, 2), [], 0
    for size in sizes:
        rows = numbered(start, size)
        queue.push(rows)
        slow = reference.push(slow, rows, 7)
        start += size
        assert sorted(queue.contents().tolist()) == sorted(slow)
        assert queue.full == (len(slow) == 7)
        assert int(queue.filled) == len(slow)
        oldest = int(queue.position) if queue.full else 0
        assert queue.contents().roll(-oldest, dims=0).tolist() == slow


def test_queue_leaves_its_input_alone():
    rows = numbered(0, 4).requires_grad_()
    queue = FeatureQueue(3, 2)
    queue.push(rows)
    queue.push(numbered(9, 2))
    assert torch.equal(rows, numbered(0, 4))
    assert not queue.contents().requires_grad


def test_queue_of_no_rows():
    queue = FeatureQueue(0, 2)
    queue.push(numbered(0, 4))
    assert queue.full
    assert queue.contents().shape == (0, 2)


def test_queue_resumes_where_it_was():
    queue, resumed = FeatureQueue(7, 2), FeatureQueue(7, 2)
    queue.push(numbered(0, 5))
    resumed.load_state_dict(copy.deepcopy(queue.state_dict()))
    for size in (4, 3, 9):
        assert resumed.full == queue.full
        for q in (queue, resumed):
            q.push(numbered(100, size))
        assert torch.equal(queue.contents(), resumed.contents())
        assert torch.equal(queue.position, resumed.position)


def features(rows=12, seed=0):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def small(**options):
    return OnlineClustering(ClusteringConfig(**{"num_clusters": 3, "queue_rows": 8, **options}), 4)


def test_the_first_half_of_each_video_is_pushed():
    clustering = small(queue_rows=20)
    rows = torch.arange(10.0)[:, None].repeat(1, 4)
    clustering.push(rows, 5)
    assert clustering.queue.contents()[:, 0].tolist() == [0, 1, 2, 5, 6, 7]
    with pytest.raises(ValueError, match="multiple of 3"):
        clustering.push(rows, 3)


@pytest.mark.parametrize(("clips", "share", "expected"), [(1, 0.5, 1), (32, 0.5, 16), (30, 0.1, 3), (10, 0.7, 7)])
def test_share_is_rounded_up(clips, share, expected):
    clustering = small(queue_rows=100, queue_share=share)
    clustering.push(features(clips), clips)
    assert int(clustering.queue.filled) == expected


def test_batch_alone_until_the_queue_is_full():
    clustering = small()
    first, second = features(12, 1), features(12, 2)
    report = clustering.cluster(first)
    assert int(report.counts.sum()) == 12
    clustering.push(first[:8], 2)
    assert not clustering.queue.full
    assert int(clustering.cluster(second).counts.sum()) == 12
    clustering.push(first[:8], 2)
    assert clustering.queue.full
    before = clustering.centroids.clone()
    report = clustering.cluster(second)
    joined = torch.cat([clustering.queue.contents(), second])
    trace = reference.kmeans(joined, before)
    assert not any(trace.emptied)
    torch.testing.assert_close(clustering.centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)
    assert int(report.counts.sum()) == 20
    assert int(clustering.runs) == 3
    assert torch.equal(clustering.labels(second), trace.labels[8:])


def test_warm_and_fresh_start():
    rows = features(40)
    clustering = small(max_iterations=1)
    clustering.cluster(rows, generator=torch.Generator().manual_seed(0))
    before = clustering.centroids.clone()
    clustering.cluster(rows)
    torch.testing.assert_close(
        clustering.centroids.double(), reference.kmeans(rows, before, max_iterations=1).centroids, rtol=1e-5, atol=1e-5
    )
    clustering.cluster(rows, fresh=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(clustering.centroids, before)


def test_too_few_rows():
    clustering = small(num_clusters=8)
    assert clustering.cluster(features(4)) is None
    assert not clustering.has_centroids
    with pytest.raises(RuntimeError, match="no centroids"):
        clustering.labels(features(4))
    clustering.push(features(8), 1)
    assert clustering.cluster(features(4)) is not None
    with pytest.raises(ValueError, match=r"--model\.clustering\.num_clusters.*--model\.clustering\.queue_rows"):
        small(num_clusters=13, queue_rows=0).cluster(features(4))


def test_resumed_equals_uninterrupted(tmp_path):
    clustering = small()
    clustering.cluster(features(12, 1))
    clustering.push(features(6, 2), 1)
    torch.save(clustering.state_dict(), tmp_path / "state.pt")
    resumed = small()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.has_centroids
    for seed in (3, 4, 5):
        for one in (clustering, resumed):
            one.push(features(5, seed), 1)
            one.cluster(features(12, seed))
    for name, value in clustering.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_reseeding_is_counted():
    clustering = small(queue_rows=0)
    clustering.set_centroids(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [-1, -1, -1, -1]]))
    report = clustering.cluster(features(30).abs())
    assert report.reseeded >= 1
    assert int(clustering.reseeded) == report.reseeded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "dbscan"),
        ("engine", "numpy"),
        ("num_clusters", 0),
        ("queue_rows", -1),
        ("queue_share", 0),
        ("queue_share", 1.5),
        ("max_iterations", 0),
        ("tolerance", -1),
        ("tolerance", float("nan")),
        ("queue_dtype", "float16"),
        ("queue_device", "cuda"),
        ("metric", "manhattan"),
        ("init", "first"),
    ],
)
def test_wrong_options_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"--model\.clustering\.{field}: expected .* found ") as caught:
        ClusteringConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_a_queue_smaller_than_the_clusters_is_refused():
    with pytest.raises(
        ValueError, match=r"--model\.clustering\.queue_rows.*--model\.clustering\.num_clusters"
    ) as caught:
        small(num_clusters=9, queue_rows=8)
    assert "\n" not in str(caught.value)
    small(num_clusters=8, queue_rows=8)
    small(num_clusters=9, queue_rows=0)


def test_queue_in_bfloat16_holds_rounded_rows():
    queue, rows = FeatureQueue(5, 4, torch.bfloat16), features(7)
    queue.push(rows)
    assert queue.contents().dtype == torch.bfloat16
    expected = torch.cat([rows[5:], rows[2:5]]).bfloat16()
    assert torch.equal(queue.contents().roll(-int(queue.position), 0), expected.roll(-2, 0))


def test_queue_on_the_cpu_stays_there():
    """The meta device stands for a GPU: what moves there has no values."""
    outer = torch.nn.Sequential(small(queue_device="cpu"), torch.nn.Linear(4, 4))
    outer[0].push(features(6), 1)
    before = outer[0].queue.contents().clone()
    outer.to("meta")
    assert outer[0].centroids.device.type == outer[1].weight.device.type == "meta"
    assert outer[0].queue.data.device.type == "cpu"
    assert torch.equal(outer[0].queue.contents(), before)
    assert "0.queue.data" in outer.state_dict()
    assert small(queue_device="model").to("meta").queue.data.device.type == "meta"


def test_queue_on_the_cpu_keeps_its_precision():
    assert small(queue_device="cpu", queue_dtype="bfloat16").double().queue.data.dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"queue_dtype": "bfloat16"}, {"queue_device": "cpu", "queue_dtype": "bfloat16"}])
def test_clusters_the_rows_as_the_queue_keeps_them(options, tmp_path):
    clustering = small(**options)
    pushed, batch = features(8, 1), features(6, 2)
    clustering.push(pushed, 1)
    clustering.set_centroids(batch[:3])
    torch.save(clustering.state_dict(), tmp_path / "state.pt")
    resumed = small(**options)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for one in (clustering, resumed):
        one.cluster(batch)
        trace = reference.kmeans(torch.cat([pushed.bfloat16().float(), batch]), batch[:3])
        assert not any(trace.emptied)
        torch.testing.assert_close(one.centroids.double(), trace.centroids, rtol=1e-5, atol=1e-5)


def test_euclidean_labels():
    clustering = small(metric="euclidean")
    clustering.set_centroids(torch.tensor([[9.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]))
    assert clustering.labels(torch.tensor([[1.0, 0.9, 0, 0]])).tolist() == [1]


CASES = ({}, {"queue_dtype": "bfloat16", "queue_device": "cpu", "init": "kmeans++"})


def cluster_shares(sizes):
    """Cluster this process's share of a batch, first without and then with a full queue, which is whole everywhere."""
    from mcn_lightning.distributed import rank

    results = []
    for options in CASES:
        clustering = small(**options)
        share = features(sum(sizes), 5).split(sizes)[rank()]
        generator = torch.Generator().manual_seed(7 + 100 * rank())
        early = clustering.cluster(share[:1])
        clustering.push(features(20, 6), 1)
        reports = [clustering.cluster(share, generator=generator, batch_rows=rows) for rows in (None, 12)]
        results.append((early, reports, clustering.state_dict()))
    return results


@pytest.mark.parametrize("sizes", [(9, 3), (12, 0)])
def test_two_processes_cluster_as_one(sizes):
    for one, *two in zip(cluster_shares((12,)), *run(cluster_shares, sizes), strict=True):
        for early, reports, state in two:
            assert early is None
            for found, expected in zip(reports, one[1], strict=True):
                assert found.iterations == expected.iterations
                assert found.objective == pytest.approx(expected.objective, abs=1e-6)
                assert torch.equal(found.counts, expected.counts)
                assert found.changed == expected.changed
            for name, value in state.items():
                assert torch.equal(value, two[0][2][name]), name
                torch.testing.assert_close(value, one[2][name], rtol=1e-5, atol=1e-6)


PUSHES = ((2, 0, 1), (1, 1, 1), (0, 0, 0), (3, 0, 0), (0, 4, 2), (9, 8, 7), (1, 0, 6), (0, 0, 2))
QUEUES = [{"rows": rows, "dim": 2, **more} for rows in (7, 2, 9)
          for more in ({}, {"dtype": torch.bfloat16, "device": "cpu"})]  # fmt: skip


def push_shares():
    """Push to divided and to whole queues; return all rows after every push, and the rows of each share."""
    from mcn_lightning.distributed import rank, world_size

    found = []
    for options in QUEUES:
        divided, whole, start = FeatureQueue(**options), FeatureQueue(**options), 0
        divided.divide()
        for push in PUSHES:
            own = numbered(start + sum(push[: rank()]), push[rank()]) / 8
            divided.push(own, push)
            whole.push(own, push)
            start += sum(push)
            assert torch.equal(divided.whole(torch.device("cpu")), whole.data)
            assert (divided.full, divided.filled, divided.position) == (whole.full, whole.filled, whole.position)
            assert torch.equal(divided.share(), whole.share())
        divided.push(numbered(0, 3))  # known to all
        whole.push(numbered(0, 3))
        shares = len(divided.data)
        assert divided.whole(None) is None
        divided.restore()
        found.append((divided.state_dict(), whole.state_dict(), shares))
        assert not divided.divided and world_size() == 3
    return found, cluster_divided()


def cluster_divided():
    """Return the state after k-means on a divided queue, and on a whole one."""
    from mcn_lightning.distributed import rank

    states = []
    for divided in (True, False):
        clustering = small(queue_rows=10)
        if divided:
            clustering.queue.divide()
        for seed in range(3):
            counts = [6, 2, 4]
            share = features(12, seed).split(counts)[rank()]
            clustering.cluster(share, fresh=seed == 2)
            clustering.push(share, 2, counts)
        clustering.queue.restore()
        states.append(clustering.state_dict())
    return states


def test_shares_of_a_queue_hold_the_rows_of_a_whole_one():
    results = run(push_shares, world=3)
    for number, options in enumerate(QUEUES):
        one = FeatureQueue(**options)
        start = 0
        for push in PUSHES:
            one.push(numbered(start, sum(push)) / 8)
            start += sum(push)
        one.push(numbered(0, 3))
        for name, value in one.state_dict().items():
            for queues, _ in results:
                assert torch.equal(queues[number][0][name], value), (options, name)
                assert torch.equal(queues[number][1][name], value), (options, name)
        assert sorted(queues[number][2] for queues, _ in results) == sorted(
            options["rows"] * (owner + 1) // 3 - options["rows"] * owner // 3 for owner in range(3)
        )
    for _, (divided, whole) in results:
        assert whole["runs"] == 3 and whole["queue.filled"] == 10
        for name, value in whole.items():
            assert torch.equal(divided[name], value), name
