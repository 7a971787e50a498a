"""Clustering of embeddings in training: k-means and learned prototypes."""

from mcn_lightning.clustering.base import MEAN, Clustering, Step, Target
from mcn_lightning.clustering.centroids import CentroidClustering
from mcn_lightning.clustering.kinds import KINDS, clustering_class, make_clustering
from mcn_lightning.clustering.kmeans import KMeans, KMeansReport
from mcn_lightning.clustering.nearest import assign
from mcn_lightning.clustering.online import OnlineClustering
from mcn_lightning.clustering.options import ClusteringConfig
from mcn_lightning.clustering.prototypes import Sinkhorn, sinkhorn
from mcn_lightning.clustering.queue import FeatureQueue

__all__ = [
    "KINDS",
    "MEAN",
    "CentroidClustering",
    "Clustering",
    "ClusteringConfig",
    "FeatureQueue",
    "KMeans",
    "KMeansReport",
    "OnlineClustering",
    "Sinkhorn",
    "Step",
    "Target",
    "assign",
    "clustering_class",
    "make_clustering",
    "sinkhorn",
]
