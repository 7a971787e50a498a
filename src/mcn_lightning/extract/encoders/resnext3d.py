"""ResNeXt-101 of 3D convolutions (Hara et al. 2018, arXiv 1711.09577), with the names of the released weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = (3, 4, 23, 3)
"""Blocks of each stage of the network of 101 layers."""
CARDINALITY = 32
"""Groups of the middle convolution of a block."""
EXPANSION = 2
"""Channels that leave a block, by its planes."""


class Block(nn.Module):
    """Bottleneck of three convolutions, the middle one in groups, around a shortcut.

    Where the shape changes, the shortcut is a convolution (type B of the paper).

    Args:
        inputs: channels that enter.
        planes: channels of the middle convolution; twice as many leave.
        stride: of the middle convolution, in time and space.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outputs = planes * EXPANSION
        self.conv1 = nn.Conv3d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(planes)
        self.conv2 = nn.Conv3d(planes, planes, 3, stride, 1, groups=CARDINALITY, bias=False)
        self.bn2 = nn.BatchNorm3d(planes)
        self.conv3 = nn.Conv3d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, frames, height, width)`` to ``(B, 2 * planes, ...)``."""
        found = F.relu(self.bn1(self.conv1(x)))
        found = F.relu(self.bn2(self.conv2(found)))
        return F.relu(self.bn3(self.conv3(found)) + self.downsample(x))


class ResNeXt3D(nn.Module):
    """ResNeXt-101 of 3D convolutions without its classifier."""

    width = 2048
    """Numbers that it returns for a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(64)
        inputs = 64
        for stage, (blocks, planes) in enumerate(zip(BLOCKS, (128, 256, 512, 1024), strict=True), start=1):
            layers = []
            for block in range(blocks):
                layers.append(Block(inputs, planes, stride=2 if stage > 1 and block == 0 else 1))
                inputs = planes * EXPANSION
            self.add_module(f"layer{stage}", nn.Sequential(*layers))

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips ``(B, 3, frames, height, width)`` to features ``(B, 2048)``, the mean over time and space."""
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(clips))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean(dim=(2, 3, 4))
