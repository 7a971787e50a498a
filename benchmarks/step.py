"""One training step (forward, losses, backward) against the plain formulas of the method in eager PyTorch.

    python benchmarks/step.py --clips 32 --dim 512 --frames 400

The plain version computes what the published formulas say with 2-d convolutions, a matrix of word vectors carried in
the batch and cross-entropies, each by PyTorch's own function where there is one. Both see the same weights, data and
threads. Every figure comes from a process of its own, and the versions take turns.

Memory is what a step adds to that of the weights and of the data. It is measured in a process whose allocator gives
every large tensor back when it is freed (glibc's MALLOC_MMAP_THRESHOLD_). Else it keeps some, and the same step needs
up to a third more from one run to the next, whatever the version. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import rounds
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from references import model as plain

from mcn_lightning.losses import (
    ClusterLoss,
    ClusterLossConfig,
    ContrastiveConfig,
    make_contrastive,
    reconstruction_loss,
)
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.models.released import load_released

MARGIN = 0.001
VERSIONS = ("plain", "ours")
KEYS = ("seconds", "processor", "bytes", "loss", "gradient")
NAMES = {"plain": "plain formulas", "ours": "mcn-lightning"}
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1000000"}


def linear(state: plain.StateDict, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def gated(state: plain.StateDict, name: str, x: Tensor) -> Tensor:
    hidden = linear(state, f"{name}.fc", x)
    return hidden * torch.sigmoid(linear(state, f"{name}.cg.fc", hidden))


def batch_norm(state: plain.StateDict, name: str, x: Tensor, training: bool) -> Tensor:
    return F.batch_norm(x, None, None, state[f"{name}.weight"], state[f"{name}.bias"], training=training)


def pool_text(state: plain.StateDict, vectors: Tensor) -> Tensor:
    return F.relu(linear(state, "text_pooling_caption.fc", vectors)).amax(dim=1)


BY_PYTORCH = {"linear": linear, "gated": gated, "batch_norm": batch_norm, "pool_text": pool_text}
"""What the reference writes out step by step, for reading; it would make the comparison an unfair one."""


def plain_mms(x: Tensor, y: Tensor) -> Tensor:
    similarity = x @ y.T - MARGIN * torch.eye(len(x))
    truth = torch.arange(len(x))
    return F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)


def plain_step(state: plain.StateDict, inputs: dict[str, Tensor], labels: Tensor, centroids: Tensor) -> Tensor:
    vectors = inputs["table"][inputs["words"].long()]
    with patch.multiple(plain, **BY_PYTORCH):
        out = plain.embed(state, inputs["video"], inputs["audio"], inputs["frames"], vectors, True)
    v, a, t = out["video"], out["audio"], out["text"]
    loss = plain_mms(t, v) + plain_mms(a, t) + plain_mms(a, v)
    hot = MARGIN * F.one_hot(labels, len(centroids))
    loss = loss + sum(F.cross_entropy(x @ centroids.T - hot, labels) for x in (v, a, t)) / 3
    targets = {"video": inputs["video"], "audio": out["audio_pooled"], "text": out["text_pooled"]}
    return loss + 50 * sum(F.mse_loss(out[f"recon_{name}"], target) for name, target in targets.items())


def our_step(network: MCN, inputs: dict[str, Tensor], labels: Tensor, centroids: Tensor) -> Tensor:
    vectors = F.embedding(inputs["words"], inputs["table"])
    out = network(inputs["video"], inputs["audio"], inputs["frames"], vectors)
    embeddings = out.embeddings()
    contrastive = make_contrastive(ContrastiveConfig(margin=MARGIN))(embeddings)
    loss = torch.stack(list(contrastive.values())).sum()
    targets = {name: (centroids, labels, False) for name in embeddings}
    loss = loss + ClusterLoss(ClusterLossConfig(margin=MARGIN))(embeddings, targets)
    rebuilt = reconstruction_loss(out.reconstructions, out.targets, False)
    return loss + 50 * torch.stack(list(rebuilt.values())).sum()


def prepare(version: str, options: argparse.Namespace) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Return the step of a version, and its weights."""
    torch.manual_seed(0)
    clips, widths = options.clips, tuple(options.widths)
    state = plain.random_released_state_dict(options.dim, audio_widths=widths)
    inputs = {
        "video": F.normalize(torch.rand(clips, 4096), dim=1),
        "audio": -80 * torch.rand(clips, 40, options.frames),
        "frames": torch.full((clips,), options.frames),
        "words": torch.randint(0, 1000, (clips, 20), dtype=torch.int32),
        "table": 0.1 * torch.randn(1000, 300),
    }
    given = inputs, torch.randint(0, options.clusters, (clips,)), torch.randn(options.clusters, options.dim)
    if version == "plain":
        learned = [value for name, value in state.items() if value.is_floating_point() and "running" not in name]
        for value in learned:
            value.requires_grad_()
        return lambda: plain_step(state, *given), learned
    network = MCN(NetworkConfig(embedding_dim=options.dim, audio_widths=widths)).train()
    load_released(network, state)
    return lambda: our_step(network, *given), list(network.parameters())


