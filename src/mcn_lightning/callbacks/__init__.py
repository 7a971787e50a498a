"""Callbacks: k-means, evaluation, writing of embeddings, throughput and progress."""

from mcn_lightning.callbacks.centroids import CentroidUpdate
from mcn_lightning.callbacks.displays import ParameterSummary, with_displays
from mcn_lightning.callbacks.embeddings import EmbeddingWriter, without_loggers
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.progress import Progress
from mcn_lightning.callbacks.throughput import Throughput

__all__ = [
    "CentroidUpdate",
    "EmbeddingWriter",
    "ParameterSummary",
    "Progress",
    "RetrievalEvaluation",
    "Throughput",
    "with_displays",
    "without_loggers",
]
