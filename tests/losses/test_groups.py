"""Losses of groups of devices: those of separate runs on the clips of each group, whose gradients are averaged."""

from __future__ import annotations

import dataclasses
import types
from itertools import product

import pytest
import torch
import torch.distributed as dist
from collectives import counted
from processes import run

from losses.test_global_batch import CONFIGS, NAMES, TILE, WHOLE, Maps, assert_same, data, measure
from mcn_lightning.batch import ClipBatch
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.distributed import (
    form_groups,
    gather_objects,
    gather_rows,
    group_size,
    in_group,
    of_group,
    rank,
    row_counts,
    sum_all,
    world_size,
)
from mcn_lightning.errors import InputError
from mcn_lightning.losses import ContrastiveConfig, ContrastiveLoss, make_contrastive
from mcn_lightning.models import NetworkConfig
from mcn_lightning.module import MCNModule
from mcn_lightning.training.groups import DistributedConfig

FORMS = {2: ((2, [3, 4]), (1, [3, 4])), 4: ((2, [3, 2, 4, 0]), (4, [3, 2, 4, 0])), 8: ((4, [2, 1, 3, 0, 2, 2, 1, 1]),)}
"""For each number of processes: the size of groups, and the clips of each process."""
SOME = [name for name in CONFIGS if "cluster" in name or "learned" in name or "sum" in name]


def own(values, counts):
    first = sum(counts[: rank()])
    return values[first : first + counts[rank()]]


def measure_group(name, counts):
    """Return the terms and this process's gradients; the backward pass runs outside of the group."""
    rows, clusters = data(sum(counts), torch.float64)
    leaves = {each: own(value, counts).clone().requires_grad_() for each, value in rows.items()}
    loss = make_contrastive(dataclasses.replace(CONFIGS[name], tile=TILE)).double()
    mine = own(clusters, counts)
    with in_group():
        terms = loss(leaves, of_group(counts), mine)
    sum(factor * term for factor, term in zip((1.0, -0.5, 2.0), terms.values(), strict=False)).backward()
    gradients = {each: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for each, leaf in leaves.items()}
    if loss.learns_temperature:
        with in_group():
            gradients["temperature"] = sum_all(loss.log_temperature.grad)
    return {each: term.detach() for each, term in terms.items()}, gradients


def train_group(counts):
    """Return the loss of the group, and the gradients that data-parallel training ends with."""
    maps = Maps(torch.float64)
    inputs, labels = data(sum(counts), torch.float64, width=7)
    inputs, labels = {name: own(value, counts) for name, value in inputs.items()}, own(labels, counts)
    with in_group():
        loss = maps(inputs, labels, data(4, torch.float64)[0]["video"])
    (loss * group_size()).backward()
    return loss.detach(), {name: sum_all(value.grad) / world_size() for name, value in maps.named_parameters()}


def collect():
    """Return what collectives find inside of the group and outside."""
    with in_group():
        inside = world_size(), rank(), row_counts(rank() + 1, "cpu"), gather_objects(dist.get_rank())
        with in_group():
            rows = gather_rows(torch.tensor([float(dist.get_rank())]), [1] * world_size())
    return inside, rows, (world_size(), rank()), of_group("abcdefgh"[: world_size()])


class Products(ContrastiveLoss):
    """Has more than products of embeddings."""

    def of_pair(self, x, y, clusters):
        return (x - y).square().sum() + x.sum()


def travelled(precision):
    """Return the terms and gradients of 24 clips under autocast, and what the processes sent each other."""
    rows, _ = data(24, torch.float32, width=64)
    mine = {name: own(value, [12, 12]) if world_size() > 1 else value for name, value in rows.items()}
    found = []
    for loss in (make_contrastive(ContrastiveConfig(tile=TILE)), Products(ContrastiveConfig())):
        leaves = {name: value.clone().requires_grad_() for name, value in mine.items()}
        with counted() as calls:
            with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
                terms = loss(leaves, [12, 12] if world_size() > 1 else None)
            sum(terms.values()).backward()
        terms = {name: term.detach() for name, term in terms.items()}
        found.append((terms, {name: leaf.grad for name, leaf in leaves.items()}, calls))
    return found


