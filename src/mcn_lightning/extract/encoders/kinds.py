"""Encoders by name."""

from __future__ import annotations

from mcn_lightning.extract.encoders.base import Encoder
from mcn_lightning.extract.encoders.timm import TimmEncoder
from mcn_lightning.options.config import import_class


def make_encoder(name: str, weights: str | None = None) -> Encoder:
    """Make the encoder that a name stands for."""
    if ":" not in name:
        return import_class(name, Encoder, "streams.encoder")()  # type: ignore[type-abstract]
    return TimmEncoder(name.partition(":")[2], weights)
