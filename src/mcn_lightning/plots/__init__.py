"""Plots of an index: the map of its clips, its clusters, recall by cluster, and one video along its time."""
