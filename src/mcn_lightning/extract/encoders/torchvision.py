"""Image and clip encoders of torchvision: ``torchvision:<model>/<weights>``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels, preparation
from mcn_lightning.extract.encoders.weights import TORCH_CACHE, fetching, import_package, load_state, near

FRAMES = {"swin3d": 32}
"""Frames of a clip by the beginning of the model's name, as its accuracy was measured; 16 for the others."""
FRAME_RATES = {"mvit": 7.5}
"""Frames a second of a clip by the beginning of the model's name, as its accuracy was measured; 15 for the others."""


class TorchvisionEncoder(Encoder):
    """A network of torchvision without its classifier, for pictures or for clips, with the transforms of its weights.

    A row is what the network gives its classifier. The video networks squash pictures as torchvision's transforms do.

    Args:
        model: name of the model, and of an entry of its weights as in ``resnet152/IMAGENET1K_V1``; the default entry
            if the second is left out.
        weights: file of a state dict, in place of those that torchvision downloads.
        frames: frames of a clip.
        frame_rate: frames a second of a clip.

    Raises:
        InputError: if torchvision is not installed, or has no such model or weights.
    """

    def __init__(
        self, model: str, weights: str | None = None, frames: int | None = None, frame_rate: float | None = None
    ) -> None:
        super().__init__()
        name = f"torchvision:{model}"
        models = import_package("torchvision", name, "extract-torchvision").models
        model, _, entry = model.partition("/")
        if model not in models.list_models():
            raise InputError(f"{name}: expected a torchvision model, found none; {near(model, models.list_models())}")
        entries = models.get_model_weights(model)
        if entry and entry not in entries.__members__:
            raise InputError(f"{name}: expected weights of {model}, found {entry}; {near(entry, entries.__members__)}")
        chosen = entries[entry or "DEFAULT"]
        transforms = chosen.transforms()
        if not all(hasattr(transforms, each) for each in ("crop_size", "resize_size", "mean", "std")):
            raise InputError(f"{name}: expected a model that classifies pictures or clips, found another kind")
        with fetching(name, TORCH_CACHE):
            network = models.get_model(model, weights=chosen if weights is None else None)
        self.network, dropped = _without_classifier(network, len(chosen.meta["categories"]), name)
        if weights is not None:
            load_state(self.network, weights, name, [f"{dropped}.", "aux", "AuxLogits."])
        video = type(transforms).__name__ == "VideoClassification"
        if video:
            self.frames = frames or _by_prefix(FRAMES, model, 16)
            self.frame_rate = frame_rate or _by_prefix(FRAME_RATES, model, 15.0)
        elif frames or frame_rate:
            raise InputError(f"{name}: expected no frames and frame_rate for a network of pictures, found them")
        self.size, self.pixels = _preparation(transforms)
        self.width = self.find_width(name)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the features before the classifier."""
        planes = self.pixels(pictures)
        return self.network(planes if self.frame_rate is None else planes.movedim(1, 2)).flatten(1)


def _by_prefix(table: dict[str, Any], model: str, default: Any) -> Any:
    return next((value for prefix, value in table.items() if model.startswith(prefix)), default)


def _without_classifier(network: nn.Module, classes: int, name: str) -> tuple[nn.Module, str]:
    """Return a network whose last layer is left out, and the name of that layer."""
    layers = [
        (path, layer)
        for path, layer in network.named_modules()
        if classes in (getattr(layer, "out_features", None), getattr(layer, "out_channels", None))
    ]
    if not layers:
        raise InputError(f"{name}: expected a last layer with {classes} classes, found none")
    # the last: Inceptions have a classifier of their own for each auxiliary head
    path = layers[-1][0]
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    for head in ("AuxLogits", "aux1", "aux2"):  # of the Inceptions, used in training only
        if isinstance(getattr(network, head, None), nn.Module):
            setattr(network, head, None)
    return network, path


def _preparation(transforms: Any) -> tuple[PictureSize, Pixels]:
    """Return the picture size and the standardisation of the transforms that belong to weights."""
    resize, crop = transforms.resize_size, transforms.crop_size[0]
    size = resize[0] if len(resize) == 1 else tuple(resize)
    return preparation(transforms.mean, transforms.std, size, (crop, crop), transforms.interpolation.value)
