"""Losses over the clips of all processes, computed in tiles, against the plain formulas on the whole batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.distributed as dist
from processes import run
from references import losses as reference
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mcn_lightning.distributed import gather_rows, rank, row_counts, world_size
from mcn_lightning.losses import (
    ClusterLoss,
    ClusterLossConfig,
    ContrastiveConfig,
    make_contrastive,
    reconstruction_loss,
    tiled,
)
from mcn_lightning.losses.tiled import KEPT_BYTES, Tiling, hinge, keeps_tiles, normalizers, tiles

WIDTH = 5
NAMES = ("video", "audio", "text")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
ROUNDING = {torch.float64: 1e-15, torch.float32: 1e-6}
"""Error of a result of 0, which is a difference of numbers of order 1."""
CONFIGS = {
    "mms": ContrastiveConfig(margin=0.3),
    "mms normalised, learned temperature": ContrastiveConfig(normalize=True, temperature=0.2, learn_temperature=True),
    "mms without same cluster": ContrastiveConfig(margin=0.3, exclude_same_cluster=True),
    "mil_nce": ContrastiveConfig(kind="mil_nce", temperature=0.5),
    "mil_nce, learned temperature, without same cluster": ContrastiveConfig(
        kind="mil_nce", temperature=0.5, learn_temperature=True, exclude_same_cluster=True
    ),
    "info_nce": ContrastiveConfig(kind="info_nce", temperature=0.3),
    "info_nce, learned temperature": ContrastiveConfig(kind="info_nce", temperature=0.3, learn_temperature=True),
    "info_nce without same cluster": ContrastiveConfig(kind="info_nce", temperature=0.3, exclude_same_cluster=True),
    "max_margin": ContrastiveConfig(kind="max_margin", ranking_margin=0.2),
    "max_margin normalised, learned temperature": ContrastiveConfig(
        kind="max_margin", ranking_margin=0.2, normalize=True, temperature=0.5, learn_temperature=True
    ),
    "max_margin without same cluster": ContrastiveConfig(
        kind="max_margin", ranking_margin=0.2, exclude_same_cluster=True
    ),
    "one pair with a weight": ContrastiveConfig(text_video_weight=0.25, audio_text_weight=0, audio_video_weight=0),
    "pair of a sum": ContrastiveConfig(margin=0.3, pairs=["t-va", "a-v"]),
    "pair of a sum, normalised": ContrastiveConfig(kind="info_nce", temperature=0.3, pairs=["t-va"]),
}
WHOLE, TILE = 64, 4  # clips: above and below the batches of these tests
SPLITS = ([6, 6], [7, 4], [1, 10], [9, 0], [0, 5], [1, 0])


def data(clips, dtype, width=WIDTH):
    """Return embeddings of all clips by modality and a cluster of each; one clip has a cluster of its own."""
    generator = torch.Generator().manual_seed(clips)
    rows = {name: torch.randn(clips, width, generator=generator, dtype=torch.float64).to(dtype) for name in NAMES}
    clusters = torch.randint(0, 3, (clips,), generator=generator)
    clusters[-1] = 3
    return rows, clusters


def measure(config, rows, clusters, counts, precision=None):
    """Return the terms under autocast to a precision, and this process's gradients of embeddings and temperature."""
    leaves = {name: value.clone().requires_grad_() for name, value in rows.items()}
    loss = make_contrastive(config).to(rows["video"].dtype)
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        terms = loss(leaves, counts, clusters)
    sum(factor * term for factor, term in zip((1.0, -0.5, 2.0), terms.values(), strict=False)).backward()
    gradients = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    if loss.learns_temperature:
        gradients["temperature"] = loss.log_temperature.grad
    return {name: term.detach() for name, term in terms.items()}, gradients


def plain(name, clips, dtype):
    return measure(dataclasses.replace(CONFIGS[name], tile=WHOLE), *data(clips, dtype), None)


