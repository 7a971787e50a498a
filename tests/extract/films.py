"""Generated videos for tests: each picture carries its number, and the sound is known sample by sample."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

CELLS = 4  # a square of 4 x 4 blocks: 12 bits of number, 4 of check
TICK = Fraction(1, 90_000)


def click_track(time: float, length: float = 0.003) -> Callable[[np.ndarray], np.ndarray]:
    """Return silence with one short click that begins at a time."""
    return lambda t: np.where((t >= time) & (t < time + length), 0.9 * np.sin(2 * np.pi * 1000 * (t - time)), 0.0)


def tones(t: np.ndarray) -> np.ndarray:
    """Return three tones below 4 kHz, so that every sample rate holds them; they fade in and out each second."""
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * t)
    return envelope * sum(0.2 * np.sin(2 * np.pi * frequency * t) for frequency in (220.0, 1234.5, 3100.0))


def rustle(t: np.ndarray) -> np.ndarray:
    """Return a sound that is like itself at no other time."""
    rng = np.random.default_rng(7)
    pairs = zip(rng.uniform(100, 3500, 60), rng.uniform(0, 2 * np.pi, 60), strict=True)
    return sum(0.03 * np.sin(2 * np.pi * frequency * t + phase) for frequency, phase in pairs)


@dataclass(frozen=True)
class Sound:
    """A sound track; times are seconds from zero of the file's clock."""

    codec: str = "aac"
    rate: int = 44_100
    layout: str = "mono"
    start: float = 0.0
    seconds: float = 6.0
    wave: Callable[[np.ndarray], np.ndarray] = tones
    gains: tuple[float, ...] = ()  # one a channel; 1 for all if empty
    gaps: tuple[tuple[float, float], ...] = ()  # (start, end) in which packets are lost
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Film:
    """A video with numbered pictures; times are seconds from zero of the file's clock."""

    codec: str = "libx264"
    format: str = "yuv420p"
    rate: int = 25
    seconds: float = 6.0
    start: float = 0.0
    size: tuple[int, int] = (192, 144)  # width and height as shown upright
    times: tuple[float, ...] = ()  # of the pictures, counted from ``start``; all of equal length if empty
    turned: int = 0  # degrees that a player turns the stored picture clockwise
    aspect: Fraction = Fraction(1)  # width of a stored pixel by its height
    flip: int | None = None  # number of the picture from which on black and white are exchanged around the blocks
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    sound: Sound | None = None

    def but(self, **changes: object) -> Film:
        return replace(self, **changes)

    @property
    def shown(self) -> list[float]:
        """Seconds of the file's clock from which on each picture is shown."""
        every = self.times or tuple(n / self.rate for n in range(round(self.seconds * self.rate)))
        return [self.start + time for time in every]

    @property
    def zero(self) -> float:
        """When the file starts: with its picture or with its sound."""
        return self.start if self.sound is None else min(self.start, self.sound.start)


def draw(number: int, wide: int, high: int, inverted: bool = False) -> np.ndarray:
    """Return a gray picture ``(high, wide)`` with a number in a square in its middle."""
    code = number | ((number * 7 + 5) % 16) << 12
    picture = np.full((high, wide), 208 if inverted else 48, dtype=np.uint8)
    side = min(wide, high) // 2 // CELLS
    top, left = (high - CELLS * side) // 2, (wide - CELLS * side) // 2
    for cell in range(CELLS * CELLS):
        row, column = top + cell // CELLS * side, left + cell % CELLS * side
        picture[row : row + side, column : column + side] = 235 if code >> cell & 1 else 16
    return picture


