"""Image encoders of open_clip: ``open_clip:<model>/<pretrained tag or file>``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels, preparation
from mcn_lightning.extract.encoders.weights import HUB_CACHE, fetching, find_file, find_folder, import_package, near


class OpenClipEncoder(Encoder):
    """The image half of a CLIP-like model of open_clip. A row is the image's embedding in the space of its texts.

    Args:
        model: name of the model and of its weights, as in ``ViT-B-32/laion2b_s34b_b79k``. In place of the second a file
            may be given. ``hf-hub:<organisation>/<name>`` and ``local-dir:<folder>`` name both at once.
        weights: file of weights, in place of the second part of the name.

    Raises:
        InputError: if open_clip is not installed, or has no such model or weights.
    """

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__()
        name = f"open_clip:{model}"
        open_clip = import_package("open_clip", name, "extract-open-clip")
        tag: str | None = None
        if model.startswith("local-dir:"):
            find_folder(model.partition(":")[2], name)
        if not model.startswith(("hf-hub:", "local-dir:")):
            model, _, tag = model.partition("/")
            tag = weights or tag
            models = open_clip.list_models()
            if model not in models:
                raise InputError(f"{name}: expected a model of open_clip, found none; {near(model, models)}")
            tags = open_clip.list_pretrained_tags_by_model(model)
            if not open_clip.get_pretrained_cfg(model, tag):
                if not tag or not ({"/", "."} & set(tag)):
                    found = f"{tag or 'none'}; {near(tag, tags)}"
                    raise InputError(f"{name}: expected {model}/ and a pretrained tag of it or a file, found {found}")
                tag = str(find_file(tag, name, "a file of weights"))
        with fetching(name, HUB_CACHE):
            network = open_clip.create_model(model, pretrained=tag, require_pretrained=True)
        config = open_clip.get_model_preprocess_cfg(network)
        self.network = network
        self.size, self.pixels = _preparation(config, name)
        self.width = self.find_width(name)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the embeddings of the images, not scaled to length 1."""
        return self.network.encode_image(self.pixels(pictures))


def _preparation(config: dict[str, Any], name: str) -> tuple[PictureSize, Pixels]:
    """Return the picture size and the standardisation of a model's preprocessing config."""
    size = config["size"]
    crop = (size, size) if isinstance(size, int) else tuple(size)
    mode = config.get("resize_mode") or "shortest"
    if mode == "longest":
        raise InputError(f"{name}: expected a model whose pictures are cropped or squashed, found resize_mode longest")
    resize = crop if mode == "squash" else max(crop)
    return preparation(config["mean"], config["std"], resize, crop, config["interpolation"])
