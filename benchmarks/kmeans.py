"""k-means of this project against fast-pytorch-kmeans, from the same start, on the same rows and threads.

    pip install fast-pytorch-kmeans faiss-cpu
    OMP_NUM_THREADS=2 python benchmarks/kmeans.py --rows 45056 --dim 1024 --clusters 256 --iterations 20

Each engine runs in processes of its own, in turn. The rows are drawn around twice as many centres as there are
clusters. The ratio says how many times as long fast-pytorch-kmeans takes; that of the CPU seconds of all threads
suffers less from other work on the machine. The objective is the mean cosine of the rows to their centroid. Prints a
table, asserts nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.clustering import KMeans, assign

ENGINES = ("ours, torch", "ours, faiss", "fast-pytorch-kmeans")


def make_rows(options: argparse.Namespace) -> Tensor:
    generator = torch.Generator().manual_seed(0)
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
    return KMeans(len(init), iterations, -1.0, engine=name.split()[-1]).fit(rows, init)[0]


def measure(name: str, options: argparse.Namespace, results: multiprocessing.SimpleQueue) -> None:
    torch.set_num_threads(options.threads)
    if name == "ours, faiss":
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
    results.put((seconds, busy, objective))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = (("rows", 45056), ("dim", 1024), ("clusters", 256), ("iterations", 20), ("repeats", 3), ("threads", 2))
    for name, value in sizes:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--noise", type=float, default=2.0, help="spread of the rows around centres of spread 1")
    options = parser.parse_args()
    needed = {"ours, faiss": "faiss", "fast-pytorch-kmeans": "fast_pytorch_kmeans"}
    engines = [name for name in ENGINES if name not in needed or importlib.util.find_spec(needed[name])]
    context = multiprocessing.get_context("spawn")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in engines}
    for _ in range(options.repeats):
        for name in engines:
            results = context.SimpleQueue()
            process = context.Process(target=measure, args=(name, options, results))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name} ended with status {process.exitcode}")
            found[name].append(results.get())
    median = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    print(f"{options.rows} x {options.dim}, K = {options.clusters}, {options.iterations} iterations, ", end="")
    print(f"noise {options.noise}, {options.threads} threads, medians of {options.repeats}")
    print("| engine | seconds | ratio | CPU seconds | ratio | objective |")
    print("|---|---|---|---|---|---|")
    theirs = median.get(ENGINES[-1], [float("nan")] * 2)
    for name, (seconds, busy, objective) in median.items():
        print(f"| {name} | {seconds:.2f} | {theirs[0] / seconds:.2f} | {busy:.2f} | {theirs[1] / busy:.2f} ", end="")
        print(f"| {objective:.6f} |")
    if missing := [name for name in ENGINES if name not in engines]:
        print(f"not installed: {', '.join(missing)}")


if __name__ == "__main__":
    main()
