"""Image encoders of timm: ``timm:<model>``."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels, preparation
from mcn_lightning.extract.encoders.weights import HUB_CACHE, fetching, import_package, load_state, near


class TimmEncoder(Encoder):
    """A network of timm without its classifier, with the picture size and colours that it was trained on.

    A row is what the network gives its classifier: pooled, and after the last layers before it.

    Args:
        model: name of the model, with its pretrained tag if there are several.
        weights: file of weights; ``None`` for those that timm downloads or has in its cache.

    Raises:
        InputError: if timm is not installed, or has no such model or weights.
    """

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__()
        name = f"timm:{model}"
        timm = import_package("timm", name, "extract-timm")
        with fetching(name, HUB_CACHE):
            try:
                self.network = timm.create_model(model, pretrained=weights is None, num_classes=0)
            except RuntimeError as error:
                if str(error).startswith(("Unknown model", "Invalid pretrained tag")):
                    known = timm.list_models(pretrained=True) if "." in model else timm.list_models()
                    raise InputError(f"{name}: expected a model of timm, found none; {near(model, known)}") from None
                raise
        if weights is not None:
            classifier = self.network.pretrained_cfg.get("classifier") or ()
            names = (classifier,) if isinstance(classifier, str) else classifier
            load_state(self.network, weights, name, [f"{each}." for each in names])
        self.size, self.pixels = _preparation(timm.data.resolve_model_data_config(self.network), name)
        self.width = self.find_width(name)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the pooled features before the classifier."""
        return self.network(self.pixels(pictures))


def _preparation(config: dict[str, Any], name: str) -> tuple[PictureSize, Pixels]:
    """Return the picture size and the standardisation of a model's data config, as timm's own evaluation has them."""
    _, height, width = config["input_size"]
    # as timm's create_transform rounds it
    scaled = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    mode = config.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(f"{name}: expected a model whose pictures are cropped or squashed, found crop_mode {mode}")
    resize = scaled if mode == "squash" else max(scaled)
    return preparation(config["mean"], config["std"], resize, (height, width), config["interpolation"])