def assert_near(found, expected, dtype, what):
    error = (found - expected).norm()
    assert error <= max(TOLERANCE[dtype] * expected.norm(), ROUNDING[dtype]), (what, error)
    assert found.dtype == dtype, what


def assert_same(found, expected, dtype, what):
    assert [list(part) for part in found] == [list(part) for part in expected], what
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs:
            assert_near(ours[name], theirs[name], dtype, f"{what}: {name}")


def own(rows, counts):
    first = sum(counts[: rank()])
    return rows[first : first + counts[rank()]]


def measure_parts(dtype):
    """Compute every loss on every split; the parts of the temperature's gradient make one number."""
    found = {}
    for counts in SPLITS:
        rows, clusters = data(sum(counts), dtype)
        mine = {name: own(value, counts) for name, value in rows.items()}
        for name, config in CONFIGS.items():
            config = dataclasses.replace(config, tile=TILE)
            given = row_counts(counts[rank()], "cpu") if counts[0] % 2 else None
            terms, gradients = measure(config, mine, own(clusters, counts), given)
            if "temperature" in gradients:
                dist.all_reduce(gradients["temperature"])
            found[name, tuple(counts)] = terms, gradients
    return found


class Maps(nn.Module):
    """A linear map from inputs to the embedding of each modality, and back."""

    def __init__(self, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.ModuleDict({name: nn.Linear(7, WIDTH) for name in NAMES})
        self.back = nn.ModuleDict({name: nn.Linear(WIDTH, 7) for name in NAMES})
        self.contrastive = make_contrastive(
            ContrastiveConfig(kind="info_nce", temperature=0.2, learn_temperature=True, tile=TILE)
        )
        self.to(dtype)

    def forward(self, inputs, labels, centroids):
        embeddings = {name: self.maps[name](value) for name, value in inputs.items()}
        mean = sum(embeddings.values()) / len(embeddings)
        target, loss = (centroids, labels, False), ClusterLoss(ClusterLossConfig())
        clusters = [loss(embeddings, dict.fromkeys(embeddings, target)), loss({"mean": mean}, {"mean": target})]
        made = {name: self.back[name](value) for name, value in embeddings.items()}
        rebuilt = reconstruction_loss(made, inputs, detach_targets=True)
        return torch.stack([*self.contrastive(embeddings).values(), *rebuilt.values(), *clusters]).sum()


def train(counts, dtype, names=NAMES):
    """Return the loss and the gradients that data-parallel training ends with."""
    maps = Maps(dtype)
    inputs, labels = data(sum(counts), dtype, width=7)
    centroids = data(4, dtype)[0]["video"]
    if world_size() > 1:
        inputs, labels = {name: own(value, counts) for name, value in inputs.items()}, own(labels, counts)
    loss = maps({name: inputs[name] for name in names}, labels, centroids)
    (loss * world_size()).backward()
    gradients = {name: value.grad for name, value in maps.named_parameters() if value.grad is not None}
    if world_size() > 1:
        for value in gradients.values():
            dist.all_reduce(value)
            value /= world_size()
        assert torch.equal(gather_rows(loss[None], [1] * world_size()), loss.detach().expand(world_size()))
    return loss.detach(), gradients


CASES = [(counts, dtype, names) for counts in ([6, 6], [7, 4], [9, 0], [1, 0])
         for dtype in TOLERANCE for names in (NAMES, ("video", "text"))]  # fmt: skip


def everything():
    return {("losses", dtype): measure_parts(dtype) for dtype in TOLERANCE} | {
        "training": [train(*case) for case in CASES]
    }


@pytest.fixture(scope="module")
def two_processes():
    """What each of two processes finds; started once for all tests."""
    return run(everything)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_two_processes_equal_the_plain_formula(dtype, two_processes):
    parts = [result["losses", dtype] for result in two_processes]
    for name, counts in parts[0]:
        what = f"{name} {counts}"
        terms, gradients = zip(*(part[name, counts] for part in parts), strict=True)
        assert terms[0] == terms[1], what
        joined = {key: torch.cat([part[key] for part in gradients]) for key in NAMES}
        if "temperature" in gradients[0]:
            joined["temperature"] = gradients[0]["temperature"]
        assert_same((terms[0], joined), plain(name, sum(counts), dtype), dtype, what)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CONFIGS)