MISSING = ([True, True], [True, True], [False, True], [True, True], [True, False], [True, True], [True, True])
"""Which clips have a video and a text. The last two groups of a step lack clips, or a text."""
KINDS = ("kmeans", "sinkhorn_swapped")
STEPS = ([4, 0, 3, 0], [2, 2, 0, 0], [0, 0, 0, 7])


def step(counts, first, module):
    """Return the loss of a training step, what it logs, and the gradients; zeros where there is no loss."""
    generator = torch.Generator().manual_seed(0)
    video, words = (torch.randn(7, width, generator=generator) for width in (16, 8))
    chosen = slice(first, first + counts)
    present = torch.tensor([[*row[:1], False, *row[1:]] for row in MISSING])[chosen]
    names = tuple(f"{clip}:0" for clip in range(counts))
    batch = ClipBatch(ids=names, video=video[chosen], words=words[chosen, None], present=present)
    logged = {}
    module.log = lambda name, value, **_: logged.update({name: value})
    module.log_dict = lambda values, **_: logged.update(values)
    module.zero_grad()
    loss = module.training_step(batch, 0)
    if loss is not None:
        module.backward(loss)
    zero = torch.zeros(())
    gradients = {name: zero if value.grad is None else value.grad for name, value in module.named_parameters()}
    logged = {name: value.detach() for name, value in logged.items()}
    return (zero if loss is None else loss.detach()), logged, gradients


def make(kind):
    torch.manual_seed(0)
    names, widths = ("video", "text"), {"video_dim": 16, "text_dim": 8, "reconstruction_hidden": 4}
    network = NetworkConfig(embedding_dim=8, modalities=names, reconstruction=True, **widths)
    clustering = ClusteringConfig(kind, num_clusters=3, queue_rows=8)
    module = MCNModule(network, clustering=clustering, distributed=DistributedConfig(2))
    if kind == "kmeans":
        module.clustering.of["mean"].set_centroids(torch.randn(3, 8))
    module._trainer = types.SimpleNamespace(global_step=0, training=True)
    return module


def everything():
    found = {}
    for size, counts in FORMS[world_size()]:
        form_groups(size)
        found[size] = {name: measure_group(name, counts) for name in SOME}, train_group(counts), collect()
    if world_size() == 2:
        form_groups(None)
        found["travelled"] = {precision: travelled(precision) for precision in (None, torch.bfloat16)}
    if world_size() == 4:
        for kind, counts in product(KINDS, STEPS):
            module = make(kind)
            module.distributed_config.form_groups()
            loss, logged, gradients = step(counts[rank()], sum(counts[: rank()]), module)
            means = {name: sum_all(value.expand_as(dict(module.named_parameters())[name])) / 4
                     for name, value in gradients.items()}  # fmt: skip
            found[kind, tuple(counts)] = loss, logged, means
        with pytest.raises(InputError, match="expected a divisor of the number of devices, 4, found 3"):
            DistributedConfig(3).form_groups()
    return found


@pytest.fixture(scope="module")
def results():
    """What each of two, four and eight processes finds."""
    return {world: run(everything, world=world) for world in FORMS}


@pytest.mark.parametrize("world", FORMS)
def test_a_group_is_a_run_of_its_own(world, results):
    for size, counts in FORMS[world]:
        groups = [range(first, first + size) for first in range(0, world, size)]
        for group in groups:
            clips = slice(sum(counts[: group[0]]), sum(counts[: group[-1] + 1]))
            rows, clusters = data(sum(counts), torch.float64)
            rows, clusters = {name: value[clips] for name, value in rows.items()}, clusters[clips]
            for name in SOME:
                config = dataclasses.replace(CONFIGS[name], tile=WHOLE)
                expected = measure(config, rows, clusters, None)
                ours = [results[world][each][size][0][name] for each in group]
                joined = {key: torch.cat([gradients[key] for _, gradients in ours]) for key in NAMES}
                joined |= {key: ours[0][1][key] for key in expected[1] if key == "temperature"}
                for terms, _ in ours:
                    assert_same((terms, joined), expected, torch.float64, f"{name}, {size} of {world}")


