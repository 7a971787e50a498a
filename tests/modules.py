"""Tiny data, modules and trainers in Python."""

from __future__ import annotations

import torch
from pytorch_lightning import Trainer

from mcn_lightning.batch import ClipBatch
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.models import NetworkConfig
from mcn_lightning.module import MCNModule
from mcn_lightning.training.optimizer import OptimizerConfig

NETWORK = NetworkConfig(embedding_dim=16, video_dim=16, text_dim=8, audio_widths=(4, 4, 4, 8), reconstruction_hidden=8)
CLUSTERING = ClusteringConfig(num_clusters=3, queue_rows=8)


def make_data(root, **options) -> NarratedVideos:
    streams = [VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8)]
    return NarratedVideos(
        str(root), streams=streams, audio=AudioConfig(num_frames=96), text=TextConfig(source="word_vectors.txt", dim=8),
        clips=ClipConfig(n_pair=4, min_time=5.0), num_workers=0, **{"batch_size": 2, **options},
    )  # fmt: skip


def make_module(**options) -> MCNModule:
    return MCNModule(NETWORK, clustering=CLUSTERING, optimizer=OptimizerConfig(warmup_steps=0), **options)


def make_trainer(root, **options) -> Trainer:
    quiet = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=root, num_sanity_val_steps=0, limit_val_batches=0, **quiet, **options)


SIZES = NetworkConfig(embedding_dim=6, video_dim=16, text_dim=8)


def released_inputs() -> tuple[torch.Tensor, ...]:
    return torch.rand(3, 16), -80 * torch.rand(3, 40, 96), torch.tensor([96, 40, 8]), torch.randn(3, 5, 8)


def embed(module, inputs) -> dict[str, torch.Tensor]:
    video, audio, frames, words = inputs
    batch = ClipBatch(ids=("a", "b", "c"), video=video, audio=audio, audio_frames=frames, words=words)
    with torch.no_grad():
        return module.eval()(batch).embeddings()
