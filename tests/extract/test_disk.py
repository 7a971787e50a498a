"""A place that cannot be written: one line, what was done stays, and the same command goes on to the same bytes."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import python

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.making import write_video
from extract.test_job import STREAMS, bytes_of, config_of
from mcn_lightning.commands.main import main
from mcn_lightning.errors import InputError
from mcn_lightning.extract import writing
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.speech import SpeechConfig, SpeechRecognizer
from mcn_lightning.files import replacing

ADVICE = "; free space or give another folder; the same command goes on from here"
CONFIG = "streams: [{name: colour, encoder: extract.making.Colours, rate: 2.0}]\ntext: none.txt\n"
"""A config; the word vectors are absent, as looking for a sentence encoder costs seconds of imports."""
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{Path(__file__).parents[1]}"}


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for number in range(4):
        write_video(folder / f"film_{number}.mp4", seed=number)
    return folder


@pytest.fixture(scope="module")
def whole(films, tmp_path_factory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole")
    extract(config_of(films, output, workers=1))
    return bytes_of(output)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk in memory, to be made larger with ``grow``."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "none", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a command that failed, which is all that it says of the error."""
    assert done.returncode == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.stderr.count("error") == 1, done.stderr
    return done.stderr.splitlines()[-1]


def test_a_full_disk_is_one_line_and_the_work_goes_on_when_there_is_room(films, whole, small_disk, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(10**9))  # else it is foreseen
    out = small_disk / "out"
    with pytest.raises(InputError) as told:
        extract(config_of(films, out, workers=1))
    message = str(told.value)
    assert message.startswith(f"--output {out}/") and message.count("\n") == 0
    assert message.endswith(f": expected to write there, found no space left on device{ADVICE}")
    assert 0 < len(list(out.rglob("*_record.json"))) < 4 and not (out / "train.csv").exists()
    assert not list(out.rglob("*.partial"))
    remount(small_disk, "size=10m")
    extract(config_of(films, out, workers=1))
    assert bytes_of(out) == whole


@pytest.mark.slow
def test_a_full_disk_is_one_line_of_the_processes_of_several_devices(films, whole, small_disk, tmp_path):
    """The disk has room, but for a few files only."""
    remount(small_disk, "size=10m,nr_inodes=22")
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ("--config", tmp_path / "c.yaml", "--videos", films, "--output", small_disk / "out", "--device", "cpu")
    line = last_line(python("-m", "mcn_lightning", "extract", *words, "--devices", 2, "--workers", 1, env=ENVIRONMENT))
    assert line.startswith(f"error: --output {small_disk}/out") and line.endswith(f"no space left on device{ADVICE}")
    remount(small_disk, "size=10m,nr_inodes=1000")
    extract(config_of(films, small_disk / "out", workers=1))
    assert bytes_of(small_disk / "out") == whole


@pytest.mark.parametrize(
    "name",
    ["extract.json", "rows.json", "film_2_colour.npz", "film_2_spec.npz", "film_2_record.json", "film_2_failed.json",
     "captions.json", "val.csv", "failed.csv", "data.yaml"],
)  # fmt: skip
def test_every_file_that_does_not_fit_is_named(films, whole, tmp_path, monkeypatch, name):
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with replacing(path) as place:
            yield place
            if path.name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    config, videos = config_of(films, tmp_path / "out", workers=1), films
    if name == "film_2_failed.json":
        videos = shutil.copytree(films, tmp_path / "films")
        (videos / "film_2.mp4").write_bytes(b"")
        config = config_of(videos, tmp_path / "out", workers=1)
    with monkeypatch.context() as patched:
        patched.setattr(writing, "replacing", full)
        with pytest.raises(InputError) as told:
            extract(config)
    (path,) = [word for word in str(told.value).split(": expected to write there, found no space left on device")[:1]]
    assert path.startswith(f"--output {tmp_path}/out/") and Path(path.split()[1]).name == name
    assert str(told.value).endswith(ADVICE) and not list((tmp_path / "out").rglob(name))
    if videos == films:
        extract(config)
        assert bytes_of(tmp_path / "out") == whole


def test_recognised_speech_that_does_not_fit_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(SpeechRecognizer, "recognize", lambda self, video: {"segments": []})
    stored = tmp_path / "film_speech.json"
    stored.with_name(stored.name + ".partial").mkdir()
    with pytest.raises(InputError, match=f"^--output {stored}: expected to write there, found .*{ADVICE}$"):
        SpeechRecognizer(SpeechConfig()).captions(tmp_path / "film.mp4", stored)


def test_an_output_that_is_a_file(films, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit) as told:
        main(["extract", "--videos", str(films), "--output", str(tmp_path / "out")])
    assert str(told.value) == (
        f"error: --output {tmp_path}/out: expected to write there, found {os.strerror(errno.ENOTDIR).lower()}{ADVICE}"
    )
    assert (tmp_path / "out").read_text() == "mine"


def test_an_output_that_cannot_be_written(films, small_disk):
    remount(small_disk, "ro,size=10m")
    with pytest.raises(InputError) as told:
        extract(config_of(films, small_disk / "out"))
    assert str(told.value) == (
        f"--output {small_disk}/out: expected to write there, found {os.strerror(errno.EROFS).lower()}{ADVICE}"
    )


def test_no_room_for_the_sound_is_one_line_of_a_decoding_process(films, whole, tmp_path):
    """Files are limited to 64 KB, and three seconds of sound are 192 KB."""
    assert STREAMS[0].encoder == "extract.making.Colours"
    (tmp_path / "c.yaml").write_text(CONFIG)
    words = ("--config", tmp_path / "c.yaml", "--videos", films, "--output", tmp_path / "out", "--device", "cpu")
    limit = (1 << 16, 1 << 16)
    command = [sys.executable, "-m", "mcn_lightning", "extract", *map(str, words)]
    options = {"capture_output": True, "text": True, "env": ENVIRONMENT}
    line = last_line(
        subprocess.run(command, **options, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    )
    assert line.startswith(
        "error: TMPDIR: expected room for the sound of a video (350 MB an hour), found file too large"
    )
    extract(config_of(films, tmp_path / "out", workers=1))
    assert bytes_of(tmp_path / "out") == whole
