"""The contrastive loss of large batches, k-means, and ranks of a large gallery."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.run import Run, matmul_precision
from mcn_lightning.clustering import KMeans
from mcn_lightning.losses import ContrastiveConfig, make_contrastive
from mcn_lightning.metrics import expected_ranks, ties


def losses(run: Run) -> None:
    """Measure one pair of the loss, in tiles and as a whole matrix with cross-entropies."""
    for clips in run.sizes.loss_clips:
        for dtype in (torch.bfloat16, torch.float32):
            ways: dict[str, int | None] = {f"tiles of {tile}": tile for tile in run.sizes.tiles}
            if clips <= 20_000:
                ways["cross-entropies of the whole matrix"] = None
            for name, tile in ways.items():
                _loss(run, f"{clips} clips, {str(dtype)[6:]}, {name}", clips, dtype, tile)


def _loss(run: Run, case: str, clips: int, dtype: torch.dtype, tile: int | None) -> None:
    if run.left() < 30:
        return run.add("loss", case, "left out", "", "no time")
    dim = run.sizes.loss_dim
    x, y = (4.5 * F.normalize(torch.randn(clips, dim, device=run.device), dim=1) for _ in range(2))
    x, y = (each.to(dtype).detach().requires_grad_() for each in (x, y))
    ours = None if tile is None else make_contrastive(ContrastiveConfig(tile=tile))

    def way() -> None:
        with run.autocast(dtype == torch.bfloat16):
            value = plain_mms(x, y) if ours is None else ours({"text": x, "video": y})["text_video"]
        value.backward()

    run.clear()
    try:
        took = run.seconds(way, 1 if clips > 60_000 else None, 1)
    except torch.cuda.OutOfMemoryError:
        return run.add("loss", case, "out of memory")
    rate = 3 * 2 * clips * clips * dim / took / 1e12
    run.add("loss", case, 1e3 * took, "ms", f"D {dim}, {rate:.3g} TFLOP/s of useful work, peak {run.peak():.2f} GB")


def plain_mms(x: Tensor, y: Tensor) -> Tensor:
    """Compute masked margin softmax as the published formula says."""
    truth = torch.arange(len(x), device=x.device)
    similarity = (x @ y.T).float() - 0.001 * torch.eye(len(x), device=x.device)
    return F.cross_entropy(similarity, truth) + F.cross_entropy(similarity.T, truth)


def kmeans(run: Run) -> None:
    """Measure an iteration of k-means, and of the whole loop of faiss where its build is for GPUs."""
    sizes = run.sizes
    data = torch.randn(sizes.rows, sizes.dim, device=run.device)
    data += (
        2 * torch.randn(sizes.clusters, sizes.dim, device=run.device)[torch.randint(0, sizes.clusters, (sizes.rows,))]
    )
    start = data[torch.randperm(sizes.rows)[: sizes.clusters]].clone()
    _kmeans(run, "torch, float32", data, start)
    _kmeans(run, "torch, TF32", data, start, "high")
    _kmeans(run, "torch, TF32, chunks of 65,536 rows", data, start, "high", chunk=65_536)
    _kmeans(run, "torch, TF32, rows in bf16", data.bfloat16(), start, "high")
    _kmeans(run, "torch, TF32, rows on the host", [data.cpu()], start, "high")
    if importlib.util.find_spec("faiss") is None:
        return run.add("kmeans", "faiss.Kmeans", "not installed")
    import faiss

    if not (cards := getattr(faiss, "get_num_gpus", int)()) and not run.tiny:
        return run.add("kmeans", "faiss.Kmeans", "left out", "", "this build is for CPUs")
    few, many = (run.wall(_faiss_loop(faiss, data.cpu(), start.cpu(), rounds, cards)) for rounds in (1, 11))
    run.add("kmeans", f"faiss.Kmeans with {cards} GPUs, rows on the host", 1e2 * (many - few), "ms an iteration")


def _faiss_loop(faiss: Any, rows: Tensor, start: Tensor, iterations: int, cards: int) -> Callable[[], object]:
    options = {"niter": iterations, "spherical": True, "gpu": cards, "max_points_per_centroid": len(rows)}
    trained = faiss.Kmeans(rows.shape[1], len(start), **options)
    return lambda: trained.train(rows.numpy(), init_centroids=F.normalize(start, dim=1).numpy())


def _kmeans(
    run: Run, name: str, rows: Tensor | Sequence[Tensor], start: Tensor, precision: str = "highest", **more: Any
) -> None:
    if run.left() < 25:
        return run.add("kmeans", name, "left out", "", "no time")
    sizes, rounds = run.sizes, 2 if run.tiny else 10

    def fit(iterations: int) -> Callable[[], object]:
        # the tolerance lets no run stop before
        return lambda: KMeans(sizes.clusters, iterations, -1.0, **more).fit(rows, start, device=run.device)

    with matmul_precision(precision):
        run.wall(fit(1))
        few, many = run.wall(fit(1)), run.wall(fit(rounds + 1))
    each = (many - few) / rounds
    rate = 2 * sizes.rows * sizes.dim * sizes.clusters / each / 1e12
    note = f"{sizes.rows} x {sizes.dim}, K {sizes.clusters}, {rate:.3g} TFLOP/s, the first takes {1e3 * few:.3g} ms"
    run.add("kmeans", name, 1e3 * each, "ms an iteration", note)


def evaluation(run: Run) -> None:
    """Measure exact ranks of a large gallery, in tiles of several sizes, against the bare product."""
    count, dim = run.sizes.gallery, run.sizes.gallery_dim
    queries, gallery = (torch.randn(count, dim, device=run.device) for _ in range(2))
    queries += 0.3 * gallery
    target, block = torch.arange(count, device=run.device), max(1, count // 16)

    def product() -> None:
        for some in queries.split(block):
            some @ gallery.T

    for precision in ("highest", "high"):
        with matmul_precision(precision):
            run.add("evaluation", f"product alone, {precision}", run.wall(product), "s", f"{count} x {count} x {dim}")
    kept = ties.TILE
    for tile, precision in ((kept, "highest"), (2**26, "highest"), (2**26, "high")):
        if run.left() < 20:
            run.add("evaluation", f"ranks, tiles of {tile}", "left out", "", "no time")
            continue
        ties.TILE = tile
        run.clear()
        try:
            with matmul_precision(precision):
                took = run.wall(lambda: expected_ranks(queries, gallery, target))
            run.add("evaluation", f"ranks, tiles of {tile}, {precision}", took, "s", f"peak {run.peak():.2f} GB")
        except torch.cuda.OutOfMemoryError:
            run.add("evaluation", f"ranks, tiles of {tile}", "out of memory")
        finally:
            ties.TILE = kept
