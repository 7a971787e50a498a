"""Time and memory of ranks against sorting the whole similarity matrix, as the released evaluation does.

    python benchmarks/retrieval.py --items 3350 10000 30000 --threads 2
    python benchmarks/retrieval.py --items 100000 --only ours --threads 2

As many queries as items, float32. Each case runs in a fresh process after a small one, and the versions take turns. The
memory of a case is the most that its process held beyond the embeddings themselves. The sorted version needs three
matrices of items x items (11 GB at 30,000). Prints a table, asserts nothing; the last column is the share of the
queries with the same rank in both, which use different matrix products.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import numpy as np
import rounds
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


def measure(version: str, items: int, target: str, options: argparse.Namespace) -> rounds.Measured:
    """Return seconds, processor seconds and bytes; the ranks are written to a file."""
    torch.set_num_threads(options.threads)
    rank = {"sorted": sorted_ranks, "ours": our_ranks}[version]
    queries, gallery = make_embeddings(items, options.dim)
    rank(queries[:500], gallery[:500])
    before, started, busy = rounds.begin_memory(), time.perf_counter(), time.process_time()
    ranks = rank(queries, gallery)
    seconds, processor = time.perf_counter() - started, time.process_time() - busy
    np.save(target, ranks)
    return {"seconds": seconds, "processor": processor, "bytes": max(rounds.peak_memory() - before, 4096)}


def show(items: int, options: argparse.Namespace) -> None:
    """Print the row of one size."""
    versions = [options.only] if options.only else list(VERSIONS)
    with tempfile.TemporaryDirectory() as folder:
        files = {version: f"{folder}/{version}.npy" for version in versions}

        def run(version: str) -> rounds.Measured:
            if options.tiny:
                return measure(version, items, files[version], options)
            return rounds.in_own_process(__file__, [version, str(items), files[version]])

        found = rounds.take_turns(versions, options.rounds, run)
        ranks = {version: np.load(path) for version, path in files.items()}
    cells = [f"{rounds.median(found[version], 'seconds'):.2f} s" for version in versions]
    sizes = [f"{rounds.median(found[version], 'bytes') / 1e6:,.0f} MB" for version in versions]
    if options.only:
        cells += sizes
    else:
        ratios = [rounds.ratio(found["sorted"], found["ours"], key, 1) for key in ("seconds", "processor", "bytes")]
        same = 100 * (ranks["sorted"] == ranks["ours"]).mean()
        cells += [*ratios[:2], *sizes, ratios[2], f"{same:.2f} %"]
    print(f"| {items:,} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[3_350, 10_000, 30_000], help="numbers of items")
    parser.add_argument("--dim", type=int, default=512, help="width of the embeddings")
    parser.add_argument("--threads", type=int, default=2, help="threads of the matrix products")
    parser.add_argument("--only", choices=VERSIONS, help="measure one version alone")
    options = rounds.parse(parser, items=[300], dim=16, threads=1)
    if options.case:
        version, items, target = options.case
        print(json.dumps(measure(version, int(items), target, options)))
        return
    if options.only:
        columns = [f"{options.only}, time", f"{options.only}, memory"]
    else:
        columns = ["sorted, time", "ours, time", "sorted / ours, time", "sorted / ours, processor time"]
        columns += ["sorted, memory", "ours, memory", "sorted / ours, memory", "same rank"]
    print("| items | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for items in options.items:
        show(items, options)


if __name__ == "__main__":
    main()
