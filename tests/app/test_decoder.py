"""The process that reads media: what it finds, and that the page survives it."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("av", reason="the extra `app` is not installed")

import av
from extract.films import Film, Sound, read, turn, write

from app.deaths import end_badly
from mcn_lightning.errors import InputError
from mcn_lightning.search.explore.decoder import MediaProcess, look, still

FILM = Film(seconds=6.0, rate=10, sound=Sound(seconds=5.0))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("films") / "a:b %.mp4", FILM)


@pytest.fixture
def process():
    made = MediaProcess(600.0, end_badly)
    yield made
    made.close()


def number_in(jpeg: bytes, tmp_path) -> int:
    path = tmp_path / "still.jpg"
    path.write_bytes(jpeg)
    with av.open(str(path)) as container:
        return read(next(container.decode(video=0)).to_ndarray(format="rgb24"))


@pytest.mark.parametrize("second", [0.0, 0.31, 2.0, 4.95, 5.9])
def test_a_picture_is_the_first_frame_from_its_second_on(film, tmp_path, second):
    assert number_in(still(film, second), tmp_path) == -int(-second * 10 // 1)


def test_a_picture_after_the_end_is_the_last_one(film, tmp_path):
    assert number_in(still(film, 100.0), tmp_path) == 59


def test_a_picture_of_a_film_that_starts_late(tmp_path):
    path = write(tmp_path / "late.ts", FILM.but(start=3.0, sound=Sound(start=3.0, seconds=6.0)))
    assert number_in(still(path, 2.0), tmp_path) == 20


def test_a_picture_stands_upright_and_is_small(tmp_path):
    path = write(tmp_path / "tall.mp4", Film(seconds=1.0, rate=10, size=(960, 640)))
    turn(path, 90, (960, 640))
    (tmp_path / "still.jpg").write_bytes(still(path, 0.0))
    with av.open(str(tmp_path / "still.jpg")) as container:
        frame = next(container.decode(video=0))
        assert frame.width < frame.height and frame.width <= 320


def test_a_look_tells_the_seconds(film):
    found = look(film)
    assert found["picture"] == pytest.approx(6.0, abs=0.1) and found["sound"] == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(
    "content", [b"", b"words, and no sound", os.urandom(5000), b"#EXTM3U\n#EXTINF:1\nfile:///etc/passwd\n",
                b"ffconcat version 1.0\nfile 'a.mp4'\n", b"RIFF\x00\x00\x00\x00WAVE"],
)  # fmt: skip
def test_what_is_no_media_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match="expected sound, a picture or a video, found") as refused:
        look(path)
    assert "\n" not in str(refused.value)


def test_a_list_of_files_does_not_read_them(tmp_path, film):
    """A list in the form that FFmpeg plays would let a file from the page name files of this machine."""
    (tmp_path / "a.mp4").write_bytes(film.read_bytes())
    path = tmp_path / "list"
    path.write_bytes(b"ffconcat version 1.0\nfile 'a.mp4'\n")
    with pytest.raises(InputError, match="another kind of file"):
        look(path)


def test_a_process_that_dies_costs_one_task(process):
    with pytest.raises(InputError, match="ends the decoder"):
        process.ask("die", "x")
    assert process.ask("look", "a") == "a"


def test_a_process_that_hangs_is_ended():
    process = MediaProcess(0.5, end_badly)
    with pytest.raises(InputError, match=r"read in 0\.5 s"):
        process.ask("hang", "x")
    process.seconds = 600.0
    assert process.ask("look", "b") == "b"
    hung = process._worker
    process.close()
    assert hung is not None and not hung[0].is_alive()


def test_a_refusal_does_not_tell_the_path(process):
    with pytest.raises(InputError, match=r"^expected a video, found none$"):
        process.ask("refuse", "/secret/place")


def test_memory_is_bounded(process):
    with pytest.raises(InputError, match="does not fit in memory"):
        process.ask("fill", "x")
    assert process.ask("look", "c") == "c"


def test_the_real_process_reads_a_film(film):
    process = MediaProcess(600.0)
    try:
        assert process.ask("look", str(film))["picture"] > 5.9
        assert process.ask("still", str(film), 1.0)[:2] == b"\xff\xd8"
    finally:
        process.close()
