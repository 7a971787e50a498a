"""Contrastive loss of one pair of modalities over a large batch: in tiles, against the whole similarity matrix.

    python benchmarks/loss.py --threads 2

Prints a table of seconds and peak memory of forward and backward, asserts nothing. Every figure comes from a process
of its own; each round runs both ways, one after the other. Memory is what is added to that of the embeddings: on a GPU
what torch allocates, on a CPU the growth of the largest resident set.
Beside other programs, run it with OMP_WAIT_POLICY=passive and without: the two can order the ways differently.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.losses import ContrastiveConfig, ContrastiveLoss

MARGIN = 0.001
DATA = {
    "cosine": "cosines over a temperature of 0.05",
    "dot": "dot products of entries of variance 1",
}


def embeddings(data: str, clips: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Return two modalities ``(clips, dim)`` whose true pairs have a cosine of about 0.1, made without large copies."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(clips, dim, generator=generator, device=device)
    y = torch.randn(clips, dim, generator=generator, device=device).add_(x, alpha=0.1)
    if data == "cosine":
        x, y = (z.div_(z.norm(dim=1, keepdim=True)) for z in (x, y))
        x.div_(0.05)
    return x.requires_grad_(), y.requires_grad_()


def plain_mms(x: Tensor, y: Tensor) -> Tensor:
    similarity = x @ y.T - MARGIN * torch.eye(len(x), device=x.device)
    truth = torch.arange(len(x), device=x.device)
    return F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)


def tiled_mms(x: Tensor, y: Tensor, tile: int) -> Tensor:
    return ContrastiveLoss(ContrastiveConfig(margin=MARGIN, tile=tile))({"text": x, "video": y})["text_video"]


def peak_memory(device: str) -> int:
    """Return the largest memory of this process so far, bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(way: str, data: str, clips: int, options: argparse.Namespace) -> dict[str, float]:
    """Return seconds, bytes, loss and gradient norm of one way in this process."""
    torch.set_num_threads(options.threads)
    loss: Callable[[Tensor, Tensor, int], Tensor] = (lambda x, y, _: plain_mms(x, y)) if way == "plain" else tiled_mms
    small = embeddings(data, 64, options.dim, options.device)
    loss(*small, 16).backward()  # starts threads and libraries
    x, y = embeddings(data, clips, options.dim, options.device)
    before = peak_memory(options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(options.repeats):
        x.grad = y.grad = None
        started = time.perf_counter()
        value = loss(x, y, options.tile)
        value.backward()
        if options.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    added = peak_memory(options.device) - before
    assert x.grad is not None and y.grad is not None
    gradient = float(x.grad.norm() + y.grad.norm())
    return {"seconds": min(seconds), "bytes": added, "loss": float(value.detach()), "gradient": gradient}


def in_own_process(way: str, data: str, clips: int) -> dict[str, float]:
    """Run ``measure`` in a fresh process with the options of this one."""
    words = [sys.executable, __file__, *sys.argv[1:], "--case", way, data, str(clips)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        print(f"{way}, {clips:,} clips: {reason}", file=sys.stderr)
        return dict.fromkeys(("seconds", "bytes", "loss", "gradient"), float("nan"))
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [4096, 16384, 65536] if device == "cuda" else [4096, 16384]
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--clips", type=int, nargs="+", default=sizes, help="global batches")
    parser.add_argument("--data", choices=DATA, nargs="+", default=list(DATA), help="how far similarities spread")
    parser.add_argument("--dim", type=int, default=1024, help="width of the embeddings")
    parser.add_argument("--tile", type=int, default=ContrastiveConfig().tile, help="rows and columns of a tile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure; the table has medians")
    parser.add_argument("--repeats", type=int, default=2, help="steps in each process; the fastest counts")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        way, data, clips = options.case
        print(json.dumps(measure(way, data, int(clips), options)))
        return
    print(f"{options.device}, {options.threads} threads, D = {options.dim}, tile {options.tile}, float32\n")
    print("| similarities | clips | plain | tiled | plain / tiled | plain, memory | tiled, memory | plain / tiled |")
    print("|---|---|---|---|---|---|---|---|")
    for data in options.data:
        for clips in options.clips:
            rounds = [
                {way: in_own_process(way, data, clips) for way in ("plain", "tiled")} for _ in range(options.rounds)
            ]
            middle = {
                (way, key): statistics.median(found[way][key] for found in rounds)
                for way in ("plain", "tiled")
                for key in ("seconds", "bytes", "loss", "gradient")
            }
            ratios = sorted(found["plain"]["seconds"] / found["tiled"]["seconds"] for found in rounds)
            memory = [middle[way, "bytes"] for way in ("plain", "tiled")]
            print(
                f"| {DATA[data]} | {clips:,} | {middle['plain', 'seconds']:.2f} s | {middle['tiled', 'seconds']:.2f} s "
                f"| **{statistics.median(ratios):.2f}** ({ratios[0]:.2f} to {ratios[-1]:.2f}) "
                f"| {memory[0] / 1e6:,.0f} MB | {memory[1] / 1e6:,.0f} MB | {memory[0] / memory[1]:.1f} |",
                flush=True,
            )
            for key in ("loss", "gradient"):
                ours, theirs = middle["tiled", key], middle["plain", key]
                if not math.isclose(ours, theirs, rel_tol=1e-5):
                    print(f"{key}: {ours} in tiles, {theirs} from the whole matrix", file=sys.stderr)


if __name__ == "__main__":
    main()
