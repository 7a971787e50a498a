"""The evaluation callback's own parts: directions, fusion, the table."""

import math

import pytest
import torch
from pytorch_lightning import Trainer

from mcn_lightning.batch import MODALITIES, ClipBatch
from mcn_lightning.callbacks import RetrievalEvaluation
from mcn_lightning.callbacks.evaluation_table import format_table
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.clustering.topics import find_topics
from mcn_lightning.errors import InputError
from mcn_lightning.metrics import Ranking, RetrievalRecall, query_density
from mcn_lightning.metrics.directions import (
    DEFAULT_DIRECTIONS,
    captions_side,
    clips_of_sides,
    parse_direction,
    possible_directions,
)
from mcn_lightning.metrics.scoring import combine
from mcn_lightning.models import MCNOutput, NetworkConfig
from mcn_lightning.module import MCNModule

TRAINER = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)


def test_directions_are_letters_on_both_sides():
    assert parse_direction("t->va") == (["text"], ["video", "audio"])
    for wrong in ("t-va", "->v", "t->", "x->v", "tt->v"):
        with pytest.raises(InputError, match=r"--retrieval\.directions"):
            parse_direction(wrong)


def test_sum_and_normalized_mean():
    embeddings = {"video": torch.tensor([[3.0, 4.0]]), "audio": torch.tensor([[0.0, 2.0]])}
    assert combine(embeddings, ["video", "audio"], "sum").tolist() == [[3.0, 6.0]]
    mean = combine(embeddings, ["video", "audio"], "normalized_mean")
    torch.testing.assert_close(mean, torch.tensor([[0.3, 0.9]]))
    assert combine(embeddings, ["video", "audio"], "sum", 0.5).tolist() == [[3.0, 5.0]]
    assert combine(embeddings, ["audio"], "sum", 0.5).tolist() == [[0.0, 2.0]]
    unit = combine(embeddings, ["video", "audio"], "normalized_sum")
    torch.testing.assert_close(unit, torch.tensor([[3.0, 6.0]]) / 45**0.5)


FUSED = NetworkConfig(
    embedding_dim=6, video_dim=4, text_dim=3, audio_widths=(2, 2, 2, 4), reconstruction=False, fuse_audio_text=True
)


def test_directions_that_a_network_makes_possible():
    three, sound, fused = (MODALITIES, False), (("video", "audio"), False), (MODALITIES, True)
    assert possible_directions(None, DEFAULT_DIRECTIONS, *three) == list(DEFAULT_DIRECTIONS)
    assert possible_directions(None, DEFAULT_DIRECTIONS, *sound) == ["a->v", "v->a"]
    assert possible_directions(["a->v"], DEFAULT_DIRECTIONS, *sound) == ["a->v"]
    assert possible_directions(None, DEFAULT_DIRECTIONS, *fused) == ["v->ta", "ta->v"]
    assert possible_directions(None, ["t->va", "at->v"], *fused) == ["at->v"]
    assert possible_directions(["v->at"], DEFAULT_DIRECTIONS, *fused) == ["v->at"]
    for wanted, defaults, network, found in (
        (["t->va"], (), sound, r"--clips: t->va needs text, which data\.modalities or the weights lack"),
        (
            ["t->v"],
            (),
            fused,
            "--clips: t->v: expected audio and text together, found text alone: these weights have one",
        ),
        (["t-v"], (), three, "--clips: expected letters"),
        (None, ["t->va"], sound, "--clips: expected directions between video, audio, found t->va"),
    ):
        with pytest.raises(InputError, match=found):
            possible_directions(wanted, defaults, *network, "--clips")


def test_a_joint_embedding_stands_for_audio_and_text():
    embeddings = {"video": torch.ones(1, 2), "audio_text": torch.tensor([[3.0, 4.0]])}
    for names in (["text", "audio"], ["audio", "text"], ["audio_text"]):
        assert combine(embeddings, names, "sum", 0.5).tolist() == [[3.0, 4.0]]
    assert combine(embeddings, ["video"], "sum").tolist() == [[1.0, 1.0]]
    with pytest.raises(InputError, match=r"one joint embedding of audio and text: use ta->v or v->ta"):
        combine(embeddings, ["audio", "video"], "sum")


