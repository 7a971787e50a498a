"""Measures of embeddings, clusters, steps and transcripts: pure functions, and torchmetrics classes around them."""

from mcn_lightning.metrics.alignment import align, foreground_mean, frame_accuracy, frame_labels, segment_overlap
from mcn_lightning.metrics.clustering import ClusterQuality, LabelledFeatures, adjusted_rand_index, mean_entropy, purity
from mcn_lightning.metrics.localization import (
    StepCounts,
    assign_steps,
    average_precision,
    mean_average_precision,
    recall_mean_over_videos,
    recall_pooled,
    step_hits,
)
from mcn_lightning.metrics.retrieval import RetrievalRecall, expected_ranks, query_density, retrieval_metrics

__all__ = [
    "ClusterQuality",
    "LabelledFeatures",
    "RetrievalRecall",
    "StepCounts",
    "adjusted_rand_index",
    "align",
    "assign_steps",
    "average_precision",
    "expected_ranks",
    "foreground_mean",
    "frame_accuracy",
    "frame_labels",
    "mean_average_precision",
    "mean_entropy",
    "purity",
    "query_density",
    "recall_mean_over_videos",
    "recall_pooled",
    "retrieval_metrics",
    "segment_overlap",
    "step_hits",
]
