"""Residual networks straight from a state dict: ResNet-152 (He et al. 2016) and 3D ResNeXt-101 (Hara et al. 2018).

Names are those of the released weights. The shapes are written down from the papers' tables.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

StateDict = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


def norm_shapes(name: str, channels: int) -> Shapes:
    """The four vectors of a batch norm, and its counter."""
    vectors = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def shapes(blocks: tuple[int, ...], middle: int, expansion: int, groups: int, kernel: int, dims: int) -> Shapes:
    """Names and shapes of all weights but the classifier's.

    Args:
        blocks: of each stage.
        middle: channels of the 3 x 3 convolutions in the first stage; they double from stage to stage.
        expansion: channels that leave a block, by those of its middle.
        groups: of the 3 x 3 convolutions.
        kernel: side of the first convolution.
        dims: 2 for pictures, 3 for clips.
    """
    found: Shapes = {"conv1.weight": (64, 3, *[kernel] * dims), **norm_shapes("bn1", 64)}
    channels = 64
    for stage, count in enumerate(blocks):
        inner, outer = middle * 2**stage, middle * 2**stage * expansion
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            convolutions = {
                "1": (inner, channels, *[1] * dims),
                "2": (inner, inner // groups, *[3] * dims),
                "3": (outer, inner, *[1] * dims),
            }
            for number, shape in convolutions.items():
                found |= {f"{name}.conv{number}.weight": shape, **norm_shapes(f"{name}.bn{number}", shape[0])}
            if block == 0:  # the shape changes in the first block of each stage, and there alone
                found |= {f"{name}.downsample.0.weight": (outer, channels, *[1] * dims)}
                found |= norm_shapes(f"{name}.downsample.1", outer)
            channels = outer
    return found


RESNET152 = {"blocks": (3, 8, 36, 3), "middle": 64, "expansion": 4, "groups": 1, "kernel": 7, "dims": 2}
RESNEXT101_3D = {"blocks": (3, 4, 23, 3), "middle": 128, "expansion": 2, "groups": 32, "kernel": 7, "dims": 3}


def random_state(found: Shapes, seed: int = 0) -> StateDict:
    """Random weights of given shapes, under which the activations of a deep network stay finite."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in found.items():
        value = torch.randn(shape, generator=generator) if shape else torch.tensor(0)
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) > 1:
            value = value * (2 / value[0].numel()) ** 0.5
        elif ".bn3." in name and shape:
            value = value * 0.2  # a block adds a little to its shortcut
        state[name] = value
    return state


def batch_norm(sd: StateDict, name: str, x: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-5) * weight + bias, by the stored statistics."""
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, var, weight, bias = (
        sd[f"{name}.{part}"].view(shape) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias


def convolve(x: Tensor, weight: Tensor, stride: int | tuple[int, ...] = 1, padding: int = 0, groups: int = 1) -> Tensor:
    """A convolution, one group of channels after the other."""
    function = F.conv2d if x.ndim == 4 else F.conv3d
    parts = zip(x.chunk(groups, dim=1), weight.chunk(groups, dim=0), strict=True)
    return torch.cat([function(part, kernel, None, stride, padding) for part, kernel in parts], dim=1)


def residual_network(sd: StateDict, x: Tensor, blocks: tuple[int, ...], groups: int) -> Tensor:
    """Pooled features ``(B, width)`` of pictures ``(B, 3, H, W)`` or clips ``(B, 3, T, H, W)``."""
    video = x.ndim == 5
    x = convolve(x, sd["conv1.weight"], (1, 2, 2) if video else 2, 3)
    x = (F.max_pool3d if video else F.max_pool2d)(batch_norm(sd, "bn1", x).clamp(min=0), 3, 2, 1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            y = batch_norm(sd, f"{name}.bn1", convolve(x, sd[f"{name}.conv1.weight"])).clamp(min=0)
            y = batch_norm(sd, f"{name}.bn2", convolve(y, sd[f"{name}.conv2.weight"], stride, 1, groups)).clamp(min=0)
            y = batch_norm(sd, f"{name}.bn3", convolve(y, sd[f"{name}.conv3.weight"]))
            if f"{name}.downsample.0.weight" in sd:
                x = batch_norm(sd, f"{name}.downsample.1", convolve(x, sd[f"{name}.downsample.0.weight"], stride))
            x = (x + y).clamp(min=0)
    return x.flatten(2).mean(2)
