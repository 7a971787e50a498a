"""Packets that need not be decoded, as nobody asks for their frames and no other frame needs them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import floor, inf
from typing import TYPE_CHECKING

from mcn_lightning.extract.decoding.keyframes import forgets, has_fields

if TYPE_CHECKING:
    import av

NEVER_REFERRED_TO = ("h264", "mpeg1video", "mpeg2video")
"""Codecs whose frames say whether another is built upon them. HEVC says it of its own layer only."""
# seconds; times of frames are rounded to ticks, and wanted times are not
EPSILON = 1e-5
MOST_HELD = 512
"""Packets that wait for the next key frame."""


def next_time(time: float, rates: Iterable[float]) -> float:
    """Return the first time at or after a time for which a picture is asked; row k is asked for at (k + 0.5) / rate."""
    return min((floor(rate * (time - EPSILON) - 0.5) + 1.5) / rate for rate in rates)


def has_unseen(stream: av.VideoStream) -> bool:
    """Tell whether frames of a stream may be passed over: B-frames, but not where two fields come in two packets."""
    context = stream.codec_context
    return bool(context.has_b_frames) and context.name in NEVER_REFERRED_TO and not has_fields(stream)


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
        # the most frames that H.264 reorders
        self._seen: deque[float] = deque(maxlen=16)
        self._latest = -inf
        self._context, self._skips = stream.codec_context, False

    def look(self, packet: av.Packet, time: float | None) -> None:
        """Tell the decoder whether it may pass over a packet that comes next."""
        skip = False
        if time is not None:
            if time < self._latest:
                wanted = next_time(time, self._rates) - EPSILON
                after = time + EPSILON
                skip = any(after < other < wanted for other in self._seen)
            if not packet.is_discard:
                self._seen.append(time)
                self._latest = max(self._latest, time)
        if skip is not self._skips:
            self._context.skip_frame, self._skips = ("NONREF" if skip else "DEFAULT"), skip


class Tails:
    """Holds packets back until it is known whether somebody asks for a frame of theirs before the next key frame.

    A row shows the last frame before its time. So nobody asks for the packets from one on up to a key frame if no row
    has its time after the first of their frames and up to the key frame's. No frame from there on is built upon them if
    the key frame lets the decoder forget all before it. So the rest is exact.

    Args:
        stream: the picture.
        rates: pictures a second that are asked for.
    """

    def __init__(self, stream: av.VideoStream, rates: list[float]) -> None:
        self.stream, self._rates = stream, rates
        self._held: list[av.Packet] = []
        self._first, self._wanted = inf, inf  # time of the first held frame, and of the row that asks next

    def take(self, packet: av.Packet, time: float | None, started: bool) -> list[av.Packet]:
        """Take the next packet of the stream, and return those to decode now.

        Args:
            packet: in the order of the file; an empty one at the end.
            time: of its frame in seconds; ``None`` if it is not known.
            started: whether a frame was decoded. The first one serves all that is asked before it.
        """
        if time is None or not started:
            return [*self.rest(), packet]
        if packet.is_keyframe and self._held and time + EPSILON < self._wanted and forgets(packet, self.stream):
            self.rest()
        full = time >= self._wanted - EPSILON or len(self._held) >= MOST_HELD
        ready = self.rest() if full and self._held else []
        self._held.append(packet)
        if time < self._first:
            self._first, self._wanted = time, next_time(time, self._rates)
        return ready

    def rest(self) -> list[av.Packet]:
        """Return the packets that are held, and hold them no more."""
        held, self._held, self._first = self._held, [], inf
        return held
