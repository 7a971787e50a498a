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


class TimeConv(nn.Conv1d):
    """A bias-free convolution over time, with weights from N(0, sqrt(2 / (kernel area * out channels))).

    Weights are those of ``nn.Conv1d``. It also takes ``(B, channels, 1, T)`` in channels-last memory. Tensor cores read
    this layout, and cuDNN would convert ``(B, channels, T)`` in every layer.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel: frames of the kernel, an odd number.
        stride: frames from one result to the next.
        height: bands of the published kernel, which are channels here.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, height: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        # of the published kernel the area, not its width alone, is in the initial deviation
        nn.init.normal_(self.weight, 0.0, math.sqrt(2.0 / (height * kernel * out_channels)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, T)``, or ``(B, in_channels, 1, T)``, to the same form."""
        if x.dim() == 3:
            return super().forward(x)
        # weights stay (out, in, kernel) for checkpoints and optimisers; the copy is small beside the input
        weight = self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        if self.kernel_size[0] == 1:  # this way the gradient has the strides of the weight, as DDP wants them
            weight = self.weight.squeeze(2)[:, :, None, None]
        return F.conv2d(x, weight, None, (1, self.stride[0]), (0, self.kernel_size[0] // 2))


class TimeBatchNorm(nn.BatchNorm1d):
    """Batch norm over clips and time, of ``(B, channels, T)`` or ``(B, channels, 1, T)``."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take every form that ``TimeConv`` gives."""


class ResidualBlock(nn.Module):
    """Two 1 x 9 convolutions and a shortcut.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        stride: 2 halves time, 1 keeps it.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = TimeConv(in_channels, out_channels, KERNEL, stride)
        self.bn1 = TimeBatchNorm(out_channels)
        self.conv2 = TimeConv(out_channels, out_channels, KERNEL)
        self.bn2 = TimeBatchNorm(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(TimeConv(in_channels, out_channels, 1, stride), TimeBatchNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, T)`` to ``(B, out_channels, ceil(T / stride))``, or the same with a height of 1."""
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
    any_strides: bool = False
    """Whether ``forward`` takes spectrograms as they lie in memory, which may be time-major. Else they are copied."""

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

    any_strides = True
    channels_last: bool | None = None
    """Whether convolutions run in channels-last memory; ``None``: on CUDA."""

    def __init__(self, bands: int = 40, widths: Sequence[int] = (128, 256, 512, 1024)) -> None:
        super().__init__(bands)
        self.width = widths[-1]
        self.conv1 = TimeConv(bands, widths[0], 1, height=bands)
        self.bn1 = TimeBatchNorm(widths[0])
        inputs = [widths[0], *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(ResidualBlock(fan_in, width, 2), ResidualBlock(width, width, 1))
            for fan_in, width in zip(inputs, widths, strict=True)
        )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Map spectrograms ``(B, M, T)`` in dB to features ``(B, widths[-1], ceil(T / 16))``."""
        if spectrogram.is_cuda if self.channels_last is None else self.channels_last:
            # no copy of a time-major spectrogram: it lies as this layout wants it
            x = spectrogram.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        else:
            x = spectrogram.contiguous()
        hidden = F.relu(self._first(x))
        for stage in self.stages:
            hidden = stage(hidden)
        return hidden.squeeze(2) if hidden.dim() == 4 else hidden

    def _first(self, x: Tensor) -> Tensor:
        """Return the first layer's result for dB, which autocast must not round."""
        device = x.device.type
        if x.is_meta or not torch.is_autocast_enabled(device):
            return self.bn1(self.conv1(x))
        with torch.autocast(device, enabled=False):
            # the next layer would convert it too, but ReLU would keep a copy in full precision
            return self.bn1(self.conv1(x)).to(torch.get_autocast_dtype(device))


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
