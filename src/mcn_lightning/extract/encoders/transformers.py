"""Image and clip encoders of transformers: ``transformers:<name or folder>``."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels, preparation
from mcn_lightning.extract.encoders.weights import HUB_CACHE, fetching, find_folder, import_package

KNOWN = (
    "openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16", "openai/clip-vit-large-patch14",
    "google/siglip-base-patch16-224", "google/siglip2-base-patch16-224", "google/siglip2-so400m-patch14-384",
    "facebook/dinov2-small", "facebook/dinov2-base", "facebook/dinov2-large",
    "facebook/dinov3-vits16-pretrain-lvd1689m", "facebook/dinov3-vitb16-pretrain-lvd1689m", "MCG-NJU/videomae-base",
)  # fmt: skip
"""Names of models that are often used, for messages about others."""
FRAME_RATE = 7.5
"""Frames a second of clips: VideoMAE was trained on every fourth frame of 30 a second."""
RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Interpolations by their number in Pillow; bicubic for others."""


class TransformersEncoder(Encoder):
    """A vision model of transformers, with the picture size and colours of its image processor.

    A row is the first of these that the model has:

    1. the image's embedding in the space of texts (``get_image_features``: CLIP, SigLIP and the like),
    2. ``pooler_output``, where the weights of its layers are in the file (DINOv2, DINOv3, ResNet),
    3. the mean of ``last_hidden_state`` over all tokens (VideoMAE, ViT without a pooler).

    A model whose config has ``num_frames`` takes clips.

    Args:
        model: name of a model, or a folder with its config, weights and ``preprocessor_config.json``.
        weights: folder in place of the name's.
        frame_rate: frames a second of a clip; 7.5 where it is not given.

    Raises:
        InputError: if transformers is not installed, or the model is none of these.
    """

    def __init__(self, model: str, weights: str | None = None, frame_rate: float | None = None) -> None:
        super().__init__()
        name, given = f"transformers:{model}", weights or model
        is_path = weights is not None or given.startswith((".", "/", "~"))
        source = str(find_folder(given, name)) if is_path else given
        transformers = import_package("transformers", name, "extract-transformers")
        similar = [] if model in KNOWN else get_close_matches(model, KNOWN, 2, 0.8)
        with fetching(name, HUB_CACHE, f"did you mean {' or '.join(similar)}?" if similar else ""):
            network, told = transformers.AutoModel.from_pretrained(source, output_loading_info=True)
            try:
                processor = transformers.AutoImageProcessor.from_pretrained(source)
            except (ImportError, ValueError) as error:  # DINOv3's exists for torchvision only
                if "torchvision" in str(error) and find_spec("torchvision") is None:
                    import_package("torchvision", name, "extract-torchvision")
                raise
        # a pooler is often left out of the file, and then not used here
        missing = sorted(key for key in told["missing_keys"] if "pool" not in key)
        if missing:
            raise InputError(f"{name}: expected weights of all layers, found none for {', '.join(missing[:3])}")
        self.pooled = not told["missing_keys"]
        self.network = network.float()
        frames = getattr(network.config, "num_frames", None)
        if frames is not None:
            self.frames, self.frame_rate = frames, frame_rate or FRAME_RATE
        elif frame_rate is not None:
            raise InputError(f"{name}: expected no frame_rate for a model of pictures, found {frame_rate}")
        self.size, self.pixels = _preparation(processor, name)
        self.width = self.find_width(name)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the pooled features, see the class."""
        pixels = self.pixels(pictures)
        if hasattr(self.network, "get_image_features"):
            found = self.network.get_image_features(pixel_values=pixels)
            return found if isinstance(found, Tensor) else found.pooler_output
        output = self.network(pixel_values=pixels)
        if self.pooled and getattr(output, "pooler_output", None) is not None:
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state
        return hidden.mean(dim=1) if hidden.ndim == 3 else hidden.flatten(2).mean(dim=2)


def _preparation(processor: Any, name: str) -> tuple[PictureSize, Pixels]:
    """Return the picture size and the standardisation of an image processor."""
    size = {key: value for key, value in dict(getattr(processor, "size", None) or {}).items() if value is not None}
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else {}
    edge, share = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    if edge and share:  # ConvNeXt: small pictures are cropped, and large ones squashed
        size = {"shortest_edge": int(edge / share)} if edge < 384 else {"height": edge, "width": edge}
        crop = {"height": edge, "width": edge}
    if "shortest_edge" not in size and not {"height", "width"} <= size.keys():
        raise InputError(f"{name}: expected a processor with a size, found {size or 'none'}; name another model")
    # Pixels divides by 255, and a processor may divide by another number or not at all
    factor = 255 * (processor.rescale_factor if processor.do_rescale else 1)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    resize = size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])
    window = (crop["height"], crop["width"]) if crop else None
    resample = RESAMPLE.get(int(processor.resample), "bicubic")
    return preparation([each / factor for each in mean], [each / factor for each in std], resize, window, resample)
