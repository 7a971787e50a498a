"""The command ``lightning app``: its one-line errors, its address, the token, and its end."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="the extra `app` is not installed")
pytest.importorskip("av", reason="the extra `app` is not installed")

import httpx
from forked import Popen
from launch import run
from processes import LIMIT

from app.indexes import clips_of, write_index
from mcn_lightning.commands.main import main
from mcn_lightning.commands.search import app as command
from mcn_lightning.search.manifest import MODEL

COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from mcn_lightning.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_index(tmp_path_factory.mktemp("command") / "index", clips_of(None))


def refused(*args: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["app", *map(str, args)])
    assert "\n" not in str(stopped.value)
    return str(stopped.value)


def test_a_folder_that_is_no_index(tmp_path):
    assert "expected an index that lightning index made, found a folder without index.json" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "none")


def test_an_index_with_a_damaged_model(folder, tmp_path):
    damaged = tmp_path / "index"
    shutil.copytree(folder, damaged)
    (damaged / MODEL).write_bytes((folder / MODEL).read_bytes()[:100])
    assert f"{damaged / MODEL}: expected the model of the index, found" in refused(damaged, "--port", 0)


def test_a_port_in_use(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = refused(folder, "--port", port)
        assert f"--port {port}: expected to listen there, found address already in use; give a port" in found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--port", "70000"], "--port: expected a number up to 65535, found 70000"),
        (["--prot", "1"], "did you mean --port"),
        (["--host", "203.0.113.1", "--port", "0"], "--host 203.0.113.1"),
        (["--max_upload_mb", "0"], "max_upload_mb"),
    ],
)
def test_wrong_options(folder, given, said):
    assert said in refused(folder, *given)


def test_a_missing_package_is_named(folder, monkeypatch):
    monkeypatch.setattr(command, "PACKAGES", ("starlette", "no_such_package"))
    assert "pip install 'mcn-lightning[app]'" in refused(folder) and "no_such_package" in refused(folder)


def test_export_is_for_embedding_atlas(folder, tmp_path, capsys, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "clips.parquet"
    run("app", folder, "--export", path)
    told = f"{path} (12 clips); embedding-atlas {path} --x map_x --y map_y --text text"
    assert capsys.readouterr().out.strip() == told
    found = parquet.read_table(path).to_pydict()
    assert [{name: found[name][row] for name in clip} for row, clip in enumerate(clips_of(None))] == clips_of(None)
    assert found["cluster_name"][0].startswith("0 eggs")
    assert max(map(abs, found["map_x"] + found["map_y"])) == pytest.approx(1)
    assert "--export" in refused(folder, "--export", tmp_path / "none" / "clips.parquet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "--export: expected the package pyarrow, found none" in refused(folder, "--export", path)


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    found = re.search(r"http\S+", process.stdout.readline())
    assert found, process.stderr and process.stderr.read()
    return found[0]


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no server behind, whatever fails in the block."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_answers_and_ends_with_one_line(folder, host):
    """Other machines can reach 0.0.0.0: there the address has a token."""
    args = [sys.executable, "-c", COMMAND, "app", str(folder), "--port", "0", "--host", host]
    with Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process, ended(process):
        address = httpx.URL(address_of(process)).copy_with(host="127.0.0.1")
        bare = address.copy_with(query=None)
        assert httpx.get(bare, timeout=LIMIT).status_code == (401 if host == "0.0.0.0" else 200)
        with httpx.Client(timeout=LIMIT) as client:
            assert client.get(address).status_code == 200
            assert client.get(bare.join("/api/about")).json()["clips"] == 12
        end = time.monotonic() + LIMIT
        process.send_signal(signal.SIGINT)
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert process.returncode == 130
        assert process.stderr is not None and process.stderr.read() == "stopped by SIGINT\n"
