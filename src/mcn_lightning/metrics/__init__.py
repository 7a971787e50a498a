"""Metrics of embeddings and clusters: pure functions, and torchmetrics classes around them."""

from mcn_lightning.metrics.alignment import align, foreground_mean, frame_accuracy, frame_labels, segment_overlap
from mcn_lightning.metrics.clustering import (
    ClusterQuality,
    LabelledFeatures,
    adjusted_rand_index,
    cluster_quality,
    mean_entropy,
    purity,
)
from mcn_lightning.metrics.full_video import full_video_metrics
from mcn_lightning.metrics.localization import (
    RecallSoftmax,
    StepCounts,
    assign_steps,
    average_precision,
    mean_average_precision,
    recall_mean_over_videos,
    recall_pooled,
    step_hits,
    step_scores,
)
from mcn_lightning.metrics.recognition import class_metrics, neighbour_metrics
from mcn_lightning.metrics.retrieval import (
    Ranking,
    RetrievalRecall,
    expected_ranks,
    item_ranks,
    query_density,
    retrieval_metrics,
)

__all__ = [
    "ClusterQuality",
    "LabelledFeatures",
    "Ranking",
    "RecallSoftmax",
    "RetrievalRecall",
    "StepCounts",
    "adjusted_rand_index",
    "align",
    "assign_steps",
    "average_precision",
    "class_metrics",
    "cluster_quality",
    "expected_ranks",
    "foreground_mean",
    "frame_accuracy",
    "frame_labels",
    "full_video_metrics",
    "item_ranks",
    "mean_average_precision",
    "mean_entropy",
    "neighbour_metrics",
    "purity",
    "query_density",
    "recall_mean_over_videos",
    "recall_pooled",
    "retrieval_metrics",
    "segment_overlap",
    "step_hits",
    "step_scores",
]
