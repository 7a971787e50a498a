"""A file that is replaced is the old one or the new one, never a part."""

import os
import signal
import stat
import subprocess
import sys

import pytest

from mcn_lightning.files import replacing


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "run.json"
    for content in ("one", "two"):
        with replacing(path) as partial:
            partial.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content and [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_was_there_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("one")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("two")
        1 / 0  # noqa: B018
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    path = tmp_path / "run.json"
    code = (
        "import os, sys, pathlib; from mcn_lightning.files import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.write_text('a half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == -signal.SIGKILL
    assert [each.name for each in tmp_path.iterdir()] == ["run.json.partial"]
    with replacing(path) as partial:
        assert partial.read_text() == ""
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_a_library_writes_for_its_owner_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    with replacing(path) as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
