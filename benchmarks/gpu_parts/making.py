"""Batches and modules that the GPU benchmark measures."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts.run import Run
from mcn_lightning.batch import ClipBatch
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.data.text import WordVectors
from mcn_lightning.losses import LossConfig
from mcn_lightning.models import MCN, NetworkConfig
from mcn_lightning.module import MCNModule
from mcn_lightning.training.optimizer import OptimizerConfig


def network_config(run: Run, **more: object) -> NetworkConfig:
    """Return the shape of the paper's network, or of a tiny one."""
    sizes = run.sizes
    given = {"embedding_dim": sizes.dim, "audio_widths": sizes.widths, "video_dim": sizes.video, "text_dim": 300}
    return NetworkConfig(**(given | more))  # type: ignore[arg-type]


def make_batch(run: Run, clips: int) -> ClipBatch:
    """Return a batch as it comes from shards: in half precision, with frames that the clips of a video share."""
    sizes, generator = run.sizes, torch.Generator().manual_seed(clips)
    videos = clips // sizes.clips_per_video
    each = int(sizes.frames * sizes.clips_per_video * 0.75)  # clips of a video overlap
    some = (-80 * torch.rand(min(each * videos, 2_000_000), 40, generator=generator)).half()
    frames = some.repeat(-(-each * videos // len(some)), 1)[: each * videos].contiguous()
    start = (torch.rand(videos, sizes.clips_per_video, generator=generator) * (each - sizes.frames)).long()
    return ClipBatch(
        ids=tuple(f"v{clip // sizes.clips_per_video}:{clip % sizes.clips_per_video}" for clip in range(clips)),
        video=torch.rand(clips, sizes.video, generator=generator).half(),
        audio_frames=torch.full((clips,), sizes.frames - 20),
        words=torch.randint(1, sizes.words, (clips, 20), generator=generator, dtype=torch.int32),
        clips_per_video=sizes.clips_per_video,
        video_widths=(sizes.video // 2, sizes.video // 2),
        frames=frames,
        frame_start=(start + each * torch.arange(videos)[:, None]).flatten(),
        num_frames=sizes.frames,
    )


def make_module(run: Run, **options: Any) -> MCNModule:
    """Return the project's own module on the device, with what its step asks of a trainer."""
    torch.manual_seed(0)
    sizes = run.sizes
    clustering = ClusteringConfig(num_clusters=sizes.clusters, queue_rows=sizes.queue)
    module = MCNModule(network_config(run), LossConfig(), clustering, OptimizerConfig(warmup_steps=0), **options)
    assert module.network.text is not None
    module.network.text.set_embedder(WordVectors(0.1 * torch.randn(sizes.words, 300)))
    module.to(run.device).train()
    steps = {"global_step": 1, "estimated_stepping_batches": 1000, "num_training_batches": 1000}
    module._trainer = types.SimpleNamespace(**steps, accumulate_grad_batches=1, training=True)  # type: ignore[assignment]
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def step_operations(run: Run, clips: int) -> float:
    """Return the operations of a training step: the network's by torch's counter, the similarities by hand."""
    sizes = run.sizes
    with torch.device("meta"):
        network = MCN(network_config(run)).train()
        inputs = (
            torch.empty(8, sizes.video),
            torch.empty(8, 40, sizes.frames),
            torch.empty(8),
            torch.empty(8, 20, 300),
        )
    with FlopCounterMode(display=False) as counter:
        output = network(*inputs)
        parts = [*output.embeddings().values(), *output.reconstructions.values()]
        torch.stack([part.sum() for part in parts]).sum().backward()
    similarities = 3 * 3 * 2 * clips * clips * sizes.dim  # three pairs, forward and two products backward
    return counter.get_total_flops() / 8 * clips + similarities
