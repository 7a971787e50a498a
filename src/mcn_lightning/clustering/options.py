"""Options of the clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcn_lightning.options.config import ClassOptions
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, PositiveShare

Kind = Literal[
    "kmeans",
    "kmeans_joint",
    "kmeans_per_modality",
    "sinkhorn",
    "sinkhorn_hard",
    "sinkhorn_swapped",
    "sinkhorn_swapped_hard",
    "none",
]


@dataclass(frozen=True)
class ClusteringConfig(ClassOptions, option="--model.clustering"):
    """Options of the clustering; the defaults are the released recipe, except where noted.

    Args:
        kind: kmeans (centroids of the mean attract each modality), kmeans_joint (they attract the mean), or
            kmeans_per_modality (each modality has its own centroids). With learned prototypes: sinkhorn (each modality
            predicts the mean's code), or sinkhorn_swapped (each predicts the others' codes). The codes of both are
            soft; those of sinkhorn_hard and sinkhorn_swapped_hard are hard. none turns the clustering off.
        num_clusters: number of clusters K.
        queue_rows: fused features of past steps that are clustered with the batch (20 steps of 128 videos of 16
            clips); 0 for none.
        queue_dtype: precision of the rows in the queue (or of a pass), float32 or bfloat16; k-means is float32.
        queue_device: device of the queue (or of the rows of a pass): that of the model, or cpu, from which k-means
            reads in chunks.
        queue_share: share of each video's clips that is pushed to the queue, rounded up.
        max_iterations: most rounds of k-means.
        tolerance: k-means stops when the squared moves of its centroids sum to this or less.
        metric: assignment by cosine or euclidean distance (released: cosine).
        init: initial centroids: random rows or kmeans++ (released: random). The random numbers depend on how often
            k-means has run, not on the seed of the run.
        engine: torch; auto is the same. Files of earlier versions have the option, which chose between two engines.
        reseed_empty: split the largest cluster when one is empty (released: no, it becomes the zero vector).
        restart_each_epoch: start from random rows in every epoch, and count the steps between two runs of k-means from
            its beginning (released: yes).
        epsilon: sinkhorn only: smaller values give harder codes.
        sinkhorn_iterations: sinkhorn only: rounds of normalisation.
        class_path: a custom clustering in place of ``kind``: a subclass of ``clustering.Clustering``.
        init_args: arguments of the custom clustering.
    """

    kind: Kind = "kmeans"
    num_clusters: PositiveInt = 256
    queue_rows: NonNegativeInt = 40960  # 20 steps x 128 videos x 16 clips
    queue_dtype: Literal["float32", "bfloat16"] = "float32"
    queue_device: Literal["model", "cpu"] = "model"
    queue_share: PositiveShare = 0.5
    max_iterations: PositiveInt = 100
    tolerance: NonNegativeFloat = 1e-4
    metric: Literal["cosine", "euclidean"] = "cosine"
    init: Literal["random", "kmeans++"] = "random"
    engine: Literal["auto", "torch"] = "auto"
    reseed_empty: bool = True
    restart_each_epoch: bool = False
    epsilon: PositiveFloat = 0.05
    sinkhorn_iterations: PositiveInt = 3
