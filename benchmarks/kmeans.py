"""k-means of this project against faiss.Kmeans and fast-pytorch-kmeans, from the same start, rows and threads.

    pip install fast-pytorch-kmeans faiss-cpu
    OMP_NUM_THREADS=2 python benchmarks/kmeans.py --rows 45056 --dim 1024 --clusters 256 --iterations 20

Each engine runs in processes of its own, and they take turns. The rows are drawn around twice as many centres as there
are clusters, or with --factors from a Gaussian of so many dimensions, which has no clusters. All engines make as many
rounds by cosine. faiss.Kmeans returns centroids alone. This project assigns the rows to its last centroids too, and so
computes one product of all rows with all centroids more. faiss ends before where no row changes its cluster.

The ratio says how many times as long another engine takes as this project; that of the CPU seconds of all threads
suffers less from other work on the machine. The objective is the mean cosine of the rows to their centroid. Prints a
table, asserts nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time

import rounds
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.clustering import KMeans, assign

ENGINES = ("mcn-lightning", "faiss.Kmeans", "fast-pytorch-kmeans")
NEEDED = {"faiss.Kmeans": "faiss", "fast-pytorch-kmeans": "fast_pytorch_kmeans"}


def make_rows(options: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if options.factors:
        factors = torch.randn(options.rows, options.factors, generator=generator)
        rows = factors @ torch.randn(options.factors, options.dim, generator=generator)
        return rows.add_(torch.randn(options.rows, options.dim, generator=generator))
    centers = torch.randn(2 * options.clusters, options.dim, generator=generator)
    chosen = torch.randint(len(centers), (options.rows,), generator=generator)
    rows = torch.randn(options.rows, options.dim, generator=generator).mul_(options.noise)
    for first in range(0, len(rows), 4096):
        rows[first : first + 4096] += centers[chosen[first : first + 4096]]
    return rows


def cluster(name: str, rows: Tensor, init: Tensor, iterations: int) -> Tensor:
    """Return the centroids after a number of rounds; the tolerance of -1 lets nobody stop before."""
    if name == "fast-pytorch-kmeans":
        from fast_pytorch_kmeans import KMeans as FastKMeans

        theirs = FastKMeans(n_clusters=len(init), max_iter=iterations, tol=-1.0, mode="cosine")
        theirs.fit_predict(rows, init.clone())
        return theirs.centroids
    if name == "faiss.Kmeans":
        import faiss

        # the same start and rows: else faiss takes 256 rows a centroid, and wants 39 for each
        options = {"spherical": True, "max_points_per_centroid": len(rows), "min_points_per_centroid": 1}
        theirs = faiss.Kmeans(rows.shape[1], len(init), niter=iterations, **options)
        theirs.train(rows.numpy(), init_centroids=F.normalize(init, dim=1).numpy())
        return torch.from_numpy(theirs.centroids)
    return KMeans(len(init), iterations, -1.0).fit(rows, init)[0]


def measure(name: str, options: argparse.Namespace) -> rounds.Measured:
    """Return seconds, processor seconds and objective of one engine in this process."""
    torch.set_num_threads(options.threads)
    if name == "faiss.Kmeans":
        import faiss

        faiss.omp_set_num_threads(options.threads)
    rows = make_rows(options)
    init = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[: options.clusters]]
    cluster(name, rows[: 4 * options.clusters], init, 2)
    start, busy = time.perf_counter(), time.process_time()
    centroids = cluster(name, rows, init, options.iterations)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    labels = assign(rows, centroids)
    objective = float(F.cosine_similarity(rows, centroids[labels]).mean())
    return {"seconds": seconds, "processor": busy, "objective": objective}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 45056), ("dim", 1024), ("clusters", 256), ("iterations", 20), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--noise", type=float, default=2.0, help="spread of the rows around centres of spread 1")
    parser.add_argument("--factors", type=int, default=0, help="dimensions of rows without clusters, and noise of 1")
    options = rounds.parse(parser, rows=300, dim=8, clusters=4, iterations=3, threads=1)
    if options.case:
        print(json.dumps(measure(options.case[0], options)))
        return

    def run(name: str) -> rounds.Measured:
        return measure(name, options) if options.tiny else rounds.in_own_process(__file__, [name])

    missing = [name for name, package in NEEDED.items() if importlib.util.find_spec(package) is None]
    engines = [name for name in ENGINES if name not in missing]
    found = rounds.take_turns(engines, options.rounds, run)
    print(f"{options.rows} x {options.dim}, K = {options.clusters}, {options.iterations} iterations, ", end="")
    kind = f"{options.factors} factors" if options.factors else f"clusters with noise {options.noise}"
    print(f"{kind}, {options.threads} threads, medians of {options.rounds}")
    print(f"| engine | seconds | CPU seconds | objective | seconds / {engines[0]} | CPU seconds / {engines[0]} |")
    print("|---|---|---|---|---|---|")
    for name, runs in found.items():
        seconds, busy, objective = (rounds.median(runs, key) for key in ("seconds", "processor", "objective"))
        ratios = [rounds.ratio(runs, found[engines[0]], key) for key in ("seconds", "processor")]
        print(f"| {name} | {seconds:.2f} | {busy:.2f} | {objective:.6f} | {' | '.join(ratios)} |")
    if missing:
        print(f"not installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
