"""Every component on the device, in float32 and bf16, against the CPU in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.making import make_batch, network_config
from gpu_parts.run import Run, relative
from mcn_lightning.clustering import KMeans
from mcn_lightning.clustering.prototypes import sinkhorn
from mcn_lightning.losses import (
    ClusterLoss,
    ClusterLossConfig,
    ContrastiveConfig,
    make_contrastive,
    reconstruction_loss,
)
from mcn_lightning.metrics import expected_ranks, full_video_metrics
from mcn_lightning.models import MCN

Context = contextlib.AbstractContextManager[Any]


def precisions(run: Run, *, tf32: bool = False) -> list[tuple[str, float, Context]]:
    """Return names of precisions with the errors that they may have, and their contexts."""
    plain = contextlib.nullcontext()
    middle = [("float32 with TF32 convolutions", 5e-3, plain)] if tf32 else []
    return [("float32", 2e-5, plain), *middle, ("bf16", 6e-2, run.autocast())]


def measure(run: Run) -> None:
    """Add a row for each component, with its error and whether that is within its limit."""
    for part in (network, losses, cutting, clustering, ranks):
        part(run)
        run.clear()


def network(run: Run) -> None:
    """Compare outputs and gradients of the network, and of its audio network in channels-last memory."""
    torch.manual_seed(0)
    sizes, clips = run.sizes, run.sizes.parity
    config = network_config(run, embedding_dim=min(sizes.dim, 512))
    inputs = (
        F.normalize(torch.rand(clips, sizes.video), dim=1), -80 * torch.rand(clips, 40, 208),
        torch.randint(16, 208, (clips,)), 0.1 * torch.randn(clips, 20, 300),
    )  # fmt: skip
    reference = MCN(config).double().train()
    state = {name: value.clone() for name, value in reference.state_dict().items()}
    truth, slopes = _outputs(reference, [x.double() if x.is_floating_point() else x for x in inputs])
    for name, limit, context in precisions(run, tf32=True):
        torch.backends.cudnn.allow_tf32 = name != "float32"
        found = MCN(config).to(run.device).train()
        found.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
        )
        with context:
            outputs, gradients = _outputs(found, [x.to(run.device) for x in inputs])
        for key, value in outputs.items():
            run.verdict(f"network, {key}, {name}", relative(value, truth[key]), limit)
        both = [[each[key].double().cpu().flatten() for key in gradients] for each in (gradients, slopes)]
        run.verdict(f"network, gradient, {name}", relative(*(torch.cat(parts) for parts in both)), 5 * limit)
        audio, net = inputs[1].to(run.device), found.audio.network  # type: ignore[union-attr]
        with torch.no_grad(), context:
            net.channels_last = True
            flat = net(audio)
            net.channels_last = False
            error = relative(flat, net(audio))
        run.verdict(f"audio network in channels-last memory, {name}", error, max(limit, 1e-4))
    torch.backends.cudnn.allow_tf32 = True


def _outputs(net: MCN, inputs: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the outputs of a network, and the gradients of the sum of their mean squares."""
    output = net(*inputs)
    parts = output.embeddings() | {f"rebuilt {name}": value for name, value in output.reconstructions.items()}
    torch.stack([(value.double() ** 2).mean() for value in parts.values()]).sum().backward()
    return parts, {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}


def losses(run: Run) -> None:
    """Compare values and gradients of all losses, whole and in tiles."""
    torch.manual_seed(1)
    dim, size = (16, 96) if run.tiny else (1024, 3000)
    video = torch.randn(size, dim, dtype=torch.float64)
    base = {"video": video} | {name: torch.randn_like(video) + 0.3 * video for name in ("audio", "text")}
    for kind in ("mms", "mil_nce", "info_nce", "max_margin"):
        scale = 0.05 if kind == "info_nce" else dim**0.5
        want, slopes = _contrast(base, kind, scale, 10**9, torch.float64, torch.device("cpu"), contextlib.nullcontext())
        for tile in (10**9, 40 if run.tiny else 1024):
            for name, limit, context in precisions(run):
                found, gradients = _contrast(base, kind, scale, tile, torch.float32, run.device, context)
                case = f"{kind}, {'whole' if tile == 10**9 else 'in tiles'}, {name}"
                run.verdict(f"{case}: value", relative(found, want), limit)
                run.verdict(f"{case}: gradient", max(relative(gradients[key], slopes[key]) for key in base), 5 * limit)
    labels, centroids = torch.randint(0, 8, (size,)), torch.randn(8, dim, dtype=torch.float64)
    cluster = ClusterLoss(ClusterLossConfig(normalize=True))
    want = cluster(base, {name: (centroids, labels, False) for name in base})
    moved = {name: value.float().to(run.device) for name, value in base.items()}
    target = (centroids.float().to(run.device), labels.to(run.device), False)
    run.verdict("cluster loss, float32", relative(cluster(moved, dict.fromkeys(base, target)), want), 1e-5)
    want = reconstruction_loss({"video": base["video"]}, {"video": base["text"]}, False)["video"]
    rebuilt = reconstruction_loss({"video": moved["video"]}, {"video": moved["text"]}, False)["video"]
    run.verdict("reconstruction loss, float32", relative(rebuilt, want), 1e-5)