def test_tiles_equal_the_plain_formula(name, dtype):
    for clips, tile in ((12, 4), (11, 4), (5, 4), (3, 1), (2, 1)):
        config = dataclasses.replace(CONFIGS[name], tile=tile)
        assert_same(
            measure(config, *data(clips, dtype), None), plain(name, clips, dtype), dtype, f"{clips} clips in {tile}"
        )


@pytest.mark.parametrize("tile", [WHOLE, 2])
@pytest.mark.parametrize("kind", ["mms", "mil_nce", "info_nce", "max_margin"])
def test_clips_of_one_cluster_are_no_negatives(kind, tile):
    formula = {
        "mms": lambda x, y, labels: reference.mms(x, y, 0.3, labels),
        "mil_nce": lambda x, y, labels: reference.mil_nce(2 * x, y, labels),
        "info_nce": lambda x, y, labels: reference.info_nce(x, y, 0.5, labels),
        "max_margin": lambda x, y, labels: reference.max_margin(2 * x, y, 0.2, labels),
    }[kind]
    rows, _ = data(5, torch.float64, width=3)
    x, y = (rows[name].requires_grad_() for name in ("text", "video"))
    temperature = 1.0 if kind == "mms" else 0.5
    config = ContrastiveConfig(kind=kind, margin=0.3, ranking_margin=0.2, temperature=temperature, tile=tile)
    for labels in ([0, 1, 0, 2, 0], [4, 4, 4, 4, 4], [0, 1, 2, 3, 4]):
        clusters = torch.tensor(labels)
        loss = make_contrastive(dataclasses.replace(config, exclude_same_cluster=True))
        ours, theirs = loss({"text": x, "video": y}, None, clusters)["text_video"], formula(x, y, labels)
        torch.testing.assert_close(ours, theirs)
        for a, b in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(theirs, (x, y)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        all_negatives = make_contrastive(config)({"text": x, "video": y}, None, clusters)["text_video"]
        assert torch.equal(all_negatives, make_contrastive(config)({"text": x, "video": y})["text_video"])
        assert torch.equal(all_negatives, loss({"text": x, "video": y})["text_video"]), "no clusters: none is left out"


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 0]])
def test_gradients_of_tiles_equal_differences(labels):
    rows, _ = data(5, torch.float64, width=3)
    tiling = Tiling([5], 2, torch.float64, None if labels is None else torch.tensor(labels))
    x, y, true = (rows[name].requires_grad_() for name in NAMES)
    true = true[:, 0].detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: normalizers(x, y, 0.3, tiling), (x, y))
    assert torch.autograd.gradcheck(lambda x, y, true: hinge(x, y, true, 0.2, tiling), (x, y, true))


@pytest.mark.parametrize("name", [name for name in CONFIGS if "max_margin" not in name])
def test_kept_tiles_give_the_same_numbers(name, monkeypatch):
    config, given = dataclasses.replace(CONFIGS[name], tile=TILE), data(11, torch.float32)
    with FlopCounterMode(display=False) as again:
        expected = measure(config, *given, None)
    monkeypatch.setitem(KEPT_BYTES, "cpu", 4 * 11 * 11)
    with FlopCounterMode(display=False) as kept:
        found = measure(config, *given, None)
    assert 4 * kept.get_total_flops() == 3 * again.get_total_flops() > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(ours[each], theirs[each]) for each in theirs)
    x, y = (given[0][each].clone().requires_grad_() for each in ("text", "video"))
    loss = make_contrastive(config)({"text": x, "video": y}, None, given[1])
    for value in loss.values():
        first, second = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
        assert torch.equal(first, second)
    monkeypatch.setitem(KEPT_BYTES, "cpu", 4 * 11 * 11 - 1)
    assert not keeps_tiles(x, y)


