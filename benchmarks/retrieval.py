"""Time and memory of ranks against sorting the whole similarity matrix, as the released evaluation does.

    python benchmarks/retrieval.py --items 3350 10000 30000 --threads 2
    python benchmarks/retrieval.py --items 100000 --only ours --threads 2

As many queries as items, float32. Each case runs in a fresh process after a small one; its memory is the most that the
process held beyond the embeddings themselves. The sorted version needs three matrices of items x items (11 GB at
30,000). Prints a table, asserts nothing; the last column is the share of the queries with the same rank in both, which
use different matrix products.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.metrics import expected_ranks

VERSIONS = ("sorted", "ours")


def make_embeddings(items: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(items, dim, generator=generator)
    return torch.randn(items, dim, generator=generator).mul_(4).add_(gallery), gallery


def sorted_ranks(queries: Tensor, gallery: Tensor) -> np.ndarray:
    """Rank by sorting each row of the matrix and finding the diagonal in it; the best rank of a tie."""
    scores = np.matmul(queries.numpy(), gallery.numpy().T)
    ordered = np.sort(-scores, axis=1)
    own = -np.diag(scores)
    return 1 + (ordered == own[:, None]).argmax(axis=1)


def our_ranks(queries: Tensor, gallery: Tensor) -> np.ndarray:
    return expected_ranks(queries, gallery, torch.arange(len(queries))).numpy()


def peak() -> float:
    """Return the most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(version: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    rank = {"sorted": sorted_ranks, "ours": our_ranks}[version]
    queries, gallery = make_embeddings(options.items[0], options.dim)
    rank(queries[:500], gallery[:500])
    before, started = peak(), time.perf_counter()
    ranks = rank(queries, gallery)
    seconds = time.perf_counter() - started
    np.save(options.save, ranks)
    print(json.dumps({"seconds": seconds, "megabytes": peak() - before}))


def run(version: str, items: int, folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], np.ndarray]:
    """Measure in a process of its own, the median of the repeats by time."""
    command = [sys.executable, __file__, "--items", str(items), "--dim", str(options.dim), "--only", version]
    command += ["--threads", str(options.threads), "--save", str(folder / version)]
    found = []
    for _ in range(options.repeats):
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    found.sort(key=lambda result: result["seconds"])
    return found[len(found) // 2], np.load(folder / f"{version}.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[3_350, 10_000, 30_000], help="numbers of items")
    parser.add_argument("--dim", type=int, default=512, help="width of the embeddings")
    parser.add_argument("--threads", type=int, default=2, help="threads of the matrix products")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each case, of which the median counts")
    parser.add_argument("--only", choices=VERSIONS, help="measure one version alone")
    parser.add_argument("--save", type=Path, help="measure in this process and save the ranks here")
    options = parser.parse_args()
    if options.save is not None:
        return measure(options.only, options)
    versions = [options.only] if options.only else list(VERSIONS)
    columns = [f"{version}, {unit}" for unit in ("time", "memory") for version in versions]
    if not options.only:
        columns = [*columns[:2], "sorted / ours", *columns[2:], "sorted / ours", "same rank"]
    print("| items | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for items in options.items:
        with tempfile.TemporaryDirectory() as folder:
            found = {version: run(version, items, Path(folder), options) for version in versions}
        seconds = [found[version][0]["seconds"] for version in versions]
        memory = [found[version][0]["megabytes"] for version in versions]
        cells = [*(f"{value:.2f} s" for value in seconds), *(f"{value:,.0f} MB" for value in memory)]
        if not options.only:
            same = (found["sorted"][1] == found["ours"][1]).mean()
            times, sizes = (f"**{values[0] / values[1]:.1f}**" for values in (seconds, memory))
            cells = [*cells[:2], times, *cells[2:], sizes, f"{100 * same:.2f} %"]
        print(f"| {items:,} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
