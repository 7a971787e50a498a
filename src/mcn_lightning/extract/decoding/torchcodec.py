"""Pictures by torchcodec: the same frames at the same times, by FFmpeg's libraries of the machine or by NVDEC.

Colours and scaling differ from PyAV's by a few levels, as torch scales the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.errors import InputError, first_line, need_package
from mcn_lightning.extract.decoding.pictures import scaled_size

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

    from mcn_lightning.extract.decode import FrameSink, PictureSize

CHUNK = 8
"""Pictures of full size that are in memory at once."""
BEFORE = 1e-6
"""Seconds before a time at which the last frame before it is shown."""


def check_torchcodec() -> None:
    """Load torchcodec, so that what is missing is named before long work.

    Raises:
        InputError: if it is not installed, or finds no FFmpeg or no torch that it fits.
    """
    where, advice = "--decoder torchcodec", "install ffmpeg and the torchcodec for this torch, or leave it out"
    need_package("torchcodec", where, "pip install 'mcn-lightning[extract-torchcodec]'")
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        wanted = f"it to load beside torch {torch.__version__}"
        raise InputError(f"{where}: expected {wanted}, found: {first_line(error)}; {advice}") from None


class CodecPictures:
    """Gives sinks their frames of one file.

    Args:
        path: of the video.
        stream: index of the picture in the file.
        aspect: width of a stored pixel by its height.
        start: of the container, in seconds of the file's clock.
        device: ``cpu``, or ``cuda`` for NVDEC.
        threads: that decode on a CPU; 0 for as many as the machine has cores.
    """

    def __init__(self, path: Path, stream: int, aspect: float, start: float, device: str, threads: int) -> None:
        from torchcodec.decoders import VideoDecoder

        self._decoder: VideoDecoder = VideoDecoder(
            f"file:{path}", stream_index=stream, dimension_order="NCHW", num_ffmpeg_threads=threads, device=device
        )
        known = self._decoder.metadata
        self._aspect, self._start = aspect, start
        self._begin, self._end = known.begin_stream_seconds, known.end_stream_seconds
        self.seconds = self._end - start
        self.frames = 0

    def give(self, sinks: Sequence[FrameSink]) -> None:
        """Give each sink the last frame before ``(k + 0.5) / frame_rate`` seconds, until the picture ends.

        Raises:
            RuntimeError: where the file is damaged. What came before has been given.
        """
        # in the order of time over all sinks: going back would decode from a key frame again
        asked = sorted(
            ((row + 0.5) / sink.frame_rate, number)
            for number, sink in enumerate(sinks)
            for row in range(max(int(self.seconds * sink.frame_rate + 0.5), 1))
        )
        last = -inf
        for place in range(0, len(asked), CHUNK):
            part = asked[place : place + CHUNK]
            found = self._decoder.get_frames_played_at([self._inside(time) for time, _ in part])
            scaled: dict[tuple[float, PictureSize], Tensor] = {}  # one frame may serve several times
            for (_, number), picture, shown in zip(part, found.data, found.pts_seconds.tolist(), strict=True):
                self.frames, last = self.frames + (shown > last), shown
                size = sinks[number].size
                if (shown, size) not in scaled:
                    scaled[shown, size] = self._scaled(picture, size)
                sinks[number].take(scaled[shown, size].numpy())

    def _inside(self, time: float) -> float:
        """Return the second of the file's clock to ask for; the first frame serves what comes before it."""
        return min(max(time + self._start - BEFORE, self._begin), self._end - BEFORE)

    def _scaled(self, picture: Tensor, size: PictureSize) -> Tensor:
        """Return a picture ``(3, H, W)`` as ``(height, width, 3)``; torchcodec has turned it upright."""
        turned = (self._decoder.metadata.rotation or 0) % 180
        high, wide = picture.shape[-2:]
        if turned:
            columns, rows = scaled_size(wide, high * self._aspect, size)
        else:
            columns, rows = scaled_size(wide * self._aspect, high, size)
        # float, as bicubic interpolation exceeds 0 to 255; rounded and cut below
        planes = picture[None].float()
        if size.resample == "area":
            planes = F.interpolate(planes, (rows, columns), mode="area")
        else:
            planes = F.interpolate(planes, (rows, columns), mode=size.resample, antialias=True)
        if size.crop is not None:
            top, left = max(rows - size.crop, 0) // 2, max(columns - size.crop, 0) // 2
            planes = planes[..., top : top + size.crop, left : left + size.crop]
        return planes[0].round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().cpu()
