"""Frames and sound of a video file at exact times, in one pass over the file.

Time zero is the start of the container, and not the first frame. So frames, sound and captions stay together in a file
whose picture begins after its sound. Times are presentation timestamps: variable frame rates and B-frames do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mcn_lightning.errors import InputError

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

GAP = 0.1
"""Seconds without sound from which on silence is filled in. Shorter ones are rounding of the timestamps."""
MAX_JUMP = 3600.0
"""Seconds between two frames from which on a timestamp is damaged."""


@dataclass(frozen=True)
class PictureSize:
    """How a picture is scaled and cut.

    Args:
        short_side: pixels of the shorter side after scaling. The longer side keeps the proportions.
        crop: side of the square that is cut from the middle; ``None`` for the whole picture.
        resample: interpolation of the scaling.
    """

    short_side: int
    crop: int | None = None
    resample: Literal["bilinear", "bicubic", "area"] = "bicubic"


class FrameSink(Protocol):
    """What takes the frames of one visual stream."""

    @property
    def size(self) -> PictureSize:
        """How its pictures are scaled and cut."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""

    def take(self, picture: np.ndarray) -> None:
        """Take the next picture ``(height, width, 3)`` uint8 RGB, upright.

        Picture k is the last frame before ``(k + 0.5) / frame_rate`` seconds, or the first frame where there is none.
        """


class SoundSink(Protocol):
    """What takes the sound."""

    sample_rate: int

    def take(self, samples: np.ndarray) -> None:
        """Take the next samples ``(n,)`` float32, mono, without holes from time zero on."""


@dataclass
class Outcome:
    """What was read of a file.

    Args:
        picture: seconds from the start of the container to the end of the picture; 0 without one.
        sound: seconds from the start of the container to the end of the sound; 0 without one.
        frames: decoded frames.
        cut: why reading ended before the end of the file; empty if it did not.
    """

    picture: float = 0.0
    sound: float = 0.0
    frames: int = 0
    cut: str = ""


def decode_video(path: Path, frames: Sequence[FrameSink], sound: SoundSink | None = None) -> Outcome:
    """Read a file once, and give its frames and its sound to those who take them.

    Args:
        path: of the video.
        frames: what takes frames, each at its own rate and size.
        sound: what takes the sound.

    Returns:
        The lengths, and why a damaged file ended early. What was read until then has been given.

    Raises:
        InputError: if the file cannot be opened, or has neither picture nor sound that can be read.
    """
    import av

    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            return _Decoding(container, frames, sound).run()
    except av.FFmpegError as error:
        raise InputError(f"{path}: expected a video, found a file that cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    return str(error).partition("]")[2].partition(":")[0].strip() or type(error).__name__


class _Decoding:
    """One pass over a container."""

    def __init__(self, container: InputContainer, frames: Sequence[FrameSink], sound: SoundSink | None) -> None:
        import av

        self.container, self.outcome = container, Outcome()
        self.start = (container.start_time or 0) / av.time_base
        picture = _main_picture(container) if frames else None
        aspect = 1.0 if picture is None else float(picture.sample_aspect_ratio or 1)
        self.pickers = [_Picker(sink, aspect) for sink in frames]
        heard = next(iter(container.streams.audio), None) if sound is not None else None
        self.writer = None if heard is None or sound is None else _SoundWriter(sound)
        self.streams = [stream for stream in (picture, heard) if stream is not None]
        if picture is not None:
            picture.thread_type = "AUTO"
        self.frame_time = 0.0 if picture is None or not picture.average_rate else float(1 / picture.average_rate)

    def run(self) -> Outcome:
        """Decode all packets. A damaged packet costs its frames, and an unreadable rest ends the file early."""
        import av

        packets = self.container.demux(*self.streams) if self.streams else iter(())
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                self.outcome.cut = _reason(error)
                break
            if packet is None:
                break
            self._packet(packet)
        if self.outcome.picture:
            for picker in self.pickers:
                picker.close(self.outcome.picture)
        if self.writer is not None:
            self.outcome.sound = self.writer.close()
        self._mark_cut()
        return self.outcome

    def _packet(self, packet: av.Packet) -> None:
        import av

        try:
            decoded = packet.decode()
        except av.FFmpegError as error:  # damaged bytes: the decoder goes on with the next packet
            self.outcome.cut = self.outcome.cut or f"damaged data: {_reason(error)}"
            return
        for frame in decoded:
            time = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
            if isinstance(frame, av.VideoFrame):
                self._picture(frame, time)
            elif isinstance(frame, av.AudioFrame) and self.writer is not None:
                self.writer.write(frame, None if time is None else time - self.start)

    def _picture(self, frame: av.VideoFrame, time: float | None) -> None:
        begin = self.outcome.picture if time is None else time - self.start
        if not -MAX_JUMP < begin - self.outcome.picture < MAX_JUMP:
            begin = self.outcome.picture  # a damaged timestamp
        for picker in self.pickers:
            picker.show(begin, frame)
        length = float((frame.duration or 0) * (frame.time_base or 0)) or self.frame_time
        self.outcome.picture = max(self.outcome.picture, begin + length)
        self.outcome.frames += 1

    def _mark_cut(self) -> None:
        """Tell of a file that is much shorter than its header says."""
        import av

        told = (self.container.duration or 0) / av.time_base
        found = max(self.outcome.picture, self.outcome.sound)
        if self.streams and not self.outcome.cut and self.container.duration and found < told - max(2.0, 0.02 * told):
            self.outcome.cut = f"the file ends after {found:.1f} of {told:.1f} s"


