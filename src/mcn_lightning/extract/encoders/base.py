"""What turns pictures into rows of features."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mcn_lightning.extract.decode import PictureSize


class Encoder(nn.Module, ABC):
    """Base class of visual encoders: frozen, in evaluation mode.

    A subclass sets the attributes below and writes ``encode``. An image encoder keeps ``frames`` at 1. A clip encoder
    takes ``frames`` consecutive frames at ``frame_rate`` for each row.
    """

    width: int
    """Numbers in a row."""
    size: PictureSize
    """How pictures are scaled and cut."""
    frames: int = 1
    """Frames of a row."""
    frame_rate: float | None = None
    """Frames a second of a clip encoder. ``None`` for image encoders, which take one frame a row."""

    @abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures.

        Args:
            pictures: ``(B, height, width, 3)`` uint8 RGB for an image encoder; ``(B, frames, height, width, 3)`` for a
                clip encoder.

        Returns:
            ``(B, width)`` of any floating type.
        """

    def rows(self, pictures: Tensor) -> Tensor:
        """Return the features ``(B, width)`` float32 of pictures, without gradient."""
        with torch.inference_mode():
            return self.encode(pictures).float()


def normalized(pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return pictures as networks take them: ``(B, 3, height, width)`` float32, scaled to [0, 1] and standardised.

    Args:
        pictures: ``(B, height, width, 3)`` uint8.
        mean: of each channel ``(3,)``.
        std: standard deviation of each channel ``(3,)``.
    """
    return ((pictures.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
