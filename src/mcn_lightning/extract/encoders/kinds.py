"""Encoders by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcn_lightning.errors import InputError
from mcn_lightning.extract.encoders.base import Encoder
from mcn_lightning.extract.encoders.howto100m import ReleasedResNet, ReleasedResNeXt
from mcn_lightning.extract.encoders.onnx_file import OnnxEncoder
from mcn_lightning.extract.encoders.open_clip import OpenClipEncoder
from mcn_lightning.extract.encoders.timm import TimmEncoder
from mcn_lightning.extract.encoders.torch_file import TorchFileEncoder
from mcn_lightning.extract.encoders.torchvision import TorchvisionEncoder
from mcn_lightning.extract.encoders.transformers import TransformersEncoder
from mcn_lightning.extract.encoders.weights import near
from mcn_lightning.options.config import ClassOptions

KINDS: dict[str, type[Encoder]] = {
    "timm": TimmEncoder,
    "open_clip": OpenClipEncoder,
    "transformers": TransformersEncoder,
    "torchvision": TorchvisionEncoder,
    "torch": TorchFileEncoder,
    "onnx": OnnxEncoder,
    "howto100m:resnet152": ReleasedResNet,
    "howto100m:resnext101": ReleasedResNeXt,
}
"""The class of each kind: what stands before the colon of a name, or before its first slash."""


class EncoderOptions(ClassOptions, option="encoder"):
    """The class of an encoder and its arguments."""


def make_encoder(
    name: str,
    weights: str | None = None,
    *,
    rate: float | None = None,
    normalize: bool | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Encoder:
    """Make an encoder, frozen and in evaluation mode, on the CPU.

    Args:
        name: kind and model as in ``timm:resnet50``, or the path of a class of one's own as in ``my_file.MyEncoder``.
        weights: file or folder of weights, in place of those that the name stands for.
        rate: rows a second. A clip encoder reads ``rate * frames`` frames a second; without it, its own.
        normalize: whether rows are scaled to length 1; ``None`` for the encoder's own choice, which is no except for
            the encoders of the HowTo100M release.
        arguments: further arguments of the encoder's class, by name.

    Raises:
        InputError: if there is no such encoder, its package or its weights are missing, or an argument is wrong.
    """
    options, first = _options(name, weights, dict(arguments or {}))
    kind = options.find(Encoder, None)
    assert kind is not None  # a path is always given
    try:
        encoder = options.make(kind, **first).eval().requires_grad_(False)
    except InputError as error:
        raise InputError(str(error).replace("encoder.init_args", f"encoder {name}, arguments", 1)) from None
    lacking = [each for each in ("width", "size") if not hasattr(encoder, each)]
    if lacking:
        raise InputError(f"encoder {name}: expected the attributes width and size, found no {lacking[0]}; set it")
    if normalize is not None:
        encoder.normalize = normalize
    if rate is not None and encoder.frame_rate is not None:
        own = encoder.frame_rate / encoder.frames
        if (encoder.fixed_rate or "frame_rate" in (arguments or {})) and abs(rate - own) > 1e-6:
            row = f"{encoder.frames} frames at {encoder.frame_rate:g} a second"
            raise InputError(f"encoder {name}: expected rate {own:g}, as a row is made of {row}, found {rate:g}")
        encoder.frame_rate = rate * encoder.frames
    return encoder


def _options(name: str, weights: str | None, arguments: dict[str, Any]) -> tuple[EncoderOptions, dict[str, Any]]:
    """Return the class of a name with its arguments, and those that come first."""
    kind, colon, model = name.partition(":")
    if not colon and "." in name:
        given = {"weights": weights} if weights is not None else {}
        return EncoderOptions(class_path=name, init_args={**arguments, **given}), {}
    head = name.partition("/")[0]
    # by what stands before the slash first, for the two howto100m: kinds
    found = KINDS.get(head) or KINDS.get(kind)
    if found is None or not model:
        advice = near(head if kind == "howto100m" else kind, KINDS) if found is None else f"as in {kind}:NAME"
        wanted = "a kind and a model as in timm:resnet50, or a class as in my_file.MyEncoder"
        raise InputError(f"encoder {name}: expected {wanted}, found neither; {advice}")
    path = f"{found.__module__}.{found.__name__}"
    return EncoderOptions(class_path=path, init_args=arguments), {"model": model, "weights": weights}
