"""Multimodal Clustering Networks on PyTorch Lightning: ``import mcn_lightning as mcn``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mcn_lightning.batch import ClipBatch as ClipBatch
    from mcn_lightning.benchmarks import Benchmark as Benchmark
    from mcn_lightning.clustering import Clustering as Clustering
    from mcn_lightning.clustering import ClusteringConfig as ClusteringConfig
    from mcn_lightning.clustering import make_clustering as make_clustering
    from mcn_lightning.data.datamodule import NarratedVideos as NarratedVideos
    from mcn_lightning.data.sources.video_source import Video as Video
    from mcn_lightning.data.sources.video_source import VideoSource as VideoSource
    from mcn_lightning.errors import InputError as InputError
    from mcn_lightning.inference import Embeddings as Embeddings
    from mcn_lightning.inference import Inputs as Inputs
    from mcn_lightning.inference import Model as Model
    from mcn_lightning.inference import embed_sentences as embed_sentences
    from mcn_lightning.inference import load as load
    from mcn_lightning.inference import rank as rank
    from mcn_lightning.inference import read_embeddings as read_embeddings
    from mcn_lightning.losses import ContrastiveConfig as ContrastiveConfig
    from mcn_lightning.losses import ContrastiveLoss as ContrastiveLoss
    from mcn_lightning.losses import LossConfig as LossConfig
    from mcn_lightning.losses import cluster_contrast as cluster_contrast
    from mcn_lightning.losses import info_nce as info_nce
    from mcn_lightning.losses import make_contrastive as make_contrastive
    from mcn_lightning.losses import max_margin as max_margin
    from mcn_lightning.losses import mil_nce as mil_nce
    from mcn_lightning.losses import mms as mms
    from mcn_lightning.losses import reconstruction_loss as reconstruction_loss
    from mcn_lightning.metrics import ClusterQuality as ClusterQuality
    from mcn_lightning.metrics import RetrievalRecall as RetrievalRecall
    from mcn_lightning.metrics import expected_ranks as expected_ranks
    from mcn_lightning.metrics import item_ranks as item_ranks
    from mcn_lightning.metrics import query_density as query_density
    from mcn_lightning.metrics import retrieval_metrics as retrieval_metrics
    from mcn_lightning.models import MCN as MCN
    from mcn_lightning.models import AudioNetwork as AudioNetwork
    from mcn_lightning.models import MCNOutput as MCNOutput
    from mcn_lightning.models import NetworkConfig as NetworkConfig
    from mcn_lightning.module import MCNModule as MCNModule
    from mcn_lightning.plots.map import plot_map as plot_map
    from mcn_lightning.plots.montage import plot_montage as plot_montage
    from mcn_lightning.plots.recall import plot_recall as plot_recall
    from mcn_lightning.plots.video import plot_moments as plot_moments
    from mcn_lightning.plots.video import plot_video as plot_video
    from mcn_lightning.search.index import Index as Index
    from mcn_lightning.training.optimizer import OptimizerConfig as OptimizerConfig

_PUBLIC = {
    "batch": ("ClipBatch",),
    "benchmarks": ("Benchmark",),
    "clustering": ("Clustering", "ClusteringConfig", "make_clustering"),
    "data.datamodule": ("NarratedVideos",),
    "data.sources.video_source": ("Video", "VideoSource"),
    "errors": ("InputError",),
    "inference": ("Embeddings", "Inputs", "Model", "embed_sentences", "load", "rank", "read_embeddings"),
    "search.index": ("Index",),
    "plots.map": ("plot_map",),
    "plots.montage": ("plot_montage",),
    "plots.recall": ("plot_recall",),
    "plots.video": ("plot_moments", "plot_video"),
    "losses": (
        "ContrastiveConfig", "ContrastiveLoss", "LossConfig", "cluster_contrast", "info_nce",
        "make_contrastive", "max_margin", "mil_nce", "mms", "reconstruction_loss",
    ),
    "metrics": (
        "ClusterQuality", "RetrievalRecall", "expected_ranks",
        "item_ranks", "query_density", "retrieval_metrics",
    ),
    "models": ("AudioNetwork", "MCN", "MCNOutput", "NetworkConfig"),
    "module": ("MCNModule",),
    "training.optimizer": ("OptimizerConfig",),
}  # fmt: skip
"""The public names by module. Each is imported on first use, as importing torch takes seconds."""
# a name that is not listed here raises an error at once, without an import
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted(_MODULE_OF)


if not TYPE_CHECKING:  # type checkers know the names above, and report any other

    def __getattr__(name: str) -> object:
        """Import a public name."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"mcn_lightning.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    """Return all names, with the public ones that are not imported yet."""
    return sorted({*globals(), *__all__})
