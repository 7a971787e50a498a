"""Clustering: state without gradient."""

from mcn_lightning.clustering.kmeans import KMeans, KMeansReport, assign
from mcn_lightning.clustering.online import ClusteringConfig, OnlineClustering
from mcn_lightning.clustering.queue import FeatureQueue
from mcn_lightning.clustering.sinkhorn import sinkhorn
from mcn_lightning.clustering.variants import (
    MEAN,
    CentroidClustering,
    Clustering,
    PrototypeClustering,
    Target,
    make_clustering,
)

__all__ = [
    "MEAN",
    "CentroidClustering",
    "Clustering",
    "ClusteringConfig",
    "FeatureQueue",
    "KMeans",
    "KMeansReport",
    "OnlineClustering",
    "PrototypeClustering",
    "Target",
    "assign",
    "make_clustering",
    "sinkhorn",
]
