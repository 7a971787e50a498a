"""Multimodal Clustering Networks on PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PARTS = {"MCNModule": "mcn_lightning.module", "NarratedVideos": "mcn_lightning.data.datamodule"}
"""What a notebook needs, imported when it is asked for: torch and Lightning take seconds."""
__all__ = ["MCNModule", "NarratedVideos"]


def __getattr__(name: str) -> Any:
    """Return the module or the data module."""
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PARTS[name]), name)
