"""Contrastive loss of one pair of modalities over a large batch: in tiles, against the whole similarity matrix.

    python benchmarks/loss.py --threads 2

Prints a table of seconds and peak memory of forward and backward, asserts nothing. Every figure comes from a process
of its own, and the two ways take turns. Memory is what is added to that of the embeddings: on a GPU what torch
allocates, on a CPU the growth of the largest resident set.
Beside other programs, run it with OMP_WAIT_POLICY=passive and without: the two can order the ways differently.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable

import rounds
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.losses import ContrastiveConfig, make_contrastive

MARGIN = 0.001
WAYS = ("plain", "tiled")
KEYS = ("seconds", "processor", "bytes", "loss", "gradient")
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
    return make_contrastive(ContrastiveConfig(margin=MARGIN, tile=tile))({"text": x, "video": y})["text_video"]


def measure(way: str, data: str, clips: int, options: argparse.Namespace) -> rounds.Measured:
    """Return seconds, processor seconds, bytes, loss and gradient norm of one way in this process."""
    torch.set_num_threads(options.threads)
    gpu = options.device == "cuda"
    loss: Callable[[Tensor, Tensor, int], Tensor] = (lambda x, y, _: plain_mms(x, y)) if way == "plain" else tiled_mms
    small = embeddings(data, 64, options.dim, options.device)
    loss(*small, 16).backward()  # starts threads and libraries
    x, y = embeddings(data, clips, options.dim, options.device)
    before = torch.cuda.memory_allocated() if gpu else rounds.begin_memory()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds, processor = [], []
    for _ in range(options.repeats):
        x.grad = y.grad = None
        started, busy = time.perf_counter(), time.process_time()
        value = loss(x, y, options.tile)
        value.backward()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        processor.append(time.process_time() - busy)
    added = (torch.cuda.max_memory_allocated() if gpu else rounds.peak_memory()) - before
    assert x.grad is not None and y.grad is not None
    gradient = float(x.grad.norm() + y.grad.norm())
    return {"seconds": min(seconds), "processor": min(processor), "bytes": max(added, 4096),
            "loss": float(value.detach()), "gradient": gradient}  # fmt: skip


def show(data: str, clips: int, options: argparse.Namespace) -> None:
    """Print the row of one size, and where the two ways disagree."""

    def run(way: str) -> rounds.Measured:
        if options.tiny:
            return measure(way, data, clips, options)
        return rounds.in_own_process(__file__, [way, data, str(clips)])

    found = rounds.take_turns(WAYS, options.rounds, run)
    middle = {way: {key: rounds.median(found[way], key) for key in KEYS} for way in WAYS}
    ratios = [rounds.ratio(found["plain"], found["tiled"], key) for key in KEYS[:3]]
    cells = [f"{middle[way]['seconds']:.2f} s" for way in WAYS] + ratios[:2]
    cells += [f"{middle[way]['bytes'] / 1e6:,.0f} MB" for way in WAYS] + ratios[2:]
    print(f"| {DATA[data]} | {clips:,} | {' | '.join(cells)} |", flush=True)
    for key in ("loss", "gradient"):
        ours, theirs = middle["tiled"][key], middle["plain"][key]
        if not math.isclose(ours, theirs, rel_tol=1e-5):
            print(f"{key}: {ours} in tiles, {theirs} from the whole matrix", file=sys.stderr)


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
    parser.add_argument("--repeats", type=int, default=2, help="steps in each process; the fastest counts")
    options = rounds.parse(parser, clips=[96], dim=16, tile=32, threads=1, repeats=1, device="cpu")
    if options.case:
        way, data, clips = options.case
        print(json.dumps(measure(way, data, int(clips), options)))
        return
    print(f"{options.device}, {options.threads} threads, D = {options.dim}, tile {options.tile}, float32, "
          f"medians of {options.rounds}\n")  # fmt: skip
    print("| similarities | clips | plain, time | tiled, time | plain / tiled, time ", end="")
    print("| plain / tiled, processor time | plain, memory | tiled, memory | plain / tiled, memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for data in options.data:
        for clips in options.clips:
            show(data, clips, options)


if __name__ == "__main__":
    main()