@pytest.mark.parametrize("name", [name for name in CONFIGS if "max_margin" not in name])
def test_exponents_without_a_bound_give_the_same_numbers(name, monkeypatch):
    rows, clusters = data(11, torch.float32)
    given = {key: 30 * value for key, value in rows.items()}, clusters  # many weights of the softmax are 0
    config = dataclasses.replace(CONFIGS[name], tile=TILE)
    expected = measure(config, *given, None)
    monkeypatch.setattr(tiled, "BOUNDED", set())
    assert_same(measure(config, *given, None), expected, torch.float32, name)


def test_no_tile_is_larger_than_said():
    rows, _ = data(11, torch.float64)
    sizes = [tile.values.shape for tile in tiles(rows["text"], rows["video"], Tiling([11], 4, torch.float64))]
    assert sum(a * b for a, b in sizes) == 121 and max(max(size) for size in sizes) == 4


@pytest.mark.parametrize("name", CONFIGS)
def test_one_clip_has_no_negatives(name):
    terms, gradients = plain(name, 1, torch.float64)
    assert all(torch.isfinite(value).all() for value in (*terms.values(), *gradients.values()))
    if not name.startswith("mil_nce"):  # the true pair stands twice in its denominator
        assert all(value.abs() < 1e-12 for value in terms.values())


@pytest.mark.parametrize("kind", ["mms", "mil_nce", "info_nce", "max_margin"])
def test_bfloat16_products_and_float32_sums(kind):
    rows, _ = data(11, torch.float32)
    config = ContrastiveConfig(kind=kind, tile=WHOLE)
    exact = measure(config, rows, None, None)
    whole = measure(config, rows, None, None, torch.bfloat16)
    tiled = measure(dataclasses.replace(config, tile=TILE), rows, None, None, torch.bfloat16)
    for name, value in tiled[0].items():
        assert value.dtype == torch.float32
        assert 0 < abs(value / exact[0][name] - 1) < 0.02, "products have 8 bits"
        torch.testing.assert_close(value, whole[0][name], rtol=5e-3, atol=0)
    for name, value in tiled[1].items():
        assert value.dtype == torch.float32
        if kind != "max_margin":  # its gradient jumps where a pair comes to cost something
            assert (value - whole[1][name]).norm() < 0.02 * whole[1][name].norm()


@pytest.mark.parametrize("tile", [WHOLE, TILE])
@pytest.mark.parametrize("kind", ["mms", "mil_nce", "info_nce", "max_margin"])
def test_products_do_not_overflow_float16(kind, tile):
    rows = {name: 300 * value for name, value in data(11, torch.float32)[0].items()}
    config = ContrastiveConfig(kind=kind, tile=tile)
    found, exact = measure(config, rows, None, None, torch.float16), measure(config, rows, None, None)
    assert max(value.abs().max() for value in found[0].values()) > 100 or kind == "info_nce"
    assert_same(found, exact, torch.float32, "float16")


def test_one_process_with_the_batch_of_two(two_processes):
    for result in two_processes:
        for (counts, dtype, names), (loss, gradients) in zip(CASES, result["training"], strict=True):
            expected_loss, expected = train(counts, dtype, names)
            assert list(gradients) == list(expected)
            assert len(gradients) == 4 * len(names) + 1
            assert_same(({"loss": loss}, gradients), ({"loss": expected_loss}, expected), dtype, f"{counts} {names}")


def test_tile_is_refused_by_name():
    with pytest.raises(ValueError, match=r"--model\.loss\.contrastive\.tile: expected a whole number above 0, found 0"):
        ContrastiveConfig(tile=0)
