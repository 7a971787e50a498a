"""Options of the clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mcn_lightning.config import ClassOptions
from mcn_lightning.ranges import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, PositiveShare

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
    """How clips are clustered in training; the defaults are the released recipe but for what is noted.

    Args:
        kind: kmeans (each modality is drawn to centroids of the mean), kmeans_joint (the mean is), kmeans_per_modality
            (each to centroids of its own), sinkhorn (each predicts the mean's code over learned prototypes),
            sinkhorn_swapped (each predicts the others' codes), both with soft codes or, ending in _hard, hard ones; or
            none.
        num_clusters: clusters K.
        queue_rows: fused features, one a row, of past steps that are clustered with the batch (20 steps of 128 videos
            of 16 clips); 0 for none.
        queue_dtype: precision of the rows in the queue (or of a pass), float32 or bfloat16; k-means is float32.
        queue_device: keep the queue (or the rows of a pass) where the model is, or on the cpu, from where k-means reads
            them in chunks.
        queue_share: share of each video's clips that is pushed to the queue, rounded up.
        max_iterations: rounds of k-means at most.
        tolerance: k-means stops when the squared moves of its centroids sum to this or less.
        metric: assignment by cosine or euclidean distance (released: cosine).
        init: start from random rows or by kmeans++ where there are no centroids to start from (released: random); which
            numbers are drawn depends on how often k-means ran, not on the seed of the run.
        engine: torch (each process its rows, on any device), faiss (all rows on process 0, on its GPUs where faiss has
            them), or auto (faiss on the CPU of a single process where it is installed, else torch).
        reseed_empty: split the largest cluster when one is empty (released: no, it becomes the zero vector).
        restart_each_epoch: start from random rows at every epoch, and count the steps between two runs of k-means in
            each epoch anew (released: yes).
        epsilon: sinkhorn only: the smaller, the harder the codes.
        sinkhorn_iterations: sinkhorn only: rounds of normalising.
        class_path: a clustering of one's own in place of ``kind``: a subclass of ``clustering.Clustering``.
        init_args: its own arguments.
    """

    kind: Kind = "kmeans"
    num_clusters: PositiveInt = 256
    queue_rows: NonNegativeInt = 40960
    queue_dtype: Literal["float32", "bfloat16"] = "float32"
    queue_device: Literal["model", "cpu"] = "model"
    queue_share: PositiveShare = 0.5
    max_iterations: PositiveInt = 100
    tolerance: NonNegativeFloat = 1e-4
    metric: Literal["cosine", "euclidean"] = "cosine"
    init: Literal["random", "kmeans++"] = "random"
    engine: Literal["auto", "torch", "faiss"] = "auto"
    reseed_empty: bool = True
    restart_each_epoch: bool = False
    epsilon: PositiveFloat = 0.05
    sinkhorn_iterations: PositiveInt = 3
