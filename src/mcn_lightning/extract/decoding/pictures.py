"""Frames for those who ask for a picture at given times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

    from mcn_lightning.extract.decode import FrameSink, PictureSize

FULL_CHR_H_INT = 0x2000  # a flag of swscale, which PyAV names from version 18 on


class Picker:
    """Gives a sink, for each time that it asks for, the last frame before it.

    Args:
        sink: what takes the pictures.
        aspect: width of a stored pixel by its height.
        threads: that scale a picture.
    """

    def __init__(self, sink: FrameSink, aspect: float, threads: int) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._sink, self._aspect, self._threads = sink, aspect, threads
        self._rate, self._taken, self._next = sink.frame_rate, 0, 0.5 / sink.frame_rate
        self._reformatter, self._packer = VideoReformatter(), VideoReformatter()
        # without the flag, swscale makes pictures of even width darker by 1.5 levels; planes are three times as fast
        self._way = int(Interpolation[sink.size.resample.upper()]) | FULL_CHR_H_INT
        self._last: av.VideoFrame | None = None
        self._shape: tuple[int, int, int] | None = None  # columns, rows and turns of the first frame

    def show(self, time: float, frame: av.VideoFrame) -> None:
        """Take the frame that is shown from ``time`` on; the frame before serves what was asked until then."""
        if self._next <= time and self._last is not None:
            self._serve(time)
        self._last = frame

    def close(self, end: float) -> None:
        """Serve what is asked until the end of the picture, at least one frame."""
        self._serve(max(end, 0.5 / self._rate))
        self._last = None

    def _serve(self, end: float) -> None:
        picture = None
        while self._last is not None and self._next <= end:
            if picture is None:  # one frame may serve several times
                picture = self._scaled(self._last)
            self._sink.take(picture)
            self._taken += 1
            # from the count and not by adding: rounding would add up over hours
            self._next = (self._taken + 0.5) / self._rate

    def _scaled(self, frame: av.VideoFrame) -> np.ndarray:
        size = self._sink.size
        if self._shape is None:  # for all: a file may change its size on the way, an encoder wants one
            self._shape = (*scaled_size(frame.width * self._aspect, frame.height, size), frame.rotation // 90)
        columns, rows, turns = self._shape
        scaled = self._reformatter.reformat(
            frame, columns, rows, format="gbrp", interpolation=self._way, threads=self._threads
        )
        packed = self._packer.reformat(scaled, format="rgb24", threads=self._threads)
        picture = np.rot90(packed.to_ndarray(), turns)  # after scaling, as fewer pixels are to be turned
        if size.crop is not None:
            high, wide = picture.shape[:2]
            top, left = max(high - size.crop, 0) // 2, max(wide - size.crop, 0) // 2
            picture = picture[top : top + size.crop, left : left + size.crop]
        return np.ascontiguousarray(picture)


def scaled_size(wide: float, high: float, size: PictureSize) -> tuple[int, int]:
    """Return columns and rows of a picture whose shorter side is scaled to the one wanted."""
    factor = size.short_side / min(wide, high)
    return round(wide * factor), round(high * factor)
