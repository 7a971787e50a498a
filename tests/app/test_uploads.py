"""Files that are dropped on the page: too large, too slow, wrong, and kept for a while."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

pytest.importorskip("anyio", reason="the extra `app` is not installed")

import anyio

from mcn_lightning.app import uploads as module
from mcn_lightning.app.uploads import TooLargeError, TooSlowError, Uploads
from mcn_lightning.errors import InputError


class Reader:
    """In place of the process: finds sound in what begins with RIFF."""

    def ask(self, task: str, path: str) -> dict[str, float]:
        if not Path(path).read_bytes().startswith(b"RIFF"):
            raise InputError("expected sound, a picture or a video, found another kind of file")
        return {"picture": 0.0, "sound": 3.0}


async def body(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def endless() -> AsyncIterator[bytes]:
    yield b"RIFF"
    await anyio.sleep(10_000)


@pytest.fixture
def uploads():
    made = Uploads(Reader(), most=100, seconds=600.0)
    yield made
    made.close()


def take(uploads, content):
    return anyio.run(uploads.take, content)


def left(uploads) -> list[str]:
    return sorted(path.name for path in Path(uploads._folder.name).iterdir())


def test_a_file_is_found_by_its_name(uploads):
    upload = take(uploads, body(b"RIFF", b"more"))
    assert uploads.find(upload.name) == upload
    assert upload.path.read_bytes() == b"RIFFmore" and (upload.picture, upload.sound) == (0.0, 3.0)


def test_a_file_that_is_too_large_leaves_nothing(uploads):
    with pytest.raises(TooLargeError, match=r"more than 0\.0001 MB"):
        take(uploads, body(b"RIFF", b"x" * 97))
    assert left(uploads) == []


def test_a_file_that_does_not_arrive_leaves_nothing(uploads):
    uploads.seconds = 0.2
    begin = time.monotonic()
    with pytest.raises(TooSlowError, match=r"within 0\.2 s"):
        take(uploads, endless())
    assert left(uploads) == [] and time.monotonic() - begin < 600


@pytest.mark.parametrize(("content", "found"), [(b"", "empty"), (b"words", "another kind of file")])
def test_a_file_that_is_none_leaves_nothing(uploads, content, found):
    with pytest.raises(InputError, match=found):
        take(uploads, body(content))
    assert left(uploads) == []


def test_only_the_latest_files_are_kept(uploads, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    first, second, third = (take(uploads, body(b"RIFF", bytes([number]))) for number in range(3))
    assert left(uploads) == sorted([second.name, third.name])
    with pytest.raises(InputError, match="Drop it again"):
        uploads.find(first.name)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", "x" * 64])
def test_a_name_is_no_path(uploads, name):
    with pytest.raises(InputError, match="no longer here"):
        uploads.find(name)


def test_files_are_gone_with_the_server(uploads):
    upload = take(uploads, body(b"RIFF"))
    uploads.close()
    assert not upload.path.parent.exists()
