"""Clustering: state without gradient."""

from mcn_lightning.clustering.kmeans import KMeans, KMeansReport, assign
from mcn_lightning.clustering.online import ClusteringConfig, OnlineClustering
from mcn_lightning.clustering.queue import FeatureQueue

__all__ = ["ClusteringConfig", "FeatureQueue", "KMeans", "KMeansReport", "OnlineClustering", "assign"]
