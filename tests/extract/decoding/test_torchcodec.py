"""Pictures by torchcodec are the same frames at the same times as PyAV's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.decoding.test_damage import FAST_START, KEY
from extract.decoding.test_damage import PLAIN as LONG
from extract.decoding.test_decode import FILMS, PLAIN, SIZES, Frames, Samples, shape
from extract.films import write
from extract.making import write_video
from extract.test_job import bytes_of, config_of
from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import Outcome, PictureSize, decode_video
from mcn_lightning.extract.decoding.torchcodec import check_torchcodec
from mcn_lightning.extract.job import extract


def lacking() -> str:
    try:
        check_torchcodec()
    except InputError as error:
        return str(error)
    return ""


needs_torchcodec = pytest.mark.skipif(bool(lacking()), reason=lacking())


def decode(path: Path, device: str | None, size: PictureSize = SIZES[0]) -> tuple[list[Frames], np.ndarray, Outcome]:
    frames, sound = [Frames(rate, size) for rate in (1.0, 24.0, 3.7)], Samples()
    outcome = decode_video(path, frames, sound, 1, device)
    return frames, sound.all, outcome


@needs_torchcodec
@pytest.mark.parametrize("name", FILMS)
def test_the_frames_are_those_of_pyav(tmp_path, name):
    path = write(tmp_path / name, FILMS[name])
    for size in SIZES:
        truth, heard, known = decode(path, None, size)
        found, sound, outcome = decode(path, "cpu", size)
        assert np.array_equal(sound, heard) and outcome.cut == ""
        assert outcome.picture == pytest.approx(known.picture, abs=0.06 if FILMS[name].times else 1e-6)
        for one, other in zip(truth, found, strict=True):
            rows = len(one.numbers), len(other.numbers)
            assert rows[0] == rows[1] or (FILMS[name].times and abs(rows[0] - rows[1]) == 1)  # its length is a guess
            assert one.numbers[: min(rows)] == other.numbers[: min(rows)] and -1 not in other.numbers
            assert shape(one.pictures) == shape(other.pictures)
            far = [np.abs(a - b.astype(int)).mean() for a, b in zip(one.pictures, other.pictures, strict=False)]
            assert max(far) < 2.5  # levels: the pictures are scaled by another library


@needs_torchcodec
@pytest.mark.parametrize("name", ["a.mkv", "index_first.mp4", "http:a.mp4"])
def test_a_file_that_breaks_off_gives_what_came_before(tmp_path, name):
    film = LONG.but(container_options=FAST_START) if name == "index_first.mp4" else LONG
    path = write(tmp_path / "whole.mkv" if name == "http:a.mp4" else tmp_path / name, film).rename(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    truth, _, known = decode(path, None)
    found, _, outcome = decode(path, "cpu")
    rows = len(found[1].numbers)
    assert abs(rows - len(truth[1].numbers)) <= 24 and rows > 48
    assert found[1].numbers[: rows - 24] == truth[1].numbers[: rows - 24]
    assert outcome.cut and known.cut and abs(outcome.picture - known.picture) <= 1


@needs_torchcodec
def test_an_encrypted_file_and_one_that_is_no_video_are_refused_as_ever(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": KEY, "encryption_kid": KEY}
    path = write(tmp_path / "a.mp4", PLAIN.but(container_options=options))
    (tmp_path / "b.mp4").write_bytes(b"This is no video.\n" * 100)
    for each, reason in ((path, "an encrypted one: decrypt it first"), (tmp_path / "b.mp4", "a file that cannot be")):
        with pytest.raises(InputError) as told:
            decode(each, "cpu")
        assert str(told.value).startswith(f"{each}: expected a video, found {reason}")


@needs_torchcodec
def test_a_folder_is_extracted_and_stays_with_its_decoder(tmp_path):
    for number in range(3):
        write_video(tmp_path / "films" / f"film_{number}.mp4", seed=number)
    for name in ("one", "two"):
        extract(config_of(tmp_path / "films", tmp_path / name, decoder="torchcodec", device="cpu"))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    extract(config_of(tmp_path / "films", tmp_path / "pyav"))
    for path in (tmp_path / "pyav").rglob("*_colour.npz"):
        other = np.load(tmp_path / "one" / path.relative_to(tmp_path / "pyav"))["features"]
        assert np.abs(np.load(path)["features"] - other).max() < 0.02  # of 1
    with pytest.raises(InputError, match="found another decoder"):
        extract(config_of(tmp_path / "films", tmp_path / "one"))


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'torchcodec'"), RuntimeError("no FFmpeg\nat all")]
)
def test_without_the_package_it_is_one_line(tmp_path, monkeypatch, error):
    write_video(tmp_path / "films" / "film.mp4")

    for name in [name for name in sys.modules if name.startswith("torchcodec")]:
        monkeypatch.delitem(sys.modules, name)
    if isinstance(error, RuntimeError):
        (tmp_path / "torchcodec.py").write_text(f"raise {error!r}\n")
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(InputError) as told:
        extract(config_of(tmp_path / "films", tmp_path / "out", decoder="torchcodec"))
    start, found = "--decoder torchcodec: expected ", str(told.value)
    if isinstance(error, RuntimeError):
        assert found.startswith(f"{start}it to load beside torch ") and "found: no FFmpeg; install" in found
    else:
        assert found == f"{start}the package torchcodec, found none; pip install 'mcn-lightning[extract-torchcodec]'"
    assert "\n" not in found
