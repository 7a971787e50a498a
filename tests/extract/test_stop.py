"""Ctrl-C and signals in the middle of extraction: one line, the status, no process left, and the same bytes later."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from processes import left, until
from terminal import Terminal

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.making import write_video
from extract.test_job import bytes_of
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import EncodedStream, ExtractConfig

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
STREAMS = "streams: [{name: colour, encoder: extract.making.Held, rate: 4.0}]\ntext: none.txt\n"
"""Word vectors that are absent: looking for a sentence encoder costs seconds of imports."""
OPTIONS: dict[str, object] = {"device": "cpu", "workers": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Return a folder with six films and a config, and the files of an undisturbed run."""
    folder = tmp_path_factory.mktemp("stopped")
    for number in range(6):
        write_video(folder / "films" / f"film_{number}.mp4", seed=number)
    (folder / "c.yaml").write_text(STREAMS + "".join(f"{name}: {value}\n" for name, value in OPTIONS.items()))
    undisturbed(folder, folder / "whole")
    return folder, bytes_of(folder / "whole")


def undisturbed(folder: Path, output: Path) -> None:
    streams = (EncodedStream("colour", "extract.making.Held", 4.0),)
    extract(ExtractConfig(str(folder / "films"), str(output), streams, **OPTIONS))


def words_of(folder: Path, output: Path) -> list[str]:
    return ["extract", "--config", str(folder / "c.yaml"), "--videos", str(folder / "films"), "--output", str(output)]


def started(folder: Path, tmp_path: Path, devices: int, *program: str, **more: str) -> Terminal:
    """Return the command in a terminal, when every process holds a video that is not done."""
    command = [sys.executable, *(program or ("-m", "mcn_lightning")), *words_of(folder, tmp_path / "out")]
    marks = {name.upper(): str(tmp_path / name) for name in ("ready", "go", "closing")}
    terminal = Terminal(
        [*command, "--devices", str(devices)], ROOT, forked=devices == 1, MARK=str(tmp_path), **marks, **more
    )
    until(lambda: len(list(tmp_path.glob("ready-*"))) == devices, "the third batch of every process")
    return terminal


def assert_stopped(terminal: Terminal, tmp_path: Path, status: int, line: str) -> None:
    assert terminal.end() == status, terminal.text
    assert "Traceback" not in terminal.text and terminal.text.count("stopped") == 1, terminal.text
    assert line in terminal.text.splitlines(), terminal.text
    until(lambda: not left(tmp_path), "the end of all processes")


def assert_goes_on(folder: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    assert not (out / "train.csv").exists() and len(list(out.rglob("*_record.json"))) < 6
    undisturbed(folder, out)
    assert bytes_of(out) == whole


@pytest.mark.parametrize(("name", "devices"), [("SIGINT", 1), ("SIGINT", 2), ("SIGTERM", 2), ("SIGUSR1", 1)])
def test_a_signal_ends_it_in_one_line_and_the_next_run_goes_on(made, tmp_path, name, devices):
    folder, whole = made
    cold = {"COLD": "1"} if name == "SIGINT" else {}  # as users start it: each device has its own server of decoders
    terminal = started(folder, tmp_path, devices, **cold)
    if name == "SIGINT":
        terminal.press()  # for all of its processes
    else:
        os.kill(terminal.process, getattr(signal, name))  # for the first alone
    line = f"stopped by {name}; the same command goes on from here"
    assert_stopped(terminal, tmp_path, 128 + getattr(signal, name), line)
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert_goes_on(folder, tmp_path, whole)


def test_sigterm_for_all_processes_at_once(made, tmp_path):
    """As SLURM sends it."""
    folder, whole = made
    terminal = started(folder, tmp_path, 2)
    os.killpg(terminal.process, signal.SIGTERM)
    line = "stopped by SIGTERM; the same command goes on from here"
    assert_stopped(terminal, tmp_path, 128 + signal.SIGTERM, line)
    assert_goes_on(folder, tmp_path, whole)


HUNG = """
import os, runpy, time
from pathlib import Path
from mcn_lightning.extract.pool import DecodingPool

def close(self):
    Path(os.environ["CLOSING"]).touch()
    time.sleep(600)

DecodingPool.close = close
if __name__ == "__main__":
    runpy.run_module("mcn_lightning", run_name="__main__")
"""
"""The command, which hangs as it ends its processes."""


def test_a_second_ctrl_c_stops_at_once(made, tmp_path):
    folder, whole = made
    (tmp_path / "hung.py").write_text(HUNG)
    terminal = started(folder, tmp_path, 2, str(tmp_path / "hung.py"))
    terminal.press()
    until((tmp_path / "closing").exists, "the end of the first process")
    terminal.press()
    assert_stopped(terminal, tmp_path, 130, "stopped at once by SIGINT; nothing more was saved")
    assert_goes_on(folder, tmp_path, whole)


def test_processes_of_several_devices_end_with_a_command_that_is_killed(made, tmp_path):
    folder, whole = made
    terminal = started(folder, tmp_path, 2, COLD="1")
    os.kill(terminal.process, signal.SIGKILL)
    assert terminal.end() == -signal.SIGKILL
    until(lambda: not left(tmp_path), "the end of all processes")
    assert_goes_on(folder, tmp_path, whole)
