"""Where callbacks and benchmarks meet the module and its data: all that they use of both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.clustering import Clustering, KMeansReport
from mcn_lightning.errors import InputError
from mcn_lightning.losses import LossConfig
from mcn_lightning.models import MCNOutput, NetworkConfig


@runtime_checkable
class EmbeddingModule(Protocol):
    """A LightningModule that embeds clips; ``MCNModule`` is one."""

    network_config: NetworkConfig
    loss_config: LossConfig
    clustering: Clustering | None
    cluster_reports: dict[str, KMeansReport]
    weights_file: str | None
    step_clips: int
    step_loss: Tensor | None
    training: bool

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def __call__(self, batch: ClipBatch) -> MCNOutput:
        """Embed a batch of clips."""
        ...

    def assignments(self, output: MCNOutput) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64, or ``None`` while there are no centroids."""
        ...

    def clusters_of(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return centroids ``(K, D)`` and sizes ``(K,)`` of the clusters of such embeddings, if there are any."""
        ...

    def clustered_features(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return what is clustered of a batch, ``(B, D)`` by name."""
        ...

    def request_clustering(self, fresh: bool = False) -> None:
        """Run k-means in the next training step."""
        ...

    def fit_centroids(self, features: Mapping[str, Sequence[Tensor]], fresh: bool) -> dict[str, KMeansReport]:
        """Run k-means on these rows, and keep its centroids."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Set the mode of training or evaluation."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Give all buffers with their names."""
        ...

    @property
    def log(self) -> Any:
        """Lightning's function that logs a metric."""
        ...

    @property
    def log_dict(self) -> Any:
        """Lightning's function that logs several metrics."""
        ...


class _Pairs(Protocol):
    @property
    def n_pair(self) -> int: ...


@runtime_checkable
class ClipData(Protocol):
    """A data module of clips; ``NarratedVideos`` is one."""

    batch_size: int

    @property
    def predict_split(self) -> str:
        """What ``predict`` embeds: train, val, test or all."""
        ...

    @property
    def modalities(self) -> Sequence[str]:
        """What a clip has: some of video, audio and text."""
        ...

    @property
    def datasets(self) -> Mapping[str, object]:
        """The data set of each split."""
        ...

    @property
    def clip_config(self) -> _Pairs:
        """How the clips of a video are chosen."""
        ...

    def check_held_out(self) -> None:
        """Raise an InputError if a validation video cannot be evaluated."""
        ...

    def has_topics(self, split: str) -> bool:
        """Tell whether the topics of a split's captions are known."""
        ...

    def dropped_captions(self, split: str) -> str:
        """Return in words how many captions of a split cannot be used."""
        ...

    def pass_dataloader(self, share: float) -> Iterable[ClipBatch]:
        """Return one pass over a share of the training videos."""
        ...


def embedding_module(module: LightningModule) -> EmbeddingModule:
    """Return the module of a run, typed.

    Raises:
        InputError: if it is none that these callbacks know.
    """
    if not isinstance(module, EmbeddingModule):
        raise InputError(f"expected a module that embeds clips, as MCNModule does, found {type(module).__name__}")
    return module


def clip_data(trainer: Trainer) -> ClipData | None:
    """Return the data module of a run; ``None`` where there is none, or one of another kind."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, ClipData) else None


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's own list of callbacks, to which Lightning gives no type."""
    return getattr(trainer, "callbacks", [])
