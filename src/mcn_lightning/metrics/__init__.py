"""Measures of embeddings and clusters: pure functions, and torchmetrics classes around them."""

from mcn_lightning.metrics.clustering import ClusterQuality, LabelledFeatures, adjusted_rand_index, mean_entropy, purity
from mcn_lightning.metrics.full_video import FullVideoRetrieval, full_video_metrics
from mcn_lightning.metrics.retrieval import RetrievalRecall, expected_ranks, query_density, retrieval_metrics

__all__ = [
    "ClusterQuality",
    "FullVideoRetrieval",
    "LabelledFeatures",
    "RetrievalRecall",
    "adjusted_rand_index",
    "expected_ranks",
    "full_video_metrics",
    "mean_entropy",
    "purity",
    "query_density",
    "retrieval_metrics",
]