@pytest.mark.parametrize("calibrate", [0.0, 0.5])
def test_a_joint_embedding_is_evaluated(calibrate):
    torch.manual_seed(0)
    module = MCNModule(FUSED, clustering=ClusteringConfig("kmeans_per_modality", num_clusters=3, queue_rows=6))
    module.fit_centroids({name: [torch.randn(30, 6)] for name in ("video", "audio_text")}, fresh=True)
    evaluation = RetrievalEvaluation(calibrate=calibrate, calibrate_temperature=0.2)
    output = MCNOutput(torch.randn(20, 6), None, None, {}, {}, torch.randn(20, 6))
    evaluation.on_validation_epoch_start(TRAINER, module)
    evaluation._update(module, output, ClipBatch(ids=tuple(map(str, range(20)))))
    assert evaluation._chosen == ["v->ta", "ta->v"]
    scores = output.audio_text @ output.video.T
    if calibrate:
        scores = scores - 0.5 * query_density(output.video, *module.clusters_of(["audio_text"]), 0.2)
    ranks = (scores > scores.diagonal()[:, None]).sum(dim=1) + 1
    assert evaluation._metrics(module)[0]["ta->v/mean_rank"] == pytest.approx(ranks.double().mean().item())


def small_module(kind):
    network = NetworkConfig(
        embedding_dim=6, modalities=("video", "text"), video_dim=4, text_dim=3, reconstruction=False
    )
    return MCNModule(network, clustering=ClusteringConfig(kind, num_clusters=3, queue_rows=6))


@pytest.mark.parametrize(("kind", "of"), [("kmeans_per_modality", "text"), ("kmeans", "mean")])
def test_scores_are_calibrated_by_the_clusters_of_the_queries(kind, of):
    torch.manual_seed(0)
    module, evaluation = small_module(kind), RetrievalEvaluation(["t->v"], calibrate=0.5, calibrate_temperature=0.2)
    rows = {"text": [torch.randn(30, 6)], "video": [torch.randn(30, 6)], "mean": [torch.randn(30, 6)]}
    module.fit_centroids(rows, fresh=True)
    centroids, sizes = module.clusters_of(["text"])
    found = module.clustering.of[of]
    assert torch.equal(centroids, found.centroids) and torch.equal(sizes, found.sizes) and int(sizes.sum()) == 30
    output = MCNOutput(torch.randn(20, 6), None, torch.randn(20, 6), {}, {})
    batch = ClipBatch(ids=tuple(map(str, range(20))))
    evaluation.on_validation_epoch_start(TRAINER, module)
    evaluation._update(module, output, batch)
    scores = output.text @ output.video.T - 0.5 * query_density(output.video, centroids, sizes, 0.2)
    ranks = (scores > scores.diagonal()[:, None]).sum(dim=1) + 1
    assert evaluation._metrics(module)[0]["t->v/mean_rank"] == pytest.approx(ranks.double().mean().item())


@pytest.mark.parametrize("kind", ["kmeans", "sinkhorn", "none"])
def test_without_clusters_scores_stay_as_they_are_and_it_is_said(kind):
    module, evaluation = small_module(kind), RetrievalEvaluation(["t->v"], calibrate=0.5)
    output = MCNOutput(torch.randn(5, 6), None, torch.randn(5, 6), {}, {})
    with pytest.warns(UserWarning, match=r"--retrieval\.calibrate: there are no k-means clusters .* of t->v"):
        evaluation.on_validation_epoch_start(TRAINER, module)
    evaluation._update(module, output, ClipBatch(ids=tuple("abcde")))
    plain = (output.text @ output.video.T).argsort(dim=1, descending=True)
    ranks = (plain == torch.arange(5)[:, None]).nonzero()[:, 1] + 1
    assert evaluation._metrics(module)[0]["t->v/mean_rank"] == pytest.approx(ranks.double().mean().item())


@pytest.mark.parametrize("options", [{"calibrate": -0.1}, {"audio_weight": 0.0}, {"calibrate_temperature": 0.0}])
def test_calibration_options_are_checked(options):
    with pytest.raises(InputError, match=rf"--retrieval\.{next(iter(options))}: expected"):
        RetrievalEvaluation(**options)