def read(picture: np.ndarray) -> int:
    """Return the number in a decoded picture ``(height, width, 3)`` of any size; -1 if there is none."""
    high, wide = picture.shape[:2]
    side = min(wide, high) / 2 / CELLS
    code = 0
    for cell in range(CELLS * CELLS):
        row = high / 2 + (cell // CELLS - CELLS / 2 + 0.5) * side
        column = wide / 2 + (cell % CELLS - CELLS / 2 + 0.5) * side
        reach = max(side / 4, 1)
        block = picture[round(row - reach) : round(row + reach), round(column - reach) : round(column + reach)]
        code |= int(block.mean() > 128) << cell
    number = code & 0xFFF
    return number if code >> 12 == (number * 7 + 5) % 16 else -1


def write(path: Path, film: Film) -> Path:
    """Write a video: all packets by their times, as a muxer wants them."""
    with av.open(str(path), "w", options=film.container_options) as container:
        packets = [*_sound(container, film.sound), *_picture(container, film)]
        for packet in sorted(packets, key=lambda each: each.dts * each.time_base):
            container.mux(packet)
    if film.turned:
        turn(path, film.turned, film.size)
    return path


def _picture(container: av.container.OutputContainer, film: Film) -> list[av.Packet]:
    if not film.seconds:
        return []
    wide, high = film.size
    stored = (high, wide) if film.turned % 180 else (wide, high)
    stream = container.add_stream(film.codec, rate=film.rate, options=film.options)
    stream.width, stream.height, stream.pix_fmt = round(stored[0] / film.aspect), stored[1], film.format
    context = stream.codec_context
    if film.times or film.start * film.rate % 1:
        context.time_base = TICK
    if film.aspect != 1:
        context.sample_aspect_ratio = film.aspect
    context.thread_count = 1
    packets, converter = [], av.video.reformatter.VideoReformatter()
    for number, time in enumerate(film.shown):
        upright = draw(number, wide, high, film.flip is not None and number >= film.flip)
        picture = np.rot90(upright, film.turned // 90)  # counterclockwise, as the player turns it back
        columns = (np.arange(stream.width) + 0.5) * film.aspect.numerator / film.aspect.denominator
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:, columns.astype(int)]), format="gray")
        frame = converter.reformat(frame, format=film.format)
        frame.pts, frame.time_base = round(time / TICK), TICK
        packets += stream.encode(frame)
    return packets + stream.encode(None)


@lru_cache(maxsize=4)
def _wave(wave: Callable[[np.ndarray], np.ndarray], count: int, rate: int, start: float) -> np.ndarray:
    """Return the samples of a sound track: most films have that of the one before."""
    return wave(np.arange(count) / rate + start)


def _sound(container: av.container.OutputContainer, sound: Sound | None) -> list[av.Packet]:
    if sound is None:
        return []
    stream = container.add_stream(sound.codec, rate=sound.rate, layout=sound.layout, options=sound.options)
    stream.codec_context.open()  # only then is the frame size known
    channels, packets, end = len(stream.layout.channels), [], round(sound.seconds * sound.rate)
    heard = _wave(sound.wave, end, sound.rate, sound.start)
    gains, length = np.array(sound.gains or (1.0,) * channels)[:, None], stream.codec_context.frame_size or 1024
    for begin in range(0, end, length):
        wave = (gains * heard[begin : begin + length]).astype(np.float32)
        name = stream.format.name
        if name.startswith("s16"):
            wave = np.round(32767 * wave).astype(np.int16)
        elif name.startswith("s32"):
            wave = np.round((2**31 - 1) * wave.astype(np.float64)).astype(np.int32)
        if not name.endswith("p"):
            wave = wave.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), format=name, layout=sound.layout)
        frame.sample_rate, frame.time_base = sound.rate, Fraction(1, sound.rate)
        frame.pts = begin + round(sound.start * sound.rate)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    times = [float(packet.pts * packet.time_base) for packet in packets]
    lost = [any(first <= time < last for first, last in sound.gaps) for time in times]
    return [packet for packet, gone in zip(packets, lost, strict=True) if not gone]


TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""a, b, c, d of the matrix of ISO 14496-12: (x, y) is shown at (a x + c y, b x + d y); y runs down."""


def turn(path: Path, degrees: int, size: tuple[int, int]) -> None:
    """Write into the header of an mp4 that a player is to turn the picture clockwise."""
    content = bytearray(path.read_bytes())
    a, b, c, d = TURNS[degrees]
    wide, high = size
    x, y = {90: (wide, 0), 180: (wide, high), 270: (0, high)}[degrees]
    place = -1
    while (place := content.find(b"tkhd", place + 1)) >= 0:
        if struct.unpack_from(">I", content, place + 80)[0]:  # a track with a width is a picture
            values = (a << 16, b << 16, 0, c << 16, d << 16, 0, x << 16, y << 16, 1 << 30)
            struct.pack_into(">9i", content, place + 44, *values)
    path.write_bytes(content)
