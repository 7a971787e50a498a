"""Timestamps of a container as seconds from its start."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

TS_DISCONT = 0x0200  # FFmpeg's mark of formats whose clocks may start anew
BACK, FORWARD = 0.5, 60.0
"""Seconds that decoding time may jump in a recording (MPEG-TS, MPEG-PS) before it counts as a new beginning."""
MOST, OVER = 3600.0, 1.0
"""Seconds that a timestamp may lie after the one before, and after the end of the file. Beyond, it is damaged."""


class Clock:
    """Turns timestamps into seconds from the start of the container.

    One division of whole numbers gives each time. So a frame at exactly half a second is at 0.5, whatever the start.

    Recordings may be ``joined`` from parts whose clocks start anew. There each part follows on the one before.
    """

    def __init__(self, container: InputContainer) -> None:
        import av

        self.joined = bool(container.format.flags & TS_DISCONT)
        start = Fraction(container.start_time or 0, av.time_base)
        # the container's start is a stream's, rounded to microseconds
        self._start = min(_starts(container), key=lambda each: abs(each - start), default=start)
        if abs(self._start - start) > Fraction(2, av.time_base):
            self._start = start
        self._length = (container.duration or 0) / av.time_base
        self._shift, self._shifts = 0.0, dict[int, float]()  # the newest, and that of each stream
        self._next: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._whole: dict[int, tuple[int, int, int]] = {}

    @property
    def start(self) -> float:
        """The start of the container, in seconds of the file's clock."""
        return float(self._start)

    def mend(self, packet: av.Packet) -> None:
        """Move the timestamps of a packet if its recording started anew before it."""
        if packet.dts is None:
            return
        index, tick = packet.stream_index, float(packet.stream.time_base or 0)
        shift, expected = self._shifts.get(index, 0.0), self._next.get(index)
        if expected is not None and not _follows(packet.dts * tick + shift, expected):
            # as another stream was moved, so that picture and sound of the new part stay together
            if not _follows(packet.dts * tick + self._shift, expected):
                self._shift = expected - packet.dts * tick
            shift = self._shifts[index] = self._shift
        self._next[index] = (packet.dts + (packet.duration or 0)) * tick + shift
        if shift:
            # whole ticks: the decoder takes no others
            ticks = round(shift / tick)
            packet.dts += ticks
            packet.pts = None if packet.pts is None else packet.pts + ticks

    def seconds(self, timed: av.Packet | av.VideoFrame | av.AudioFrame, stream: av.stream.Stream) -> float | None:
        """Return when a packet or a frame of a stream is shown or heard; ``None`` if it does not say, or wrongly."""
        ticks, index = timed.pts, stream.index
        if ticks is None:
            return None
        if index not in self._whole:
            tick = stream.time_base or Fraction(0)
            parts = tick.numerator * self._start.denominator, tick.denominator * self._start.numerator
            self._whole[index] = (*parts, tick.denominator * self._start.denominator)
        factor, start, divisor = self._whole[index]
        # from whole numbers that are made once a stream: a Fraction for each frame would be slow
        time, last = (ticks * factor - start) / divisor, self._last.get(index, 0.0)
        most = last + MOST if self.joined or not self._length else self._length + OVER
        return time if last - BACK <= time <= most else None

    def time(self, frame: av.VideoFrame | av.AudioFrame, stream: av.stream.Stream, expected: float) -> float:
        """Return when the next frame of a stream is shown or heard; ``expected`` if it does not say, or wrongly."""
        time = self.seconds(frame, stream)
        self._last[stream.index] = expected if time is None else time
        return self._last[stream.index]

    def told(self, stream: av.VideoStream | av.AudioStream, only: bool) -> float:
        """Return the seconds at which a stream ends by its header; 0 if the header does not say.

        Args:
            stream: of the container.
            only: whether the container has no other streams than those that are read, so that its length is theirs.
        """
        if self.joined:  # guessed from the end of the file, and no header
            return 0.0
        if stream.duration and stream.time_base:
            return float(((stream.start_time or 0) + stream.duration) * stream.time_base - self._start)
        tag = stream.metadata.get("DURATION", "")  # Matroska: end of the stream as 00:00:06.083000000
        try:
            hours, minutes, seconds = (float(part) for part in tag.split(":"))
        except ValueError:
            return self._length if only else 0.0
        return 3600 * hours + 60 * minutes + seconds - float(self._start)


def _follows(time: float, expected: float) -> bool:
    return -BACK <= time - expected <= FORWARD


def _starts(container: InputContainer) -> list[Fraction]:
    streams: list[av.VideoStream | av.AudioStream] = [*container.streams.video, *container.streams.audio]
    return [each.start_time * each.time_base for each in streams if each.start_time is not None and each.time_base]