def measure(version: str, options: argparse.Namespace) -> rounds.Measured:
    """Return seconds of a step, processor seconds, added bytes, loss and norm of the gradient."""
    torch.set_num_threads(options.threads)
    step, weights = prepare(version, options)
    found = []
    for _ in range(options.repeats + 1):  # the first starts threads and libraries
        for weight in weights:
            weight.grad = None
        before, start, busy = rounds.begin_memory(), time.perf_counter(), time.process_time()
        loss = step()
        loss.backward()
        found.append((time.perf_counter() - start, time.process_time() - busy, rounds.peak_memory() - before))
    seconds, processor, memory = (sorted(column)[len(column) // 2] for column in zip(*found[1:], strict=True))
    squares = sum(float(weight.grad.square().sum()) for weight in weights if weight.grad is not None)
    return {
        "seconds": seconds,
        "processor": processor,
        "bytes": max(memory, 4096),
        "loss": float(loss.detach()),
        "gradient": squares**0.5,
    }


def run(version: str, options: argparse.Namespace) -> rounds.Measured:
    """Return the times from one process and the memory from another."""
    if options.tiny:
        return measure(version, options)
    times = rounds.in_own_process(__file__, [version])
    return {**times, "bytes": rounds.in_own_process(__file__, [version], EXACT_MEMORY)["bytes"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clips", 32), ("dim", 512), ("frames", 400), ("clusters", 64), ("repeats", 1), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--widths", type=int, nargs=4, default=[128, 256, 512, 1024], help="of the audio network")
    options = rounds.parse(parser, clips=4, dim=16, frames=32, clusters=4, threads=1, widths=[4, 4, 8, 8])
    if options.case:
        print(json.dumps(measure(options.case[0], options)))
        return
    found = rounds.take_turns(VERSIONS, options.rounds, lambda version: run(version, options))
    print(f"{options.clips} clips, D = {options.dim}, {options.frames} frames, {options.threads} threads, ", end="")
    print(f"float32, medians of {options.rounds}\n")
    print("| | seconds | processor seconds | memory that a step adds | loss | norm of the gradient |")
    print("|---|---|---|---|---|---|")
    for version in VERSIONS:
        middle = {key: rounds.median(found[version], key) for key in KEYS}
        print(f"| {NAMES[version]} | {middle['seconds']:.3f} | {middle['processor']:.3f} | "
              f"{middle['bytes'] / 1e6:.1f} MB | {middle['loss']:.4f} | {middle['gradient']:.4f} |")  # fmt: skip
    cells = [rounds.ratio(found["plain"], found["ours"], key, 3) for key in KEYS[:3]]
    print(f"| plain / ours | {' | '.join(cells)} | | |")


if __name__ == "__main__":
    main()
