"""Files that are damaged, cut off, encrypted or no videos: what can be read is given, the rest is one line."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from extract.decoding.test_decode import X264, Frames, Samples, decode
from extract.films import Film, Sound, draw, rustle, write
from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import decode_video

FAST_START = {"movflags": "faststart"}
PLAIN = Film(options=X264, seconds=12.0, sound=Sound(seconds=12.0, wave=rustle))
MPEG = Film("mpeg1video", seconds=12.0, sound=Sound("mp2", seconds=12.0, wave=rustle))
KEY = "00112233445566778899aabbccddeeff"


class Contents(dict):
    """The content of a file by its film and its ending; written when it is asked for first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, film: Film, ending: str) -> bytes:
        key = f"{film}{ending}"
        if key not in self:
            self[key] = write(self.folder / f"{len(self)}{ending}", film).read_bytes()
        return self[key]


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> Contents:
    return Contents(tmp_path_factory.mktemp("films"))


def refused(path: Path) -> str:
    """Return the one line that a file gets."""
    with pytest.raises(InputError) as caught:
        decode_video(path, [Frames(1.0)], Samples())
    message = str(caught.value)
    assert message.startswith(f"{path}: expected a video, found ") and "\n" not in message
    return message.partition(", found ")[2]


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.mpg", "a.webm", "index_first.mp4"])
def test_a_file_that_breaks_off_gives_what_came_before(contents, tmp_path, name):
    film = MPEG if name == "a.mpg" else PLAIN
    if name == "a.webm":
        film = Film("libvpx-vp9", seconds=12.0, options={"deadline": "realtime", "cpu-used": "8"},
                    sound=Sound("libopus", 48_000, seconds=12.0))  # fmt: skip
    if name == "index_first.mp4":
        film = film.but(container_options=FAST_START)
    path = tmp_path / name
    content = contents(film, path.suffix)
    path.write_bytes(content)
    whole, *_ = decode(path, 5.0)
    path.write_bytes(content[: len(content) // 2])
    cut, sound, outcome = decode(path, 5.0)
    rows = len(cut[0].numbers)
    assert 15 < rows < 50 and cut[0].numbers[: rows - 2] == whole[0].numbers[: rows - 2]
    assert 3 < outcome.picture < 10 and 3 < outcome.sound < 10 and len(sound) == outcome.sound * 16_000
    if name == "a.mpg":
        return  # it has no header that says how long it was
    if name == "a.ts":
        assert outcome.cut.startswith("damaged data: ")  # half a frame of sound
        return
    assert "of 12.0 s" in outcome.cut  # also where the packet that breaks off is told first


def test_a_recording_that_ends_inside_a_packet_says_so(contents, tmp_path):
    path, content = tmp_path / "a.ts", contents(PLAIN.but(sound=None), ".ts")
    for length, cut in ((len(content), ""), (len(content) // 2 // 188 * 188 + 90, "the file ends inside a packet")):
        path.write_bytes(content[:length])
        assert decode_video(path, [Frames(1.0)]).cut == cut


def test_an_mp4_whose_index_is_lost_is_refused(contents, tmp_path):
    path, content = tmp_path / "a.mp4", contents(PLAIN, ".mp4")
    path.write_bytes(content[: len(content) // 2])
    assert refused(path) == "a file that cannot be read (Invalid data found when processing input)"


def lag(truth: np.ndarray, found: np.ndarray, most: int = 400) -> int:
    """Return by how many samples a sound is late."""
    size = len(truth) - most
    return max(range(-most, most + 1), key=lambda k: float(np.dot(truth[most:size], found[most + k : size + k])))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mpg"])
def test_damaged_bytes_cost_few_frames(contents, tmp_path, name):
    path = tmp_path / name
    content = bytearray(contents(MPEG if name == "a.mpg" else PLAIN, path.suffix))
    path.write_bytes(content)
    whole, truth, _ = decode(path, 5.0)
    middle = 40 * len(content) // 100
    content[middle : middle + 600] = np.random.default_rng(0).bytes(600)
    path.write_bytes(content)
    found, sound, outcome = decode(path, 5.0)
    assert len(found[0].numbers) == len(whole[0].numbers)
    # until the next key frame, two seconds later at most, a picture may be one that was broken or the one before
    wrong = [row for row, pair in enumerate(zip(found[0].numbers, whole[0].numbers, strict=True)) if len({*pair}) > 1]
    assert len(wrong) <= 11 and (not wrong or wrong[-1] - wrong[0] <= 11)
    assert abs(len(sound) - len(truth)) < 1600
    assert abs(lag(truth[130_000:180_000], sound[130_000:180_000])) <= 16  # what comes after is at its time, to a ms
    assert outcome.picture == pytest.approx(12.0, abs=0.1)


@pytest.mark.parametrize("stamped", [b"\xff\xff", b"\x00\x00"], ids=["later", "earlier"])
def test_a_damaged_timestamp_moves_nothing_else(contents, tmp_path, stamped):
    """One cluster of a Matroska file says that it is a minute later, or at zero."""
    path = tmp_path / "a.mkv"
    content = bytearray(contents(PLAIN.but(container_options={"cluster_time_limit": "2000"}), ".mkv"))
    path.write_bytes(content)
    truth, heard, _ = decode(path, 5.0)
    clusters = [place for place in range(len(content)) if content[place : place + 4] == b"\x1f\x43\xb6\x75"]
    stamp = content.index(b"\xe7", clusters[3])  # Timestamp: id, size, milliseconds
    assert len(clusters) > 4 and content[stamp + 1] == 0x82
    content[stamp + 2 : stamp + 4] = stamped
    path.write_bytes(content)
    found, sound, outcome = decode(path, 5.0)
    assert len(found[0].numbers) == len(truth[0].numbers) and outcome.picture == pytest.approx(12.0, abs=0.05)
    assert np.abs(np.array(found[0].numbers) - truth[0].numbers).max() <= 1
    assert abs(len(sound) - len(heard)) < 800 and abs(lag(heard[130_000:], sound[130_000:])) <= 16


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("empty.mp4", b"", "a file that cannot be read"),
        ("text.mp4", b"This is no video.\n" * 100, "a file that cannot be read"),
        ("captions.mp4", b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n" * 3, "no picture and no sound"),
        ("noise.mkv", np.random.default_rng(1).bytes(50_000), "a file that cannot be read"),
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
         "a file that cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_refused_in_one_line(tmp_path, name, content, part):
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(part)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert refused(tmp_path / "none.mp4") == "a file that cannot be read (No such file or directory)"
    assert refused(tmp_path).startswith("a file that cannot be read (")


def test_an_encrypted_file_is_refused(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": KEY, "encryption_kid": KEY}
    path = write(tmp_path / "a.mp4", PLAIN.but(container_options=options))
    assert refused(path) == "an encrypted one: decrypt it first"


def test_an_unknown_codec_is_named(contents, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(contents(PLAIN, ".mp4").replace(b"avc1", b"zzz1"))
    frames, sound, outcome = decode(path, 1.0)
    assert frames[0].numbers == [] and len(sound) == pytest.approx(12 * 16_000, abs=100)
    assert (outcome.frames, outcome.picture, outcome.cut) == (0, 0.0, "picture of an unknown codec")
    with pytest.raises(InputError, match=r"no picture and no sound that can be read \(picture of an unknown codec\)"):
        decode_video(path, [Frames(1.0)])


def test_a_video_without_sound_and_a_sound_without_picture(tmp_path):
    silent = write(tmp_path / "silent.mp4", PLAIN.but(sound=None))
    frames, sound, outcome = decode(silent, 1.0)
    assert len(frames[0].numbers) == 12 and len(sound) == 0 and outcome.sound == 0.0 and outcome.cut == ""
    blind = write(tmp_path / "blind.mp4", PLAIN.but(seconds=0))
    frames, sound, outcome = decode(blind, 1.0)
    assert (
        frames[0].numbers == []
        and len(sound) == pytest.approx(12 * 16_000, abs=100)
        and outcome.picture == 0.0
        and outcome.cut == ""
    )


def test_the_cover_of_an_album_is_no_picture(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 192, 144, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.full((1, 32_000), 0.1, np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        image = av.VideoFrame.from_ndarray(draw(5, 192, 144), format="gray").reformat(format="yuvj420p")
        packets = [*cover.encode(image), *cover.encode(None), *sound.encode(frame), *sound.encode(None)]
        container.mux(packets)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["audio", "video"]
    frames, samples, outcome = decode(path, 1.0)
    assert frames[0].numbers == [] and outcome.picture == 0.0 and len(samples) == pytest.approx(32_000, abs=2000)


def test_names_with_colons_and_patterns_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = write(tmp_path / "plain.mp4", Film(options=X264, seconds=2.0)).read_bytes()
    for name in ("show: part 1.mp4", "50%03d [x].mp4", "http:a.mp4", "ä ö.mp4"):
        (tmp_path / name).write_bytes(plain)
        frames = Frames(1.0)
        decode_video(Path(name), [frames])
        assert frames.numbers == [12, 37]


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize("earlier", [0.0, 500.0], ids=["back", "forward"])
def test_parts_that_were_joined_follow_one_another(contents, tmp_path, start, earlier):
    """`cat a.ts b.ts`: the clock starts anew in the middle, or jumps; the second picture begins after its sound."""
    second = PLAIN.but(seconds=4.0, start=start + earlier, sound=Sound(seconds=4.0, wave=rustle, start=earlier))
    path = tmp_path / "joined.ts"
    path.write_bytes(contents(PLAIN, ".ts") + contents(second, ".ts"))
    frames, sound, outcome = decode(path, 50.0)
    numbers = np.array(frames[0].numbers)
    restart = (int(np.flatnonzero(np.diff(numbers) < 0)[0]) + 1) / 50
    assert restart == pytest.approx(12.04 + start, abs=0.06) and numbers[-1] == 99
    heard = rustle(np.arange(40_000) / 16_000 + earlier)
    assert (
        abs(lag(heard, sound[round(16_000 * (restart - start)) :][:40_000], 1600)) < 640
    )  # 40 ms: two frames of sound
    assert outcome.picture == pytest.approx(16.04 + start, abs=0.1) and outcome.sound == pytest.approx(16.04, abs=0.1)


def test_numbers_that_are_none_are_silence(tmp_path):
    path = write(tmp_path / "a.mkv", PLAIN.but(seconds=0, sound=Sound("pcm_f32le", 16_000, seconds=4.0)))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4 * 4
    content[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(content)
    samples = Samples()
    decode_video(path, [], samples)
    assert len(samples.all) == 64_000 and np.isfinite(samples.all).all() and (samples.all == 0).sum() < 100