def _contrast(
    base: Mapping[str, Tensor],
    kind: Any,
    scale: float,
    tile: int,
    dtype: torch.dtype,
    device: torch.device,
    context: Context,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a contrastive loss of three pairs, and its gradients."""
    given = {name: value.to(device, dtype, copy=True).requires_grad_() for name, value in base.items()}
    loss = make_contrastive(ContrastiveConfig(kind=kind, temperature=scale, tile=tile))
    assert loss is not None
    with context:
        value = torch.stack(list(loss.to(device)(given).values())).sum()
    value.backward()
    return value.detach(), {name: each.grad for name, each in given.items() if each.grad is not None}


def cutting(run: Run) -> None:
    """Compare the spectrograms that are cut of shared frames, and the normalised visual features."""
    batch = make_batch(run, run.sizes.clips[0])
    here, there = batch.ready(), batch.to(run.device).ready()
    assert here.audio is not None and there.audio is not None and here.video is not None and there.video is not None
    equal = torch.equal(here.audio, there.audio.cpu())
    run.add("parity", "spectrograms cut on the device", "ok" if equal else "BAD", "", "bit for bit")
    run.verdict("visual features normalised", relative(there.video, here.video), 1e-6)


def clustering(run: Run) -> None:
    """Compare k-means and Sinkhorn, and k-means with itself."""
    torch.manual_seed(2)
    rows, dim = (200, 16) if run.tiny else (20_000, 1024)
    data = torch.randn(rows, dim) + 3 * torch.randn(8, dim)[torch.randint(0, 8, (rows,))]
    start = data[: 8 * (rows // 8) : rows // 8].clone()
    for metric in ("cosine", "euclidean"):
        kmeans = KMeans(8, 20, metric=metric)  # type: ignore[arg-type]
        want, labels, _ = kmeans.fit(data, start)
        found, own, _ = kmeans.fit(data.to(run.device), start.to(run.device))
        again, _, _ = kmeans.fit(data.to(run.device), start.to(run.device))
        run.verdict(f"k-means, {metric}: centroids", relative(found, want), 1e-3)
        run.add(
            "parity",
            f"k-means, {metric}: rows in another cluster",
            float((own.cpu() != labels).float().mean()),
            "share",
        )
        run.add("parity", f"k-means, {metric}: twice the same bits", "ok" if torch.equal(found, again) else "BAD")
    scores = torch.randn(64, 8)
    error = relative(sinkhorn(scores.to(run.device), 0.05, 3), sinkhorn(scores.double(), 0.05, 3))
    run.verdict("sinkhorn", error, 1e-4)


def ranks(run: Run) -> None:
    """Compare ranks with ties, and the metrics of whole videos."""
    torch.manual_seed(3)
    queries, gallery = torch.randn(500, 32), torch.randn(500, 32)
    gallery[7] = gallery[9]
    target, videos = torch.arange(500), torch.arange(500) // 5
    want = expected_ranks(queries.double(), gallery.double(), target)
    found = expected_ranks(queries.to(run.device), gallery.to(run.device), target.to(run.device))
    run.add("parity", "ranks that differ from float64", int((found.cpu() != want).sum()), "of 500")
    one = full_video_metrics(queries, gallery, videos)
    two = full_video_metrics(*(each.to(run.device) for each in (queries, gallery, videos)))
    error = max(abs(float(one[name]) - float(two[name])) for name in one)
    run.verdict("metrics of whole videos", error, 0.5, "largest difference")
