"""Frames and sound of a video file at exact times, in one pass over the file.

Time zero is the start of the container, and not the first frame. So frames, sound and captions stay together in a file
whose picture begins after its sound. Times are presentation timestamps: variable frame rates and B-frames do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np

from mcn_lightning.errors import InputError, first_line
from mcn_lightning.extract.decoding.clock import Clock
from mcn_lightning.extract.decoding.passing import Tails, Unseen, has_unseen
from mcn_lightning.extract.decoding.pictures import Picker
from mcn_lightning.extract.decoding.sound import SoundWriter

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

    from mcn_lightning.extract.decoding.torchcodec import CodecPictures


OPTIONS = {"protocol_whitelist": "file"}
"""Of FFmpeg. A name may hold a colon, which would be a protocol; and no playlist may open a connection."""


TS_PACKETS = (188, 192, 204)
"""Bytes of a packet of MPEG-TS: plain, with times before it, with check bytes after it."""


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
        """Take the next picture ``(height, width, 3)`` uint8 RGB, upright. All pictures of a file have one shape.

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
        frames: decoded frames. Frames that no sink asks for are passed over where the codec allows it.
        cut: why a part of the file is missing; empty if all was read.
    """

    picture: float = 0.0
    sound: float = 0.0
    frames: int = 0
    cut: str = ""


def decode_video(
    path: Path,
    frames: Sequence[FrameSink],
    sound: SoundSink | None = None,
    threads: int = 0,
    torchcodec: str | None = None,
) -> Outcome:
    """Read a file once, and give its frames and its sound to those who take them.

    Args:
        path: of the video.
        frames: what takes frames, each at its own rate and size.
        sound: what takes the sound.
        threads: that decode the picture; 0 for as many as the machine has cores.
        torchcodec: device on which torchcodec decodes the picture; ``None`` for PyAV. PyAV reads all recordings
            (MPEG-TS, MPEG-PS), whose clock may start anew.

    Returns:
        The lengths, and why a damaged file ended early. What was read until then has been given.

    Raises:
        InputError: if the file cannot be opened, is encrypted, or has neither picture nor sound that can be read.
    """
    import av

    try:
        with av.open(f"file:{path}", metadata_errors="ignore", options=OPTIONS) as container:
            # metadata in another encoding than UTF-8 must not make a film unreadable
            decoding = _Decoding(container, frames, sound, threads)
            if torchcodec is not None:
                decoding.leave_picture(path, torchcodec, threads)
            outcome = decoding.run()
    except av.FFmpegError as error:
        raise _refused(path, f"a file that cannot be read ({_reason(error)})") from None
    except _EncryptedError:
        raise _refused(path, "an encrypted one: decrypt it first") from None
    if not outcome.frames and not outcome.sound:
        raise _refused(path, f"no picture and no sound that can be read{outcome.cut and f' ({outcome.cut})'}")
    return outcome


def told_seconds(path: Path) -> float:
    """Return the length of a video by its header; 0 if the header does not say, or the file cannot be read."""
    import av

    try:
        with av.open(f"file:{path}", metadata_errors="ignore", options=OPTIONS) as container:
            return (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError):
        return 0.0


class _EncryptedError(Exception):
    pass


def _refused(path: Path, found: str) -> InputError:
    return InputError(f"{path}: expected a video, found {found}")


def _reason(error: Exception) -> str:
    """Return FFmpeg's message without its number and the path."""
    return str(error).partition("]")[2].partition(":")[0].strip() or type(error).__name__