@pytest.mark.parametrize("how", ["sum", "normalized_sum"])
def test_embeddings_are_kept_once_for_all_directions(how):
    torch.manual_seed(0)
    clips, dim = 40, 6
    module = MCNModule(NetworkConfig(embedding_dim=dim, video_dim=4, text_dim=3, audio_widths=(2, 2, 2, 4)))
    evaluation = RetrievalEvaluation(combine=how)
    evaluation.on_validation_epoch_start(TRAINER, module)
    # the plain way: a metric for each direction, which keeps queries and gallery of its own
    apart = {name: RetrievalRecall(captions=captions_side(name)) for name in DEFAULT_DIRECTIONS}
    memory = [torch.empty(10, dim) for _ in MODALITIES]
    for first in range(0, clips, 10):
        rows = [rows.copy_(torch.randn(10, dim)) for rows in memory]  # as a compiled network writes its outputs
        present = {name: torch.rand(10) < 0.8 for name in MODALITIES} if first else None
        output = MCNOutput(*rows, {}, {}, None, present)
        numbers = range(first, first + 10)
        batch = ClipBatch(ids=tuple(map(str, numbers)), items=tuple(str(number // 2) for number in numbers))
        evaluation._update(module, output, batch)
        for name, metric in apart.items():
            queries, gallery = (combine(output.embeddings(), side, how) for side in parse_direction(name))
            sides = clips_of_sides(present, name, joint=False)
            metric.update(batch.ids, queries.clone(), gallery.clone(), batch.items, *sides)
    kept = [rows for batch in evaluation._kept._batches for rows in batch.embeddings.values()]
    assert sum(rows.numel() for rows in kept) == clips * dim * len(MODALITIES)
    metrics, rankings = evaluation._metrics(module)
    for name, metric in apart.items():
        for key, value in metric.compute().items():
            assert metrics[f"{name}/{key}"] == float(value), (name, key)
        assert torch.equal(rankings[name].ranks, metric.ranking.ranks)
        assert 1 < metrics[f"{name}/mean_rank"]


def test_table_shows_chance():
    metrics = {f"t->v/{name}": 50.0 for name in ("R@1", "R@5", "R@10", "median_rank")}
    ranking = Ranking(torch.arange(200), torch.ones(200), torch.ones(200, dtype=torch.int64), 200)
    table = format_table(metrics | {"nmi": 0.5}, {"t->v": ranking}, 200)
    assert table.splitlines()[2].split() == ["chance", "0.5", "2.5", "5.0", "100.5"]
    assert "nmi: 0.500" in table


def test_table_counts_queries_and_items_where_they_differ():
    names = ("R@1", "R@5", "R@10", "median_rank")
    metrics = {f"{direction}/{name}": 50.0 for direction in ("t->v", "v->t") for name in names}
    one, twenty = torch.ones(160, dtype=torch.int64), torch.full((8,), 20)
    rankings = {
        "t->v": Ranking(torch.arange(160), torch.ones(160), one, 8),
        "v->t": Ranking(torch.arange(8), torch.ones(8), twenty, 160),
    }
    head, *rows = (line.split() for line in format_table(metrics, rankings, 8).splitlines())
    assert head[-2:] == ["queries", "items"] and head[:3] == ["held-out", "clips:", "8"]
    assert [(row[0], row[-2], row[-1]) for row in rows[:2]] == [("t->v", "160", "8"), ("v->t", "8", "160")]
    assert rows[2] == ["chance", "t->v", "12.5", "62.5", "100.0", "4.5"]
    # one of 20 among the first k of 160; the first of 20 is at place 161 / 21 on average
    assert rows[3][:3] == ["chance", "v->t", "12.5"] and rows[3][-1] == "7.7"
    assert rows[3][3] == f"{100 * (1 - math.comb(140, 5) / math.comb(160, 5)):.1f}"


def test_topics_are_found_where_they_are_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 4 * torch.eye(3)[labels] + torch.randn(60, 3, generator=generator)
    found = find_topics(features, 3)
    pairs = {(int(label), int(cluster)) for label, cluster in zip(labels, found, strict=True)}
    assert 3 <= len(pairs) < 9 and len(found.unique()) == 3
    clear = find_topics(features + 40 * torch.eye(3)[labels], 3)
    assert len({(int(label), int(cluster)) for label, cluster in zip(labels, clear, strict=True)}) == 3
