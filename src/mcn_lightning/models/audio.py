"""Audio networks: their base class, ResDAVEnet, and pooling over time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KERNEL = 9
AUDIO_STRIDE = 16
"""Audio frames that one output step covers: four stages that halve time."""


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, bands: int = 1) -> nn.Conv1d:
    """Make a bias-free convolution with weights from N(0, sqrt(2 / (kernel area * out channels)))."""
    conv = nn.Conv1d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2.0 / (bands * kernel * out_channels)))
    return conv


class ResidualBlock(nn.Module):
    """Two 1 x 9 convolutions and a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        stride: 2 halves time, 1 keeps it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, KERNEL, stride)
        self.bn1 = nn.BatchNorm1d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, KERNEL, 1)
        self.bn2 = nn.BatchNorm1d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm1d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, T)`` to ``(B, out_channels, ceil(T / stride))``."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class AudioNetwork(nn.Module, ABC):
    """Base class of networks from spectrograms to features over time, which the audio branch pools and projects.

    A custom network derives from this class, sets ``width`` and ``stride``, and implements ``forward``.

    Args:
        bands: mel bands M. Arguments from ``init_args`` follow by name.
    """

    width: int
    """Channels F of the features."""
    stride: int = AUDIO_STRIDE
    """Audio frames that one step of the features covers."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    @abstractmethod
    def forward(self, spectrogram: Tensor) -> Tensor:
        """Map spectrograms ``(B, M, T)`` in dB (at most 0, frames of 10 ms) to features ``(B, F, ceil(T / stride))``.

        It gets only clips with sound. Clips of fewer than T frames are padded at their end.
        """


class ResDAVEnet(AudioNetwork):
    """Residual network over time (Harwath, Hsu and Glass, "Learning hierarchical discrete linguistic units", 2020).

    The published network has 2-d convolutions of height 40 and 1 on a one-channel image. Its first layer spans all
    bands and leaves height 1. So 1-d convolutions over time compute the same numbers.

    Args:
        bands: mel bands M.
        widths: channels of the four stages; the first convolution has as many as the first stage.
    """

    def __init__(self, bands: int = 40, widths: Sequence[int] = (128, 256, 512, 1024)) -> None:
        super().__init__(bands)
        self.width = widths[-1]
        # the published kernel is 40 x 1: its area, not its width alone, is in the initial deviation
        self.conv1 = _conv(bands, widths[0], 1, 1, bands=bands)
        self.bn1 = nn.BatchNorm1d(widths[0])
        inputs = [widths[0], *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(fan_in, width, 2), ResidualBlock(width, width, 1))
            for fan_in, width in zip(inputs, widths, strict=True)
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Map spectrograms ``(B, M, T)`` in dB to features ``(B, widths[-1], ceil(T / 16))``."""
        hidden = F.relu(self.bn1(self.conv1(spectrogram)))
        for stage in self.stages:
            hidden = stage(hidden)
        return hidden


def pool_time(features: Tensor, steps: Tensor | None, how: Literal["mean", "max"]) -> Tensor:
    """Pool features over their first steps.

    Args:
        features: ``(B, channels, S)``.
        steps: valid steps of each clip ``(B,)`` int64, at least 1; all of them when ``None``.
        how: mean (released) or maximum over time.

    Returns:
        ``(B, channels)``.
    """
    if steps is None:
        return features.mean(dim=2) if how == "mean" else features.amax(dim=2)
    valid = torch.arange(features.shape[2], device=features.device) < steps[:, None]
    if how == "max":
        return features.masked_fill(~valid[:, None], float("-inf")).amax(dim=2)
    # weights, not a masked mean: one product over time, and padding counts 0
    weights = valid / valid.sum(dim=1, keepdim=True)
    return torch.einsum("bcs,bs->bc", features, weights.to(features.dtype))


def valid_steps(audio_frames: Tensor, num_frames: int, released: bool = False, stride: int = AUDIO_STRIDE) -> Tensor:
    """Return the number of output steps of the network that hold sound, at least 1.

    The released code divides the frame count by ``round(T / ceil(T / 16))``. This is 16 for every T that it uses, but
    can be 15 for some T below 465. The default here is the exact stride 16.

    Args:
        audio_frames: frames before padding, ``(B,)`` int64.
        num_frames: padded length T.
        released: follow the released code's divisor.
        stride: frames that one step covers.

    Returns:
        ``(B,)`` int64.
    """
    output_steps = math.ceil(num_frames / stride)
    divisor = round(num_frames / output_steps) if released else stride
    return (audio_frames // divisor).clamp(min=1, max=output_steps)
