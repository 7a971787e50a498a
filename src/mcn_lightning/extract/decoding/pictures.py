"""Frames for those who ask for a picture at given times, and which frames nobody asks for."""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

    from mcn_lightning.extract.decode import FrameSink, PictureSize

NEVER_REFERRED_TO = ("h264", "mpeg1video", "mpeg2video")
"""Codecs whose frames say whether another is built upon them. HEVC says it of its own layer only."""
EPSILON = 1e-5


class Picker:
    """Gives a sink, for each time that it asks for, the last frame before it.

    Args:
        sink: what takes the pictures.
        aspect: width of a stored pixel by its height.
        threads: that scale a picture.
    """

    def __init__(self, sink: FrameSink, aspect: float, threads: int) -> None:
        from av.video.reformatter import VideoReformatter

        self._sink, self._aspect, self._threads = sink, aspect, threads
        self._rate, self._taken = Fraction(sink.frame_rate), 0
        self._reformatter = VideoReformatter()
        self._last: av.VideoFrame | None = None
        self._shape: tuple[int, int, int] | None = None  # columns, rows and turns of the first frame

    def show(self, time: Fraction, frame: av.VideoFrame) -> None:
        """Take the frame that is shown from ``time`` on; the frame before serves what was asked until then."""
        if self._last is not None:
            self._serve(time)
        self._last = frame

    def close(self, end: float) -> None:
        """Serve what is asked until the end of the picture, at least one frame."""
        self._serve(max(Fraction(end), Fraction(1, 2) / self._rate))
        self._last = None

    def _serve(self, end: Fraction) -> None:
        picture = None
        while self._last is not None and self._taken + Fraction(1, 2) <= end * self._rate:
            if picture is None:  # one frame may serve several times
                picture = self._scaled(self._last)
            self._sink.take(picture)
            self._taken += 1

    def _scaled(self, frame: av.VideoFrame) -> np.ndarray:
        size = self._sink.size
        if self._shape is None:  # for all: a file may change its size on the way, an encoder wants one
            self._shape = (*scaled_size(frame.width * self._aspect, frame.height, size), frame.rotation // 90)
        columns, rows, turns = self._shape
        # without the flag, swscale makes pictures of even width darker by 1.5 levels
        from av.video.reformatter import Interpolation

        way = Interpolation[size.resample.upper()] | Interpolation.FULL_CHR_H_INT
        scaled = self._reformatter.reformat(
            frame, columns, rows, format="rgb24", interpolation=way, threads=self._threads
        )
        picture = np.rot90(scaled.to_ndarray(), turns)  # after scaling, as fewer pixels are to be turned
        if size.crop is not None:
            high, wide = picture.shape[:2]
            top, left = max(high - size.crop, 0) // 2, max(wide - size.crop, 0) // 2
            picture = picture[top : top + size.crop, left : left + size.crop]
        return np.ascontiguousarray(picture)


def scaled_size(wide: float, high: float, size: PictureSize) -> tuple[int, int]:
    """Return columns and rows of a picture whose shorter side is scaled to the one wanted."""
    factor = size.short_side / min(wide, high)
    return round(wide * factor), round(high * factor)


class Unseen:
    """Lets the decoder pass over frames that nobody asks for and upon which no other frame is built.

    A frame is not asked for if another one follows it before the next time at which a sink wants a picture. That other
    one has been read before: B-frames come after the frames between which they lie. So the rest is exact, and a third
    to a half of the work is saved where one frame a second is wanted.

    Args:
        stream: the picture.
        rates: pictures a second that are asked for.
    """

    def __init__(self, stream: av.VideoStream, rates: list[float]) -> None:
        self.stream, self._rates = stream, rates
        self._seen: deque[float] = deque(maxlen=16)
        # fields of one frame may come in two packets
        self._exact = stream.codec_context.name in NEVER_REFERRED_TO and int(stream.codec_context.field_order) <= 1

    def look(self, packet: av.Packet, time: Fraction | None) -> None:
        """Tell the decoder whether it may pass over a packet that comes next."""
        if not self._exact:
            return
        skip = False
        if time is not None:
            begin = float(time)
            wanted = min((floor(rate * (begin - EPSILON) - 0.5) + 1.5) / rate for rate in self._rates)
            skip = any(begin + EPSILON < other < wanted - EPSILON for other in self._seen)
            if not packet.is_discard:
                self._seen.append(begin)
        self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"
