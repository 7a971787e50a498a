"""The right frame at each time, and sound in its place, in files of many kinds."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from references.extract import picked

from extract.films import Film, Sound, read, write
from mcn_lightning.extract.decode import Outcome, PictureSize, decode_video

X264 = {"preset": "veryfast", "bf": "3", "b_strategy": "0", "g": "50"}
VP9 = {"deadline": "realtime", "cpu-used": "8"}
HEVC = {"preset": "ultrafast", "bf": "3", "x265-params": "log-level=none:pools=1:frame-threads=1"}
JITTER = tuple(np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.05, 0.3], 60)).round(3).tolist())
PLAIN = Film(options=X264, sound=Sound())

FILMS = {
    "b_frames.mp4": PLAIN,
    "no_sound.mp4": PLAIN.but(sound=None),
    "24_a_second.mp4": PLAIN.but(rate=24),
    "vp9.webm": Film("libvpx-vp9", options=VP9, sound=Sound("libopus", 48_000, "stereo")),
    "av1.mp4": Film("libsvtav1", options={"preset": "12"}, sound=Sound()),
    "mpeg1.ts": Film("mpeg1video", options={"bf": "2"}, start=8.0, sound=Sound("mp2", layout="stereo", start=8.0)),
    "mpeg1.mpg": Film("mpeg1video", options={"bf": "2"}, sound=Sound("mp2", layout="stereo")),
    "h264.ts": PLAIN.but(start=100.0, sound=Sound(start=100.0)),
    "offset.mkv": PLAIN.but(start=7.3, sound=Sound("flac", start=7.3)),
    "mpeg4.avi": Film("mpeg4", options={"bf": "0"}, sound=Sound("pcm_s16le")),
    "variable.mp4": PLAIN.but(times=(0.0, *JITTER)),
    "variable.mkv": PLAIN.but(times=(0.0, *JITTER)),
    "picture_late.mp4": PLAIN.but(start=2.0),
    "picture_late.mkv": PLAIN.but(start=2.0, sound=Sound("flac")),
    "picture_late.ts": PLAIN.but(start=2.0),
    "sound_late.mp4": PLAIN.but(sound=Sound(start=2.0)),
    "sound_late.mkv": PLAIN.but(sound=Sound("flac", start=2.0)),
    "sound_longer.mp4": PLAIN.but(sound=Sound(seconds=9.0)),
    "sound_shorter.mp4": PLAIN.but(sound=Sound(seconds=3.0)),
    "turned_90_wide.mp4": PLAIN.but(turned=90),
    "turned_180_wide.mp4": PLAIN.but(turned=180),
    "turned_270_wide.mp4": PLAIN.but(turned=270),
    "turned_90_high.mp4": PLAIN.but(turned=90, size=(144, 192)),
    "turned_180_high.mp4": PLAIN.but(turned=180, size=(144, 192)),
    "turned_270_high.mp4": PLAIN.but(turned=270, size=(144, 192)),
    "wide_pixels.mp4": PLAIN.but(size=(256, 144), aspect=Fraction(4, 3)),
    "high_pixels.mkv": PLAIN.but(size=(144, 192), aspect=Fraction(3, 4), sound=None),
    "wide_pixels_turned.mp4": PLAIN.but(size=(144, 256), aspect=Fraction(4, 3), turned=90),
    "hevc_10_bit.mp4": Film("libx265", "yuv420p10le", options=HEVC, sound=Sound()),
    "stereo.mp4": PLAIN.but(sound=Sound(layout="stereo")),
    "surround.mkv": PLAIN.but(sound=Sound("ac3", 48_000, "5.1")),
    "telephone.mp4": PLAIN.but(sound=Sound(rate=8_000)),
}
SIZES = (PictureSize(112), PictureSize(112, crop=96, resample="bilinear"), PictureSize(64, resample="area"))


class Frames:
    """Keeps the numbers that are read from the pictures, and the shapes."""

    def __init__(self, frame_rate: float, size: PictureSize = SIZES[0]) -> None:
        self.frame_rate, self.size = frame_rate, size
        self.numbers: list[int] = []
        self.pictures: list[np.ndarray] = []

    def take(self, picture: np.ndarray) -> None:
        assert picture.dtype == np.uint8 and picture.flags.c_contiguous
        self.numbers.append(read(picture))
        self.pictures.append(picture)


class Samples:
    """Keeps the sound."""

    def __init__(self, sample_rate: int = 16_000) -> None:
        self.sample_rate, self.pieces = sample_rate, [np.zeros(0, np.float32)]

    def take(self, samples: np.ndarray) -> None:
        assert samples.dtype == np.float32 and samples.ndim == 1
        self.pieces.append(samples)

    @property
    def all(self) -> np.ndarray:
        return np.concatenate(self.pieces)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> dict[str, Path]:
    return Folder(tmp_path_factory.mktemp("films"))


class Folder(dict):
    """Writes a film when it is asked for first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = write(self.folder / name, FILMS[name])
        return self[name]


