"""What turns pictures into rows of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.errors import InputError, first_line
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
    fixed_rate: bool = False
    """Whether ``frame_rate`` is part of a recipe, so that another rate of rows is refused."""
    normalize: bool = False
    """Whether rows are scaled to length 1."""

    @abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Return the features of pictures.

        Args:
            pictures: ``(B, height, width, 3)`` uint8 RGB for an image encoder; ``(B, frames, height, width, 3)`` for a
                clip encoder. Without a crop in ``size``, the longer side differs between videos.

        Returns:
            ``(B, width)`` of any floating type.
        """

    def rows(self, pictures: Tensor) -> Tensor:
        """Return the features ``(B, width)`` float32 of pictures, without gradient, of length 1 by ``normalize``."""
        with torch.inference_mode():
            rows = self.encode(pictures).float()
            return F.normalize(rows, dim=1) if self.normalize else rows

    def example(self) -> Tensor:
        """Return a black picture, or clip, in a batch of one: ``(1, height, width, 3)`` or with ``frames`` before."""
        side = self.size.crop or self.size.short_side
        return torch.zeros(1, *[self.frames] * (self.frame_rate is not None), side, side, 3, dtype=torch.uint8)

    def find_width(self, name: str, advice: str = "name another model") -> int:
        """Return the numbers in a row, by encoding two black pictures in evaluation mode.

        Args:
            name: of the encoder, for messages.
            advice: what to do if the network does not take them.

        Raises:
            InputError: if it does not take them, or does not return ``(2, width)``.
        """
        # two, so that a network that mixes pictures of a batch is seen in the shape
        example = self.example()
        pictures = example.expand(2, *example.shape[1:])
        try:
            rows = self.eval().rows(pictures)
            if rows.ndim == 2 and len(rows) == 2:
                return rows.shape[1]
            found = f"{tuple(rows.shape)}"
        except Exception as error:  # networks of others raise of any kind
            found = first_line(error)[:200]
        wanted = f"a network that turns pictures of shape {tuple(pictures.shape)} into (2, width)"
        raise InputError(f"{name}: expected {wanted}, found {found}; {advice}")


class Pixels(nn.Module):
    """Makes of uint8 pictures what a network takes: scaled to [0, 1], standardised, of one shape where that is needed.

    Args:
        mean: of each channel.
        std: standard deviation of each channel.
        resize: height and width to which the whole picture is brought without keeping its proportions; ``None``
            keeps the picture as it is.
        crop: height and width that are cut from the middle afterwards; ``None`` keeps all.
        resample: interpolation of ``resize``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        resize: tuple[int, int] | None = None,
        crop: tuple[int, int] | None = None,
        resample: Literal["bilinear", "bicubic"] = "bicubic",
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.resize, self.crop, self.resample = resize, crop, resample

    def forward(self, pictures: Tensor) -> Tensor:
        """Return pictures as networks take them.

        Args:
            pictures: ``(..., height, width, 3)`` uint8.

        Returns:
            ``(..., 3, height, width)`` float32.
        """
        *before, height, width, _ = pictures.shape
        if self.resize is not None and (height, width) != self.resize:
            planes = pictures.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float()
            planes = F.interpolate(planes, self.resize, mode=self.resample, antialias=True, align_corners=False)
            pictures = planes.clamp(0, 255).permute(0, 2, 3, 1).unflatten(0, before)
        if self.crop is not None:
            # rounded as torchvision's CenterCrop does
            top, left = (round((have - want) / 2) for have, want in zip(pictures.shape[-3:-1], self.crop, strict=True))
            pictures = pictures[..., top : top + self.crop[0], left : left + self.crop[1], :]
        return normalized(pictures, self.mean, self.std)


def preparation(
    mean: Sequence[float],
    std: Sequence[float],
    resize: int | tuple[int, int],
    crop: tuple[int, int] | None,
    resample: str = "bicubic",
) -> tuple[PictureSize, Pixels]:
    """Return how the decoder scales pictures, and what the encoder does afterwards.

    Args:
        mean: of each channel.
        std: standard deviation of each channel.
        resize: pixels of the shorter side; or height and width, to which pictures are brought without keeping their
            proportions.
        crop: height and width that are cut from the middle.
        resample: interpolation; all but "bilinear" are taken as bicubic.
    """
    kind: Literal["bilinear", "bicubic"] = "bilinear" if resample == "bilinear" else "bicubic"
    if not isinstance(resize, int):
        return PictureSize(min(resize), None, kind), Pixels(mean, std, resize, crop if crop != resize else None, kind)
    if crop is not None and crop[0] == crop[1]:
        return PictureSize(resize, crop[0], kind), Pixels(mean, std)
    return PictureSize(resize, None, kind), Pixels(mean, std, crop=crop)


def normalized(pictures: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return pictures as networks take them: ``(..., 3, height, width)`` float32, scaled to [0, 1] and standardised.

    Args:
        pictures: ``(..., height, width, 3)`` uint8.
        mean: of each channel ``(3,)``.
        std: standard deviation of each channel ``(3,)``.
    """
    return ((pictures.float() / 255 - mean) / std).movedim(-1, -3).contiguous()
