"""Protocols of the module and the data module: all that callbacks and benchmarks use of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Protocol, TypeVar, runtime_checkable

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.clustering import Clustering, KMeansReport
from mcn_lightning.errors import InputError
from mcn_lightning.losses import LossConfig
from mcn_lightning.models import MCNOutput, NetworkConfig

Item = TypeVar("Item", covariant=True)


class SizedIterable(Sized, Iterable[Item], Protocol[Item]):
    """An iterable with a length: a list or a data loader."""


@runtime_checkable
class EmbeddingModule(Protocol):
    """A LightningModule that embeds clips; ``MCNModule`` is one."""

    network_config: NetworkConfig
    loss_config: LossConfig
    clustering: Clustering | None
    cluster_reports: dict[str, KMeansReport]
    weights_file: str | None
    step_clips: int
    step_terms: dict[str, Tensor]
    training: bool

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    def __call__(self, batch: ClipBatch) -> MCNOutput:
        """Embed a batch of clips."""
        ...

    def assignments(self, output: MCNOutput) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64, or ``None`` while there are no centroids."""
        ...

    def clusters_of(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor] | None:
        """Return centroids ``(K, D)`` and sizes ``(K,)`` of the clusters of these modalities, if there are any."""
        ...

    def clustered_features(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Return the features of a batch that are clustered, ``(B, D)`` by name."""
        ...

    def request_clustering(self, fresh: bool = False) -> None:
        """Run k-means in the next training step."""
        ...

    def fit_centroids(self, features: Mapping[str, Sequence[Tensor]], fresh: bool) -> dict[str, KMeansReport]:
        """Run k-means on rows by feature, and keep the centroids."""
        ...

    def train(self, mode: bool = True) -> object:
        """Set the mode of training or evaluation."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all buffers with their names."""
        ...

    @property
    def log(self) -> Callable[..., None]:
        """Lightning's method that logs a metric."""
        ...

    @property
    def log_dict(self) -> Callable[..., None]:
        """Lightning's method that logs several metrics."""
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
        """Split that ``predict`` embeds: train, val, test or all."""
        ...

    @property
    def modalities(self) -> Sequence[str]:
        """Modalities of a clip: some of video, audio and text."""
        ...

    @property
    def datasets(self) -> Mapping[str, object]:
        """Dataset of each split."""
        ...

    @property
    def clip_config(self) -> _Pairs:
        """Options for the choice of clips in a video."""
        ...

    def check_held_out(self) -> None:
        """Raise an InputError if a validation video cannot be evaluated."""
        ...

    def has_topics(self, split: str) -> bool:
        """Return whether the topics of a split's captions are known."""
        ...

    def dropped_captions(self, split: str) -> str:
        """Return a text that counts the captions of a split which cannot be used."""
        ...

    def pass_dataloader(self, share: float) -> SizedIterable[ClipBatch]:
        """Return one pass over a share of the training videos."""
        ...


def embedding_module(module: LightningModule) -> EmbeddingModule:
    """Return the module of a run as an ``EmbeddingModule``.

    Raises:
        InputError: if it lacks what the protocol asks for.
    """
    if not isinstance(module, EmbeddingModule):
        raise InputError(f"expected a module that embeds clips, as MCNModule does, found {type(module).__name__}")
    return module


def clip_data(trainer: Trainer) -> ClipData | None:
    """Return the data module of a run if it gives clips, else ``None``."""
    data = getattr(trainer, "datamodule", None)
    return data if isinstance(data, ClipData) else None