def decode(path: Path, *rates: float, size: PictureSize = SIZES[0]) -> tuple[list[Frames], np.ndarray, Outcome]:
    frames, sound = [Frames(rate, size) for rate in rates], Samples()
    outcome = decode_video(path, frames, sound)
    return frames, sound.all, outcome


def zero_of(path: Path, film: Film) -> float:
    """Return when the file starts on the film's clock; codecs put up to 60 ms of silence before the sound."""
    with av.open(str(path)) as container:
        start = Fraction(container.start_time, av.time_base)
        first = min(packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None)
    zero = film.start - float(first - start)
    assert film.zero - 0.06 <= zero <= film.zero + 0.002
    return zero


@pytest.mark.parametrize("name", [name for name, film in FILMS.items() if not film.turned])  # those that are: below
def test_each_time_gets_the_last_frame_before_it(films, name):
    film, path = FILMS[name], films[name]
    frames, _, outcome = decode(path, 1.0, 24.0, 3.7)
    zero = zero_of(path, film)
    shown = [time - zero for time in film.shown]
    end = shown[-1] + (0 if film.times else 1 / film.rate)
    rounding = 0 if path.suffix == ".mp4" else 0.0015  # Matroska counts milliseconds
    for each in frames:
        early, late = (picked([time + off for time in shown], end, each.frame_rate) for off in (rounding, -rounding))
        rows = len(early)
        assert all(number in pair for number, *pair in zip(each.numbers, early, late, strict=False))
        assert rows <= len(each.numbers) <= rows + (each.frame_rate * 0.3 if film.times else 0)
    assert 0 < outcome.frames <= len(shown) and outcome.cut == ""
    assert outcome.picture == pytest.approx(end, abs=0.3 if film.times else 0.003)


def shape(pictures: list[np.ndarray]) -> tuple[int, ...]:
    (found,) = {picture.shape for picture in pictures}
    return found


@pytest.mark.parametrize("size", SIZES, ids=["whole", "cropped", "area"])
@pytest.mark.parametrize("name", [name for name, film in FILMS.items() if film.turned or film.aspect != 1])
def test_turned_and_stretched_pictures_are_upright_and_in_proportion(films, name, size):
    film = FILMS[name]
    (frames,), *_ = decode(films[name], 2.0, size=size)
    factor = size.short_side / min(film.size)
    wide, high = (round(side * factor) for side in film.size)
    assert shape(frames.pictures) == ((size.crop, size.crop, 3) if size.crop else (high, wide, 3))
    assert frames.numbers == picked(film.shown, film.seconds, 2.0)
    # as the same picture that was stored upright: the blocks are at the same places, to half a pixel
    upright = read_edges(frames.pictures[0])
    assert upright == pytest.approx((0.0, 0.0), abs=0.75)


def read_edges(picture: np.ndarray) -> tuple[float, float]:
    """Return by how many pixels the middle of the blocks is right of and below the middle of the picture."""
    inner = np.abs(picture.mean(axis=2) - 48) > 20
    rows, columns = np.flatnonzero(inner.any(axis=1)), np.flatnonzero(inner.any(axis=0))
    high, wide = inner.shape
    return (columns[0] + columns[-1] + 1 - wide) / 2, (rows[0] + rows[-1] + 1 - high) / 2


def test_frames_that_are_passed_over_change_no_picture(tmp_path):
    """Every picture equals the one that decoding all frames gives, bit for bit, whatever the threads."""
    for name, options in {"pyramid.mp4": X264, "open.mp4": {**X264, "x264-params": "open-gop=1:b-pyramid=0"}}.items():
        path = write(tmp_path / name, PLAIN.but(options=options, sound=None))
        every = Frames(25.0)  # a row is the frame before its middle, so this is all of them
        assert decode_video(path, [every]).frames == 150
        for rate in (1.0, 2.0, 3.7):
            for threads in (1, 2):
                one = Frames(rate)
                assert decode_video(path, [one], threads=threads).frames < 120
                assert one.numbers == picked(PLAIN.shown, 6.0, rate)
                assert all(np.array_equal(a, every.pictures[n]) for a, n in zip(one.pictures, one.numbers, strict=True))


