"""Multimodal Clustering Networks on PyTorch Lightning."""

__version__ = "0.1.0"
