"""Image encoders of timm: ``timm:<model>``."""

from __future__ import annotations

import torch
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, normalized

INTERPOLATIONS = {"bicubic": "bicubic", "bilinear": "bilinear"}


class TimmEncoder(Encoder):
    """A network of timm without its classifier, with the picture size and colours that it was trained on.

    Args:
        model: name of the model, with its pretrained tag if there are several.
        weights: file of weights; ``None`` for those that timm downloads or has in its cache.

    Raises:
        InputError: if timm is not installed, or has no such model or weights.
    """

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__()
        try:
            import timm
        except ImportError:
            raise InputError(
                f"timm:{model}: expected the package timm, found none; pip install 'mcn-lightning[extract-timm]'"
            ) from None
        try:
            self.network = timm.create_model(
                model, pretrained=weights is None, num_classes=0, checkpoint_path=weights or ""
            )
        except RuntimeError as error:
            raise InputError(f"timm:{model}: expected a model of timm, found {error}") from None
        config = timm.data.resolve_model_data_config(self.network)
        crop = config["input_size"][-1]
        self.size = PictureSize(
            round(crop / config["crop_pct"]), crop, INTERPOLATIONS.get(config["interpolation"], "bicubic")
        )
        self.width = self.network.num_features
        self.register_buffer("mean", torch.tensor(config["mean"]))
        self.register_buffer("std", torch.tensor(config["std"]))

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the pooled features before the classifier."""
        return self.network(normalized(pictures, self.mean, self.std))