KEYS = {
    "h264.mp4": (Film(options={**X264, "bf": "0", "g": "20"}), True),
    "h264.ts": (Film(options={**X264, "g": "20"}), True),
    "open.mkv": (Film(options={**X264, "g": "20", "x264-params": "open-gop=1"}), True),  # without B-frames only
    "hevc.mp4": (Film("libx265", options={**HEVC, "x265-params": f"{HEVC['x265-params']}:keyint=20:open-gop=0"}), True),
    "hevc_open.mp4": (Film("libx265", options={**HEVC, "x265-params": f"{HEVC['x265-params']}:keyint=20"}), False),
    "vp9.webm": (Film("libvpx-vp9", options={**VP9, "g": "20"}), True),
    "vp8.webm": (Film("libvpx", options={**VP9, "g": "20"}), True),
    "av1.mkv": (Film("libsvtav1", options={"preset": "12", "g": "20"}), True),
    "mjpeg.avi": (Film("mjpeg", "yuvj420p"), True),
    "mpeg4.avi": (Film("mpeg4", options={"g": "20"}), False),
}
"""Films with a key frame every 0.8 s, and whether fewer frames are decoded than there are."""


@pytest.mark.parametrize("name", KEYS)
def test_frames_before_a_key_frame_that_nobody_asks_for_change_no_picture(tmp_path, name):
    film, fewer = KEYS[name]
    path = write(tmp_path / name, film.but(seconds=3.2))
    every = Frames(25.0)
    decode_video(path, [every])
    for rates in ((0.3,), (1.0,), (1.0, 0.4)):
        for threads in (1, 2):
            sinks = [Frames(rate) for rate in rates]
            outcome = decode_video(path, sinks, threads=threads)
            assert (outcome.frames < 75) == fewer and outcome.frames <= len(every.numbers) == 80
            assert outcome.picture == pytest.approx(3.2, abs=0.003)
            for sink in sinks:
                assert sink.numbers == picked(film.shown, 3.2, sink.frame_rate)
                pairs = zip(sink.pictures, sink.numbers, strict=True)
                assert all(np.array_equal(picture, every.pictures[number]) for picture, number in pairs)


def test_streams_of_several_rates_and_sizes_come_from_one_pass(films):
    sinks = [Frames(rate, size) for rate, size in zip((1.0, 24.0, 5.0), SIZES, strict=True)]
    decode_video(films["b_frames.mp4"], sinks)
    for sink in sinks:
        alone = Frames(sink.frame_rate, sink.size)
        decode_video(films["b_frames.mp4"], [alone])
        assert len(alone.pictures) == len(sink.pictures)
        assert all(np.array_equal(a, b) for a, b in zip(alone.pictures, sink.pictures, strict=True))


MATRICES = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114)}  # share of red and of blue in the luminance


@pytest.mark.parametrize("full", [False, True], ids=["tv", "pc"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_those_that_the_file_names(tmp_path, matrix, full):
    """Without the file's matrix, green and red would be wrong by up to 30 levels; without its range, by 16."""
    colour = np.array([200.0, 60.0, 30.0])
    red, blue = MATRICES[matrix]
    light = red * colour[0] + blue * colour[2] + (1 - red - blue) * colour[1]
    parts = [light, (colour[2] - light) / (2 - 2 * blue), (colour[0] - light) / (2 - 2 * red)]
    stored = [parts[0], parts[1] + 128, parts[2] + 128]
    if not full:
        stored = [16 + parts[0] * 219 / 255, 128 + parts[1] * 224 / 255, 128 + parts[2] * 224 / 255]
    path = tmp_path / "a.mp4"
    options = {"x264-params": f"colormatrix={matrix}:fullrange={'on' if full else 'off'}", "crf": "4"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        planes = np.concatenate([np.full(160 * 120, stored[0]), np.full(4800, stored[1]), np.full(4800, stored[2])])
        picture = planes.round().astype(np.uint8).reshape(180, 160)
        for _ in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    for size in SIZES:
        frames = Frames(1.0, size)
        decode_video(path, [frames])
        assert np.abs(frames.pictures[0].reshape(-1, 3) - colour).max() <= 4
