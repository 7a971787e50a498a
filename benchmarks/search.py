"""Time, memory and recall of searches among generated embeddings, and what the sizes beyond take, on paper.

    python benchmarks/search.py --root DIR --clips 100000 1000000 --dim 1024 --threads 2

Clips have a few latent numbers and noise, without clusters, which is hard for lists. Queries are clips with as much
noise again, as sentences lie near their videos. Rows are written as by ``lightning index``, and the search index is
built and tuned as there; a second run takes both as they are. Searches are timed one query at a time, in a second pass,
with the scores of the stored embeddings. Prints tables, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch

from mcn_lightning.search.neighbours import Choice, Neighbours, build, choose, exact
from mcn_lightning.search.vectors import Vectors, write_shard

PAPER = (10_000_000, 120_000_000)
FLOPS, BYTES = 1e11, 1e10
"""Operations and bytes read in a second, of two cores: assumptions of what is on paper."""
LATENT = 32
"""Numbers that an embedding really has."""


def write_vectors(root: Path, clips: int, dim: int) -> tuple[Vectors, list[tuple[str, int]]]:
    """Write embeddings of length 1, in shards of 50,000: LATENT numbers, mapped to D, and noise of half their size."""
    shards, size = [], 50_000
    axes = torch.randn(LATENT, dim, generator=torch.Generator().manual_seed(0)) / LATENT**0.5
    for number, first in enumerate(range(0, clips, size)):
        random = torch.Generator().manual_seed(number + 1)
        rows = min(size, clips - first)
        video = torch.randn(rows, LATENT, generator=random) @ axes
        video += 0.5 * torch.randn(rows, dim, generator=random)
        name = f"vectors-{number:05d}.safetensors"
        write_shard(root / name, {"video": torch.nn.functional.normalize(video, dim=1)})
        shards.append((name, rows))
    return Vectors(root, shards), shards


def make_queries(vectors: Vectors, count: int, seed: int) -> torch.Tensor:
    random = np.random.default_rng(seed)
    rows = vectors.rows(["video"], np.sort(random.choice(len(vectors), count, False)))
    noise = torch.from_numpy(random.standard_normal(rows.shape, dtype=np.float32))
    return torch.nn.functional.normalize(rows + noise * rows.norm() / noise.norm(), dim=1)


def measure(root: Path, clips: int, dim: int, memory: float, queries: int) -> str:
    root.mkdir(parents=True, exist_ok=True)
    kept, choice = root / f"{dim}.json", choose(clips, dim, memory)
    if kept.is_file():
        about = json.loads(kept.read_text())
        vectors = Vectors(root, about["shards"])
    else:
        vectors, shards = write_vectors(root, clips, dim)
        about = build(root / "x.faiss", vectors, ["video"], np.arange(clips), choice, 0.97)
        about["shards"] = shards
        kept.write_text(json.dumps(about))
    neighbours = Neighbours(root / "x.faiss", about, vectors, ["video"])
    asked = make_queries(vectors, queries, 1)
    truth = exact(vectors, ["video"], asked, 10)[1]
    times, hits = list[float](), 0
    for query in asked:  # the pages of the lists are in memory then, as after the first minutes of a server
        neighbours.search(query, 10)
    for query, true in zip(asked, truth, strict=True):
        started = time.perf_counter()
        _, rows = neighbours.search(query, 10)
        times.append(1000 * (time.perf_counter() - started))
        hits += len({*rows.tolist()} & {*true.tolist()})
    size = (root / "x.faiss").stat().st_size / 1e6
    return (
        f"| {clips:,} x {dim} | {choice.factory}, {about['probes']} lists | {about['seconds']:.0f} s | {size:.0f} MB "
        f"| {np.median(times):.1f} ms | {np.percentile(times, 95):.1f} ms | {hits / truth.size:.3f} |"
    )


def on_paper(clips: int, dim: int, memory: float) -> str:
    """Return bytes, time to assign all clips to lists, and time to read 256 lists and all centres."""
    choice: Choice = choose(clips, dim, memory)
    lists = int(choice.factory[3:].split(",")[0])
    hours = 2 * clips * lists * dim / FLOPS / 3600
    read = 4 * lists * dim + choice.bytes * min(256 / lists, 1)
    return (
        f"| {clips:,} x {dim} | {choice.factory} | {2 * clips * dim / 1e9:.0f} GB | {choice.bytes / 1e9:.1f} GB "
        f"| {hours:.1f} h | {read / 1e6:.0f} MB | {1000 * read / BYTES:.0f} ms |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the generated embeddings")
    parser.add_argument("--clips", type=int, nargs="+", default=[100_000], help="sizes to measure")
    parser.add_argument("--dim", type=int, default=1024, help="width of an embedding")
    parser.add_argument("--memory", type=float, default=4.0, help="gigabytes of a search index")
    parser.add_argument("--queries", type=int, default=100, help="queries that are timed")
    parser.add_argument("--threads", type=int, default=2, help="threads of a search")
    parser.add_argument("--tiny", action="store_true", help="thousands of clips, to see that it runs")
    args = parser.parse_args()
    import faiss

    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    if args.tiny:
        args.clips, args.dim, args.queries, args.memory = [3_000], 32, 10, 1e-4
    print("| clips | search index | built in | its file | median | 95 % within | recall@10 |")
    print("|---|---|---|---|---|---|---|")
    for clips in args.clips:
        print(measure(args.root / str(clips), clips, args.dim, args.memory, args.queries), flush=True)
    print(f"\nmost memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB\n")
    print("| on paper | search index | embeddings | its size | built in | read by a search of 256 lists | in |")
    print("|---|---|---|---|---|---|---|")
    for clips, memory in zip(PAPER, (12.0, 12.0), strict=True):
        print(on_paper(clips, 1024, memory))


if __name__ == "__main__":
    main()