@pytest.mark.parametrize("world", FORMS)
def test_gradients_are_the_mean_of_the_groups(world, results):
    for size, counts in FORMS[world]:
        inputs, labels = data(sum(counts), torch.float64, width=7)
        centroids, gradients = data(4, torch.float64)[0]["video"], []
        for first in range(0, world, size):
            clips = slice(sum(counts[:first]), sum(counts[: first + size]))
            maps = Maps(torch.float64)
            loss = maps({name: value[clips] for name, value in inputs.items()}, labels[clips], centroids)
            loss.backward()
            gradients.append({name: value.grad for name, value in maps.named_parameters()})
            for each in range(first, first + size):
                torch.testing.assert_close(results[world][each][size][1][0], loss.detach())
        for result in results[world]:
            for name, found in result[size][1][1].items():
                expected = torch.stack([each[name] for each in gradients]).mean(dim=0)
                torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("world", FORMS)
def test_collectives_are_those_of_the_group_inside_of_it(world, results):
    for size, _ in FORMS[world]:
        for number, result in enumerate(results[world]):
            inside, rows, outside, mine = result[size][2]
            group = list(range(number // size * size, number // size * size + size))
            assert inside == (size, number % size, list(range(1, size + 1)), group)
            assert rows.tolist() == group and outside == (world, number)
            assert mine == [*"abcdefgh"[group[0] : group[-1] + 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_takes_the_mean_of_its_groups(kind, results):
    """Also where a group has no clips, or a modality that the other group lacks."""
    for counts in STEPS:
        module = make(kind)
        groups = [step(sum(counts[first : first + 2]), sum(counts[:first]), module) for first in (0, 2)]
        names = {name for _, logged, _ in groups for name in logged}
        assert {"train/contrastive", "train/cluster", "train/rebuild_text", "train/loss"} <= names
        for result in results[4]:
            _, logged, gradients = result[kind, tuple(counts)]
            assert set(logged) == names
            for name in names:
                expected = sum(one.get(name, torch.zeros(())) for _, one, _ in groups) / 2
                torch.testing.assert_close(logged[name], expected, rtol=1e-5, atol=1e-6, msg=name)
            for name, found in gradients.items():
                expected = sum(one[name] for _, _, one in groups).expand_as(found) / 2
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_rows_travel_in_the_precision_of_the_products(precision, results):
    (terms, gradients, _), (own_terms, *_) = travelled(precision)
    for number, result in enumerate(results[2]):
        (found, slopes, calls), (own_found, _, own_calls) = result["travelled"][precision]
        for name, value in terms.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)
            torch.testing.assert_close(own_found[name], own_terms[name], rtol=1e-6, atol=0)
        for name, value in gradients.items():
            torch.testing.assert_close(slopes[name], own_of(value, number), rtol=1e-5, atol=1e-6)
        half = 12 * 64 * 4
        rows = [call for call in calls if call.received >= half / 2]
        gathers, scatters = rows[:2], rows[2:]
        assert {call.name for call in gathers} == {"all_gather_into_tensor"}
        assert [call.dtype for call in gathers] == [precision or torch.float32] * 2
        assert [call.received for call in gathers] == [half / 2 if precision else half] * 2
        assert [(call.name, call.dtype, call.received) for call in scatters] == [
            ("reduce_scatter_tensor", torch.float32, half)
        ] * 2
        assert {call.dtype for call in own_calls} == {torch.float32}, "its own formula may need all digits"


def own_of(value, number):
    return value[12 * number : 12 * (number + 1)]


def test_size_of_groups_is_refused_by_name():
    with pytest.raises(InputError, match=r"--model\.distributed\.group_size: expected a whole number above 0, found 0"):
        DistributedConfig(0)
    wanted = (
        r"--model\.distributed\.group_size: expected a divisor of the number of devices, 6, found 4; set it to 1 or"
    )
    with pytest.raises(InputError, match=wanted):
        DistributedConfig(4).check(6)
    DistributedConfig(3).check(6)
    DistributedConfig().check(5)
