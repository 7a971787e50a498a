"""The scaling table: its operations and bytes are those of processes, and it says what groups are for."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from collectives import counted
from processes import run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mcn_lightning.clustering import FeatureQueue, KMeans
from mcn_lightning.distributed import form_groups, in_group, of_group, rank
from mcn_lightning.losses import ContrastiveConfig, make_contrastive, tiled
from mcn_lightning.losses.tiled import KEPT_BYTES

ROOT = Path(__file__).parents[1]
CLIPS, DIM, WORLD, QUEUE, CLUSTERS = 12, 10, 4, 30, 3
NAMES = ("video", "audio", "text")


class Passes(TorchDispatchMode):
    """Counts reads and writes of tensors with as many numbers as a tile, without those of products and views."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers, self.total = numbers, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        views = ("mm", "view", "slice", "t.", "diagonal", "detach", "expand", "permute")
        if not any(name in str(function) for name in views):
            # a tensor to write into is the result, too
            tensors = [each for each in tree_leaves((args, found)) if isinstance(each, torch.Tensor)]
            self.total += sum(each.numel() == self.numbers for each in tensors)
        return found


def measure():
    """Return what a process computes and receives: the losses of all and of a group, the queue, an iteration."""
    found = {}
    for group in (WORLD, 2):
        form_groups(group)
        rows = {name: torch.randn(CLIPS, DIM, requires_grad=True) for name in NAMES}
        loss = make_contrastive(ContrastiveConfig(tile=5))
        for kept in (0, 1 << 30):
            KEPT_BYTES["cpu"] = kept
            with counted() as calls, FlopCounterMode(display=False) as flops:
                with in_group(), torch.autocast("cpu", dtype=torch.bfloat16):
                    terms = loss(rows, of_group([CLIPS] * WORLD))
                sum(terms.values()).backward()
            found[group, kept] = flops.get_total_flops(), sum(call.received for call in calls)
        KEPT_BYTES.pop("cpu")
    form_groups(None)
    queue = FeatureQueue(QUEUE, DIM)
    queue.divide()
    with counted() as calls:
        queue.push(torch.randn(CLIPS // 2, DIM), [CLIPS // 2] * WORLD)
    found["queue"] = queue.data.numel() * 4, sum(call.received for call in calls)
    start, generator, received = 9 * torch.eye(CLUSTERS, DIM), torch.Generator().manual_seed(rank()), []
    features = start[torch.arange(CLIPS) % CLUSTERS] + torch.randn(CLIPS, DIM, generator=generator)
    for iterations in (2, 5):
        with counted() as calls:
            report = KMeans(CLUSTERS, iterations, -1.0).fit(features, start)[2]
        assert report.iterations == iterations and report.reseeded == 0
        received.append(sum(call.received for call in calls))
    found["iteration"] = (received[1] - received[0]) / 3
    return found


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling")


def test_the_formulas_are_what_processes_do(scaling):
    parts = scaling.Parts(clips=CLIPS, dim=DIM, queue=QUEUE, clusters=CLUSTERS)
    results = run(measure, world=WORLD)
    for result in results:
        for group in (WORLD, 2):
            moved = (scaling.embedding_bytes, scaling.gradient_bytes, scaling.normalizer_bytes)
            for kept in (0, 1 << 30):
                flops, received = result[group, kept]
                assert flops == dataclasses.replace(parts, kept=kept).similarity_operations(group)
                assert received == sum(each(parts, group) for each in moved)
        assert result["iteration"] == pytest.approx(scaling.centroid_bytes(parts, WORLD))
    assert max(result["queue"][0] for result in results) == scaling.queue_bytes(parts, WORLD)
    # the first share is filled by the first processes, one of which is its owner
    assert 0 < max(result["queue"][1] for result in results) <= scaling.pushed_bytes(parts, WORLD) + DIM * 4


def test_passes_over_the_similarities_are_counted(scaling, monkeypatch):
    monkeypatch.setattr(tiled, "BOUNDED", set())
    monkeypatch.setitem(KEPT_BYTES, "cpu", 1 << 30)
    loss, tile = make_contrastive(ContrastiveConfig(tile=16)), 16 * 16
    x, y = (torch.randn(32, DIM, requires_grad=True) for _ in range(2))
    with Passes(tile) as passes:
        loss({"text": x, "video": y})["text_video"].backward()
    # in bfloat16 the gradient is rounded, 1.5, and two products read it, 1; the product is written, 1
    assert scaling.Parts().passes == passes.total / 4 + 1.5 + 1 + 1
    assert scaling.Parts().kept == KEPT_BYTES["cuda"]
    monkeypatch.setattr(tiled, "BOUNDED", {"cpu"})
    monkeypatch.setitem(KEPT_BYTES, "cpu", 0)
    with Passes(tile) as before:
        loss({"text": x, "video": y})["text_video"].backward()
    assert before.total / 4 == passes.total / 4 + 9 - 1, "the second product writes, too"


def lines(text):
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:2] == "| "]


def test_groups_of_a_node_keep_the_efficiency(scaling, monkeypatch, capsys):
    page = (ROOT / "docs" / "guides" / "scaling.md").read_text()
    for share, least in (("0.55", 85), ("1", 80)):
        monkeypatch.setattr(sys, "argv", ["scaling.py", "--share", share])
        scaling.main()
        head, *rows = lines(capsys.readouterr().out)
        assert head[-1] == "efficiency" and len(rows) == 12
        found = {(row[0], int(row[1])): int(row[-1].removesuffix(" %")) for row in rows}
        assert min(found["groups of 8", 64], found["groups of 8", 512]) >= least
        assert found["all", 64] < 50 and found["all, as it was", 64] < 42
        for row in rows:
            assert share == "1" or f"| {' | '.join(row)} |" in page, "the page shows the table as printed"


def test_measured_parts_take_the_place_of_assumptions(scaling, tmp_path, monkeypatch, capsys):
    measured = [
        ("step", "eager, bf16, 512 clips", 30.0), ("step", "eager, bf16, 4096 clips", 300.0),
        ("step", "channels-last, bf16, 4096 clips", 200.0), ("step", "eager, bf16, 8192 clips", "out of memory"),
        ("rates", "product of 8192 x 8192, bf16", 700.0), ("rates", "product of 8192 x 8192, TF32", 350.0),
        ("rates", "copy on the device, read and written", 4000.0),
    ]  # fmt: skip
    names = ("section", "case", "value")
    (tmp_path / "gpu.json").write_text(json.dumps([dict(zip(names, row, strict=True)) for row in measured]))
    parts = scaling.read_parts(tmp_path / "gpu.json", scaling.Parts())
    assert (parts.clips, parts.step, parts.rate, parts.kmeans_rate) == (4096, 0.2, 7e14, 3.5e14)
    assert parts.memory_rate == 4e12 and parts.network_seconds < 0.2
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"^error: --measured .*other\.json: expected rows of rates and step, found"):
        scaling.read_parts(tmp_path / "other.json", scaling.Parts())
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--measured", str(tmp_path / "gpu.json"), "--gpus", "1", "16"])
    scaling.main()
    head, alone, *_ = lines(capsys.readouterr().out)
    step = dict(zip(head, alone, strict=True))
    assert float(step["step"]) == pytest.approx(200 + float(step["k-means"]), abs=1), "the step that was measured"
