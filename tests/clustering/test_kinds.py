"""Sinkhorn codes and the variants of the clustering: what each feature should predict."""

from __future__ import annotations

import pytest
import torch
from processes import run
from references import clustering as reference

from mcn_lightning.clustering import (
    MEAN,
    CentroidClustering,
    ClusteringConfig,
    Sinkhorn,
    Step,
    make_clustering,
    sinkhorn,
)
from mcn_lightning.distributed import rank, row_counts

MODALITIES = ("video", "audio", "text")
SINKHORN = ("sinkhorn", "sinkhorn_hard", "sinkhorn_swapped", "sinkhorn_swapped_hard")


def scores(rows=12, clusters=4, seed=0):
    return torch.randn(rows, clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features(rows=12, names=MODALITIES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = {name: torch.randn(rows, 6, generator=generator) for name in names}
    return {**found, MEAN: torch.stack(list(found.values())).mean(dim=0)}


def make(kind, **options):
    torch.manual_seed(0)
    return make_clustering(ClusteringConfig(kind=kind, num_clusters=4, queue_rows=0, **options), 6, MODALITIES)


@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_sinkhorn_equals_the_reference(iterations):
    ours = sinkhorn(scores(), 0.3, iterations)
    torch.testing.assert_close(ours, reference.sinkhorn(scores(), 0.3, iterations), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.sum(dim=1), torch.ones(12, dtype=torch.float64))
    if iterations == 50:
        torch.testing.assert_close(ours.sum(dim=0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-3, atol=0)


def test_sinkhorn_takes_scores_that_would_overflow():
    codes = sinkhorn(1000 * scores().float(), 0.05, 3)
    assert torch.isfinite(codes).all() and torch.allclose(codes.sum(dim=1), torch.ones(12))


def share_of_codes(counts):
    mine = sum(counts[: rank()])
    return sinkhorn(scores()[mine : mine + counts[rank()]], 0.3, 3, row_counts(counts[rank()], "cpu"))


@pytest.mark.parametrize("counts", [[6, 6], [3, 9], [12, 0]])
def test_codes_of_two_processes_are_those_of_one(counts):
    together = torch.cat(run(share_of_codes, counts, world=2))
    torch.testing.assert_close(together, sinkhorn(scores(), 0.3, 3), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", SINKHORN)
def test_modalities_predict_the_code_of_the_mean_or_of_the_others(kind):
    clustering, found = make(kind), features()
    targets = clustering.targets(found)
    assert set(targets) == set(MODALITIES) and clustering.has_centroids
    for name, target in targets.items():
        assert target.cosine and target.prototypes is clustering.prototypes
        sources = [other for other in MODALITIES if other != name] if "swapped" in kind else [MEAN]
        codes = [sinkhorn(clustering.scores(found[source]), 0.05, 3) for source in sources]
        if kind.endswith("_hard"):
            codes = [torch.nn.functional.one_hot(code.argmax(dim=1), 4).float() for code in codes]
        torch.testing.assert_close(target.codes, torch.stack(codes).mean(dim=0))
        assert not target.codes.requires_grad


def test_prototypes_learn_from_predictions_only():
    clustering = make("sinkhorn")
    assert isinstance(clustering, Sinkhorn)
    found = {name: value.requires_grad_() for name, value in features().items()}
    assert not clustering.targets(found)["video"].codes.requires_grad
    assert [name for name, _ in clustering.named_parameters()] == ["prototypes"]
    assert clustering.assignments(found).shape == (12,)
    assert clustering.cluster(found) == {} and clustering.push(found, Step(clips_per_video=4)) is None


def test_a_modality_that_is_missing_is_left_out():
    for kind in ("sinkhorn_swapped", "kmeans", "kmeans_per_modality"):
        clustering, found = make(kind), features(names=("audio", "text"))
        clustering.cluster(features())
        targets = clustering.targets(found)
        assert set(targets) == {"audio", "text"}
        assert clustering.assignments(found).shape == (12,)
    alone = make("sinkhorn_swapped").targets(features(names=("text",)))
    assert set(alone) == {"text"}


def test_kmeans_draws_modalities_to_centroids_of_the_mean():
    found = features()
    for kind, names in (("kmeans", MODALITIES), ("kmeans_joint", (MEAN,))):
        clustering = make(kind)
        assert clustering.targets(found) == {} and clustering.assignments(found) is None
        assert set(clustering.cluster(found)) == {MEAN}
        targets = clustering.targets(found)
        assert tuple(targets) == names
        centroids = clustering.of[MEAN].centroids
        for target in targets.values():
            assert torch.equal(target.prototypes, centroids)
            assert torch.equal(target.codes, reference.assign(found[MEAN], centroids))
        assert torch.equal(clustering.assignments(found), target.codes)


def test_each_modality_alone_has_centroids_of_its_own():
    clustering, found = make("kmeans_per_modality"), features()
    assert isinstance(clustering, CentroidClustering)
    assert set(clustering.cluster(found)) == set(MODALITIES)
    for name, target in clustering.targets(found).items():
        assert torch.equal(target.codes, reference.assign(found[name], clustering.of[name].centroids))
    assert not torch.equal(clustering.of["video"].centroids, clustering.of["text"].centroids)


def test_none_is_nothing():
    assert make("none") is None


def push_and_cluster(counts):
    """Push twice and cluster; return the queue, the centroids and the labels of this process's clips."""
    config = ClusteringConfig(num_clusters=4, queue_rows=10, tolerance=0.0)
    clustering = make_clustering(config, 6, MODALITIES)
    mine, found = sum(counts[: rank()]), []
    for seed in (1, 2, 3):
        rows = {name: value[mine : mine + counts[rank()]] for name, value in features(sum(counts), seed=seed).items()}
        if seed == 3:
            clustering.of[MEAN].set_centroids(torch.eye(4, 6))
            found = clustering.cluster(rows, Step(row_counts(counts[rank()], "cpu")))[MEAN].counts
        clustering.push(rows, Step(row_counts(counts[rank()], "cpu"), clips_per_video=2 if counts[rank()] else 1))
    return clustering.of[MEAN].queue.contents(), clustering.of[MEAN].centroids, found


@pytest.mark.parametrize("counts", [[6, 6], [4, 8], [12, 0]])
def test_two_processes_have_one_queue_and_one_set_of_centroids(counts):
    first, second = run(push_and_cluster, counts, world=2)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    queue, centroids, sizes = run(push_and_cluster, [12], world=1)[0]
    assert torch.equal(first[0], queue), "rows are pushed in the order of the processes"
    torch.testing.assert_close(first[1], centroids, rtol=1e-5, atol=1e-6)
    assert torch.equal(first[2], sizes)


def test_rows_from_elsewhere_are_clustered():
    clustering, found = make("kmeans"), features(40)
    first = clustering.fit({MEAN: [found[MEAN][:25], found[MEAN][25:]]})[MEAN]
    assert first.changed is None and int(first.counts.sum()) == 40
    again = clustering.fit({MEAN: [found[MEAN]]})[MEAN]
    assert again.changed == 0 and again.iterations == 1 and clustering.of[MEAN].runs == 2
