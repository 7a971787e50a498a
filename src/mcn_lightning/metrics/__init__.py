"""Measures of embeddings and clusters: pure functions, and torchmetrics classes around them."""

from mcn_lightning.metrics.clustering import ClusterQuality, LabelledFeatures, adjusted_rand_index, mean_entropy, purity
from mcn_lightning.metrics.full_video import FullVideoRetrieval, full_video_metrics
from mcn_lightning.metrics.recognition import ClassAccuracy, class_metrics, neighbour_metrics
from mcn_lightning.metrics.retrieval import RetrievalRecall, expected_ranks, query_density, retrieval_metrics

__all__ = [
    "ClassAccuracy",
    "ClusterQuality",
    "FullVideoRetrieval",
    "LabelledFeatures",
    "RetrievalRecall",
    "adjusted_rand_index",
    "class_metrics",
    "expected_ranks",
    "full_video_metrics",
    "mean_entropy",
    "neighbour_metrics",
    "purity",
    "query_density",
    "retrieval_metrics",
]
