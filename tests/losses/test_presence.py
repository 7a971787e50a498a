"""Clips that lack a modality: losses and clusters over the clips that have it, against loops over these clips."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from processes import run
from references import losses as reference
from torch.nn import functional as F

from mcn_lightning.clustering import MEAN, ClusteringConfig, Step, make_clustering
from mcn_lightning.distributed import Presence, gather_integers, rank, world_size
from mcn_lightning.losses import (
    ClusterLoss,
    ClusterLossConfig,
    ContrastiveConfig,
    make_contrastive,
    reconstruction_loss,
)
from mcn_lightning.models import MCNOutput

NAMES = ("video", "audio", "text")
WIDTH, CLUSTERS = 4, 3
CONFIGS = {
    "mms": ContrastiveConfig(margin=0.3),
    "mil_nce": ContrastiveConfig(kind="mil_nce"),
    "info_nce": ContrastiveConfig(kind="info_nce", temperature=0.3),
    "max_margin": ContrastiveConfig(kind="max_margin", ranking_margin=0.2),
}
FORMULAS = {
    "mms": lambda x, y: reference.mms(x, y, 0.3),
    "mil_nce": reference.mil_nce,
    "info_nce": lambda x, y: reference.info_nce(x, y, 0.3),
    "max_margin": lambda x, y: reference.max_margin(x, y, 0.2),
}
PAIRS = (("text", "video"), ("audio", "text"), ("audio", "video"))
CASES = {
    "some of each": ["vat", "vt", "va", "vat", "at", "v", "vat", "t", "vt", "va"],
    "no audio in the second half": ["vat", "va", "vt", "at", "vat", "vt", "vt", "t", "v", "vt"],
    "no clip with audio and text": ["va", "vt", "va", "t", "v", "vt", "va", "vt", "a", "va"],
    "no audio at all": ["vt", "vt", "v", "t", "vt", "vt", "vt", "v", "t", "vt"],
}
"""What each of ten clips has, in the letters of the retrieval directions."""
KINDS = ("kmeans", "kmeans_joint", "kmeans_per_modality", "sinkhorn", "sinkhorn_swapped", "sinkhorn_swapped_hard")


def rows_of(case):
    """Return embeddings of all clips by modality, zeros where a clip has none, and which have it ``(10, 3)``."""
    generator = torch.Generator().manual_seed(len(case))
    table = torch.tensor([[letter in clip for letter in "vat"] for clip in CASES[case]])
    rows = torch.randn(3, len(table), WIDTH, generator=generator, dtype=torch.float64) * table.T[:, :, None]
    return dict(zip(NAMES, rows, strict=True)), table


def as_clips(rows, table):
    """Return the same in the form of the reference: None where a clip has no such modality."""
    return {
        name: [row if there else None for row, there in zip(rows[name], column.tolist(), strict=True)]
        for name, column in zip(NAMES, table.T, strict=True)
    }


def presence(table):
    return Presence(NAMES, table, gather_integers(Presence.histogram(table), "cpu"), "cpu")


def leaves_of(rows):
    return {name: value.clone().requires_grad_() for name, value in rows.items()}


def gradients_of(leaves):
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def assert_same(found, expected, rtol=1e-9):
    assert found[0].keys() == expected[0].keys()
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=rtol / 1e3)


def pairs_of(config, rows, table):
    leaves = leaves_of(rows)
    terms = make_contrastive(config)(leaves, None, None, presence(table))
    sum(factor * term for factor, term in zip((1.0, -0.5, 2.0), terms.values(), strict=False)).backward()
    return {name: term.detach() for name, term in terms.items()}, gradients_of(leaves)


@pytest.mark.parametrize("tile", [64, 4])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_a_pair_is_compared_over_the_clips_that_have_both(case, kind, tile):
    rows, table = rows_of(case)
    leaves = leaves_of(rows)
    clips = as_clips(leaves, table)
    expected = {f"{a}_{b}": reference.of_present(FORMULAS[kind], clips[a], clips[b]) for a, b in PAIRS}
    expected = {name: value for name, value in expected.items() if value is not None}
    sum(factor * term for factor, term in zip((1.0, -0.5, 2.0), expected.values(), strict=False)).backward()
    theirs = {name: value.detach() for name, value in expected.items()}, gradients_of(leaves)
    assert_same(pairs_of(dataclasses.replace(CONFIGS[kind], tile=tile), rows, table), theirs)
    assert len(theirs[0]) == {"no clip with audio and text": 2, "no audio at all": 1}.get(case, 3)


@pytest.mark.parametrize("tile", [64, 4])
def test_a_sum_is_compared_over_the_clips_that_have_all_of_its_parts(tile):
    rows, table = rows_of("some of each")
    config = ContrastiveConfig(margin=0.3, pairs=["t-va"], tile=tile)
    whole = [i for i, clip in enumerate(CASES["some of each"]) if set(clip) == set("vat")]
    assert 1 < len(whole) < len(table)
    leaves = leaves_of(rows)
    text, video, audio = (leaves[name][whole] for name in ("text", "video", "audio"))
    expected = reference.mms(text, video + audio, 0.3)
    expected.backward()
    theirs = {"text_video+audio": expected.detach()}, gradients_of(leaves)
    assert_same(pairs_of(config, rows, table), theirs)


@pytest.mark.parametrize("tile", [64, 4])
def test_clips_without_a_cluster_are_negatives_of_all(tile):
    rows, table = rows_of("some of each")
    config = ContrastiveConfig(margin=0.3, exclude_same_cluster=True, tile=tile)
    clusters = torch.tensor([0, 1, 0, -1, -1, 1, 0, 2, 1, -1])
    terms = make_contrastive(config)(rows, None, clusters, presence(table))
    clips = as_clips(rows, table)
    for first, second in PAIRS:
        both = reference.having(clips[first], clips[second])
        own = [int(clusters[i]) if clusters[i] >= 0 else -1 - i for i in both]
        expected = reference.mms(rows[first][both], rows[second][both], 0.3, own)
        torch.testing.assert_close(terms[f"{first}_{second}"], expected)


def test_the_mean_is_that_of_what_a_clip_has():
    rows, table = rows_of("some of each")
    masks = dict(zip(NAMES, table.T, strict=True))
    found = MCNOutput(**rows, targets={}, reconstructions={}, present=masks).mean()
    expected = reference.fused(*as_clips(rows, table).values())
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("case", CASES)
def test_modalities_are_drawn_to_the_centroids_of_the_mean(case):
    rows, table = rows_of(case)
    leaves, present = leaves_of(rows), presence(table)
    clustering = make_clustering(ClusteringConfig("kmeans", CLUSTERS, queue_rows=0), WIDTH, NAMES).double()
    centroids = rows_of("some of each")[0]["video"][[0, 1, 3]]
    clustering.of[MEAN].set_centroids(centroids)
    mean = torch.stack(reference.fused(*as_clips(rows, table).values()))
    labels = (F.normalize(mean, dim=1) @ F.normalize(centroids, dim=1).T).argmax(dim=1)
    expected = reference.cluster_of_present(list(as_clips(leaves, table).values()), labels.tolist(), centroids, 0.2)
    expected.backward()
    theirs, leaves = gradients_of(leaves), leaves_of(rows)
    targets = clustering.targets({**rows, MEAN: mean}, Step(present=present))
    found = ClusterLoss(ClusterLossConfig(margin=0.2))(leaves, targets)
    found.backward()
    assert_same(({"cluster": found.detach()}, gradients_of(leaves)), ({"cluster": expected.detach()}, theirs))


def test_swapped_codes_are_those_of_the_others_that_a_clip_has():
    rows, table = rows_of("some of each")
    torch.manual_seed(0)
    clustering = make_clustering(ClusteringConfig("sinkhorn_swapped", CLUSTERS, queue_rows=0), WIDTH, NAMES).double()
    targets = clustering.targets({**rows, MEAN: rows["video"]}, Step(present=presence(table)))
    clips = as_clips(rows, table)
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        codes = {other: clustering.codes(rows[other][reference.having(clips[other])]) for other in others}
        expected = {}
        for clip in reference.having(clips[name]):
            there = [other for other in others if clips[other][clip] is not None]
            of = [codes[other][reference.having(clips[other]).index(clip)] for other in there]
            if there:
                expected[clip] = sum(of) / len(of)
        assert targets[name].some.rows.tolist() == list(expected)
        torch.testing.assert_close(targets[name].codes, torch.stack(list(expected.values())).to(targets[name].codes))


def test_the_queue_holds_means_of_what_is_there():
    rows, table = rows_of("some of each")
    mean = torch.stack(reference.fused(*as_clips(rows, table).values()))
    audible = [clip for clip in range(10) if "a" in CASES["some of each"][clip]]
    for kind, name, kept in (("kmeans", MEAN, range(10)), ("kmeans_per_modality", "audio", audible)):
        clustering = make_clustering(ClusteringConfig(kind, 2, queue_rows=8), WIDTH, NAMES).double()
        clustering.push({**rows, MEAN: mean}, Step(present=presence(table), clips_per_video=2))
        first = [clip for clip in kept if clip % 2 == 0]  # the first of two clips of each video
        expected = {**rows, MEAN: mean}[name][first].float()
        torch.testing.assert_close(clustering.of[name].queue.contents(), expected.to(clustering.of[name].queue.data))


def step(case, counts):
    """Return every term of a step, and the gradients, of the clips that this process has."""
    rows, table = rows_of(case)
    if world_size() > 1:
        first = sum(counts[: rank()])
        own = slice(first, first + counts[rank()])
        rows, table = {name: value[own] for name, value in rows.items()}, table[own]
    found = {}
    for kind in KINDS:
        leaves, present = leaves_of(rows), presence(table)
        torch.manual_seed(0)
        clustering = make_clustering(ClusteringConfig(kind, CLUSTERS, queue_rows=6), WIDTH, NAMES).double()
        masks = dict(zip(NAMES, table.T, strict=True))
        output = MCNOutput(**leaves, targets={}, reconstructions={}, present=masks)
        features = {**leaves, MEAN: output.mean()}
        detached = {name: value.detach() for name, value in features.items()}
        every = list(counts) if world_size() > 1 else [len(table)]
        of_all = Step(every, present)
        clustering.cluster(detached, of_all)
        clustering.push(detached, of_all)
        clustering.cluster(detached, of_all)
        terms = dict(make_contrastive(ContrastiveConfig(margin=0.3, tile=4))(leaves, every, None, present))
        made = {name: 2 * leaves[name][present.having(name).rows] for name in NAMES}
        aims = {name: value.detach() / 2 + 1 for name, value in made.items()}
        terms |= {
            f"rebuild_{name}": value for name, value in reconstruction_loss(made, aims, True, every, present).items()
        }
        if targets := clustering.targets(detached, of_all):
            terms["cluster"] = ClusterLoss(ClusterLossConfig())(features, targets, every)
        torch.stack(list(terms.values())).sum().backward()
        queues = {name: value for name, value in clustering.state_dict().items() if "prototypes" not in name}
        found[kind] = {name: value.detach() for name, value in terms.items()}, gradients_of(leaves), queues
    return found


SPLITS = [(case, counts) for case in CASES for counts in ((5, 5), (2, 8), (10, 0))]


def everything():
    return [step(*split) for split in SPLITS]


def test_two_processes_equal_one():
    parts = run(everything)
    for number, (case, counts) in enumerate(SPLITS):
        one = step(case, counts)
        for kind, (terms, gradients, state) in one.items():
            ours = [part[number][kind] for part in parts]
            joined = {name: torch.cat([each[1][name] for each in ours]) for name in NAMES}
            for each in ours:
                assert_same((each[0], joined), (terms, gradients), 1e-6)  # k-means is float32
                for name, value in state.items():
                    torch.testing.assert_close(each[2][name], value, msg=f"{case} {counts} {kind} {name}")


def test_nothing_is_lacking_where_all_is_there():
    table = torch.ones(4, 3, dtype=torch.bool)
    assert Presence(NAMES, table, [Presence.histogram(table)], "cpu").complete
    table[2, 1] = False
    found = Presence(NAMES, table, [Presence.histogram(table), [0] * 7 + [3]], "cpu")
    heard = found.having("audio")
    assert not found.complete and heard.counts == [3, 3] and heard.rows.tolist() == [0, 1, 3]
    assert found.having_any().counts == [4, 3] and found.having("audio", "text").counts == [3, 3]