class _Decoding:
    """One pass over a container."""

    def __init__(
        self, container: InputContainer, frames: Sequence[FrameSink], sound: SoundSink | None, threads: int
    ) -> None:
        import av

        self.container, self.outcome, self.clock = container, Outcome(), Clock(container)
        self.damaged = av.FFmpegError  # an import for each packet would take time
        self.sinks = frames
        self.codec: CodecPictures | None = None
        picture = _main_picture(container) if frames else None
        heard = next(iter(container.streams.audio), None) if sound is not None else None
        self.wanted = [stream for stream in (picture, heard) if stream is not None and self._readable(stream)]
        self.streams = list(self.wanted)  # that PyAV decodes
        self.writer = SoundWriter(sound) if sound is not None and heard in self.streams else None
        self.pickers: list[Picker] = []
        self.unseen: Unseen | None = None
        self.tails: Tails | None = None
        self.tick = self.frame_time = 0.0
        if picture is not None and picture in self.streams:
            # AUTO: frames in parallel where the codec allows it, else slices of one frame
            picture.thread_type, picture.codec_context.thread_count = "AUTO", threads
            aspect = float(picture.sample_aspect_ratio or 1)
            self.pickers = [Picker(sink, aspect, threads) for sink in frames]
            rates = [sink.frame_rate for sink in frames]
            self.tails = Tails(picture, rates)
            if has_unseen(picture):
                self.unseen = Unseen(picture, rates)
            self.tick = float(picture.time_base or 0)
            self.frame_time = float(1 / picture.average_rate) if picture.average_rate else 0.0

    def leave_picture(self, path: Path, device: str, threads: int) -> None:
        """Leave the picture to torchcodec where it can read it as exactly."""
        from mcn_lightning.extract.decoding.torchcodec import CodecPictures

        picture = next((stream for stream in self.streams if stream.type == "video"), None)
        playlist = self.container.format.name in ("hls", "dash", "concat")  # torchcodec would open a connection
        if picture is None or self.clock.joined or playlist or _is_encrypted(path, picture.index):
            return
        aspect = float(picture.sample_aspect_ratio or 1)
        try:
            self.codec = CodecPictures(path, picture.index, aspect, self.clock.start, device, threads)
        except (RuntimeError, ValueError):  # PyAV says what is wrong with the file
            return
        self.streams.remove(picture)
        self.pickers.clear()

    def _readable(self, stream: av.VideoStream | av.AudioStream) -> bool:
        """Tell whether there is a decoder; what is missing is noted."""
        if stream.codec_context is None:
            self._note(f"{'picture' if stream.type == 'video' else 'sound'} of an unknown codec")
            return False
        return True

    def _note(self, reason: str) -> None:
        self.outcome.cut = self.outcome.cut or reason

    def _note_end(self, reason: str) -> None:
        """Add where a stream ends to what is wrong with the file, as damage alone does not say how much is lost."""
        self.outcome.cut = f"{self.outcome.cut}; {reason}" if self.outcome.cut else reason

    def run(self) -> Outcome:
        """Decode all packets. A damaged packet costs its frames, and an unreadable rest ends the file early."""
        import av

        packets = self.container.demux(*self.streams) if self.streams else iter(())
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, OSError) as error:
                self._note(_reason(error))
                break
            if packet is None:
                break
            self._packet(packet)
        for packet in self.tails.rest() if self.tails is not None else ():
            self._decode(packet)
        for picker in self.pickers:
            picker.close(self.outcome.picture)
        if self.codec is not None:
            self._give_pictures(self.codec)
        if self.writer is not None:
            self.outcome.sound = self.writer.close()
        self._note_what_is_missing()
        return self.outcome

    def _packet(self, packet: av.Packet) -> None:
        # decoders would give grey pictures of it, and no error
        if packet.is_keyframe and packet.has_sidedata("encryption_info"):
            raise _EncryptedError
        stream = packet.stream
        if self.clock.joined:
            self.clock.mend(packet)
        if self.tails is None or stream is not self.tails.stream:
            self._decode(packet)
            return
        for each in self.tails.take(packet, self.clock.seconds(packet, stream), self.outcome.frames > 0):
            self._decode(each)

    def _decode(self, packet: av.Packet) -> None:
        stream = packet.stream
        if self.unseen is not None and stream is self.unseen.stream:
            self.unseen.look(packet, self.clock.seconds(packet, stream))
        try:
            decoded = packet.decode()
        except self.damaged as error:  # the decoder goes on with the next packet
            self._note(f"damaged data: {_reason(error)}")
            return
        if stream.type == "video":
            self._pictures(decoded, stream)
        elif self.writer is not None:
            for frame in cast("list[av.AudioFrame]", decoded):
                self.writer.write(frame, self.clock.time(frame, stream, self.writer.next_time))

    def _pictures(self, frames: list[av.VideoFrame], stream: av.VideoStream) -> None:
        outcome, clock = self.outcome, self.clock
        for frame in frames:
            begin = clock.time(frame, stream, outcome.picture)
            for picker in self.pickers:
                picker.show(begin, frame)
            end = begin + (frame.duration * self.tick or self.frame_time)
            if end > outcome.picture:
                outcome.picture = end
            outcome.frames += 1

    def _give_pictures(self, codec: CodecPictures) -> None:
        try:
            codec.give(self.sinks)
        except RuntimeError as error:
            self._note(f"damaged data: {first_line(error)}")
        self.outcome.picture, self.outcome.frames = codec.seconds, codec.frames

    def _note_what_is_missing(self) -> None:
        """Note that a file is much shorter than its header says, or that a recording ends inside a packet."""
        if self.container.format.name == "mpegts" and all(self.container.size % length for length in TS_PACKETS):
            self._note("the file ends inside a packet")
        for stream in self.wanted:
            told = self.clock.told(stream, len(self.wanted) == len([*self.container.streams]))
            found = self.outcome.picture if stream.type == "video" else self.outcome.sound
            # headers are often a little long: two seconds, or 2 % of a long film, are no loss
            if found < told - max(2.0, 0.02 * told):
                kind = "picture" if stream.type == "video" else "sound"
                self._note_end(f"the {kind} ends after {found:.1f} of {told:.1f} s")


def _is_encrypted(path: Path, stream: int) -> bool:
    import av

    with av.open(f"file:{path}", metadata_errors="ignore", options=OPTIONS) as container:
        return any(packet.has_sidedata("encryption_info") for packet in islice(container.demux(stream), 1))


def _main_picture(container: InputContainer) -> av.VideoStream | None:
    """Return the moving picture, and not the cover of an album."""
    import av

    cover = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)
