"""One training step (forward, losses, backward) against the plain formulas of the method in eager PyTorch, in one run.

    python benchmarks/step.py --clips 64 --dim 512 --frames 400

The plain version computes what the published formulas say with 2-d convolutions, a matrix of word vectors carried in
the batch and cross-entropies; both see the same weights, data and threads. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from references import model as plain

from mcn_lightning.losses import ClusterLoss, ClusterLossConfig, ContrastiveConfig, ContrastiveLoss, reconstruction_loss
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.models.released import load_released

MARGIN = 0.001


def fused_batch_norm(state: dict[str, Tensor], name: str, x: Tensor, training: bool) -> Tensor:
    """PyTorch's own batch norm in place of the reference's written-out one, so that the comparison is a fair one."""
    return F.batch_norm(x, None, None, state[f"{name}.weight"], state[f"{name}.bias"], training=training)


def plain_mms(x: Tensor, y: Tensor) -> Tensor:
    similarity = x @ y.T - MARGIN * torch.eye(len(x))
    truth = torch.arange(len(x))
    return F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)


def plain_step(state: dict[str, Tensor], inputs: dict[str, Tensor], labels: Tensor, centroids: Tensor) -> Tensor:
    vectors = inputs["table"][inputs["words"].long()]
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
    loss = torch.stack(list(ContrastiveLoss(ContrastiveConfig())(out.embeddings()).values())).sum()
    loss = loss + ClusterLoss(ClusterLossConfig())(out.embeddings(), out.mean(), labels, centroids)
    rebuilt = reconstruction_loss(out.reconstructions, out.targets, False)
    return loss + 50 * torch.stack(list(rebuilt.values())).sum()


def seconds(step: Callable[[], Tensor], repeats: int) -> tuple[float, float]:
    """Return the median time of a step with its backward pass, and the loss."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        loss = step()
        loss.backward()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2], float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("clips", 64), ("dim", 512), ("frames", 400), ("clusters", 64), ("repeats", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    plain.batch_norm = fused_batch_norm
    state = plain.random_released_state_dict(options.dim)
    network = MCN(NetworkConfig(embedding_dim=options.dim)).train()
    load_released(network, state)
    weights = {
        name: value.clone().requires_grad_(value.is_floating_point() and "running" not in name)
        for name, value in state.items()
    }
    clips = options.clips
    inputs = {
        "video": F.normalize(torch.rand(clips, 4096), dim=1),
        "audio": -80 * torch.rand(clips, 40, options.frames),
        "frames": torch.full((clips,), options.frames),
        "words": torch.randint(0, 1000, (clips, 20), dtype=torch.int32),
        "table": 0.1 * torch.randn(1000, 300),
    }
    labels, centroids = torch.randint(0, options.clusters, (clips,)), torch.randn(options.clusters, options.dim)
    plain_time, plain_loss = seconds(lambda: plain_step(weights, inputs, labels, centroids), options.repeats)
    our_time, our_loss = seconds(lambda: our_step(network, inputs, labels, centroids), options.repeats)
    print(f"{clips} clips, D = {options.dim}, {options.frames} frames, {options.threads} threads")
    print(f"plain formulas  {plain_time:8.3f} s a step   loss {plain_loss:.4f}")
    print(f"mcn-lightning   {our_time:8.3f} s a step   loss {our_loss:.4f}")
    print(f"ratio plain / ours {plain_time / our_time:.2f}")
    print(f"peak memory of both {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