def _main_picture(container: InputContainer) -> av.VideoStream | None:
    """Return the moving picture, and not the cover of an album."""
    import av

    cover = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


class _Picker:
    """Gives a sink, for each time that it asks for, the last frame before it."""

    def __init__(self, sink: FrameSink, aspect: float) -> None:
        self.sink, self.aspect, self.taken = sink, aspect, 0
        self.last: av.VideoFrame | None = None

    def show(self, time: float, frame: av.VideoFrame) -> None:
        """Take the frame that is shown from ``time`` on; the frame before serves what was asked until then."""
        if self.last is not None:
            self._serve(time)
        self.last = frame

    def close(self, end: float) -> None:
        """Serve what is asked until the end of the picture, at least one frame."""
        self._serve(max(end, 0.5 / self.sink.frame_rate))
        self.last = None

    def _serve(self, end: float) -> None:
        picture = None
        while self.last is not None and (self.taken + 0.5) / self.sink.frame_rate <= end:
            if picture is None:  # one frame may serve several times
                picture = scale_frame(self.last, self.sink.size, self.aspect)
            self.sink.take(picture)
            self.taken += 1


def scale_frame(frame: av.VideoFrame, size: PictureSize, aspect: float = 1.0) -> np.ndarray:
    """Return a frame upright, scaled and cut to the middle: ``(height, width, 3)`` uint8 RGB.

    Args:
        frame: as decoded.
        size: to bring it to.
        aspect: width of a pixel by its height; pixels of old discs are no squares.
    """
    wide, high = frame.width * aspect, float(frame.height)
    factor = size.short_side / min(wide, high)
    columns, rows = round(wide * factor), round(high * factor)
    picture = frame.reformat(columns, rows, format="rgb24", interpolation=size.resample.upper()).to_ndarray()
    if size.crop is not None:
        top, left = max(rows - size.crop, 0) // 2, max(columns - size.crop, 0) // 2
        picture = picture[top : top + size.crop, left : left + size.crop]
    # after scaling, as fewer pixels are to be turned; what is cut from the middle stays in the middle
    return np.ascontiguousarray(np.rot90(picture, frame.rotation // 90))


class _SoundWriter:
    """Resamples sound, takes the mean of its channels, and puts it where its timestamps say."""

    def __init__(self, sink: SoundSink) -> None:
        self.sink = sink
        self.written = 0  # samples that the sink has
        self.surplus = 0  # samples to drop, as they lie before zero or were given already
        self.next_time = 0.0  # when the next frame is heard, if the sound goes on
        self.resampler: av.AudioResampler | None = None
        self.format: tuple[object, ...] = ()

    def write(self, frame: av.AudioFrame, time: float | None) -> None:
        """Take decoded sound that is heard from ``time`` on."""
        import av

        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        begin = self.next_time if time is None or abs(time - self.next_time) > MAX_JUMP else time
        if self.resampler is None or kind != self.format or abs(begin - self.next_time) > GAP:
            self._flush()
            self._move_to(round(begin * self.sink.sample_rate))
            self.resampler, self.format = av.AudioResampler(format="fltp", rate=self.sink.sample_rate), kind
            self.next_time = begin
        self.next_time += frame.samples / frame.sample_rate
        frame.pts = None  # the place is known, and the resampler would fill gaps in its own way
        self._give(self.resampler.resample(frame))

    def close(self) -> float:
        """Give what the resampler still holds, and return the seconds of sound."""
        self._flush()
        return self.written / self.sink.sample_rate

    def _flush(self) -> None:
        if self.resampler is not None:
            self._give(self.resampler.resample(None))
            self.resampler = None

    def _move_to(self, sample: int) -> None:
        """Let the next sample be this one: silence before it, or what is given already is dropped."""
        if sample > self.written:
            silence = np.zeros(min(sample - self.written, self.sink.sample_rate), dtype=np.float32)
            while self.written < sample:
                part = silence[: sample - self.written]
                self.sink.take(part)
                self.written += len(part)
        self.surplus = self.written - sample

    def _give(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().mean(axis=0)[self.surplus :]
            self.surplus -= min(self.surplus, frame.samples)
            self.written += len(samples)
            self.sink.take(samples)
