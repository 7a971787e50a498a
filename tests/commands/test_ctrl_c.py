"""Ctrl-C and a closed terminal, in a real one: what is said, the status, and what is saved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import CONFIGS, write_overlay
from processes import python, until
from terminal import Terminal

HELD = """
import os, runpy, signal, sys, time
if "NOHUP" in os.environ:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does before it starts a command

from mcn_lightning.runs.resume import Resume

def hold(self, trainer, pl_module, batch, batch_idx):
    if trainer.global_step == 1:
        with open(f"{os.environ['READY']}-{os.getpid()}", "w") as file:
            file.write(str(os.getpid()))
        os.replace(file.name, os.environ["READY"] + str(trainer.global_rank))
        while not os.path.exists(os.environ["GO"]):
            time.sleep(0.05)

Resume.on_train_batch_start = hold
if __name__ == "__main__":
    runpy.run_module("mcn_lightning", run_name="__main__")
"""
"""The command, which waits in its second step until a file is there."""

INTERRUPTED = """
import os, runpy, signal, sys
what, = sys.argv[1:2]
del sys.argv[1]

def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)

if what == "imports":
    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name == "mcn_lightning.commands.main":
                interrupt()
    sys.meta_path.insert(0, Finder())
else:
    module, _, name = what.rpartition(".")
    owner = __import__(module.split(":")[0], fromlist=["x"])
    for part in module.split(":")[1:]:
        owner = getattr(owner, part)
    setattr(owner, name, interrupt)
runpy.run_module("mcn_lightning", run_name="__main__")
"""
"""The command, which gets Ctrl-C where a function would be called."""


@pytest.fixture
def held(tiny, tmp_path):
    """Return how a run is started that waits in its second step, and the file that lets it go on."""
    small = write_overlay(tmp_path / "small.yaml", tiny, tmp_path / "runs", "pytorch_lightning.loggers.CSVLogger")
    (tmp_path / "held.py").write_text(HELD)
    ready, go, terminals = tmp_path / "ready", tmp_path / "go", []

    def start(*words: object, processes: int = 1, forked: bool = True, **more: str) -> Terminal:
        command = [
            sys.executable, tmp_path / "held.py", "fit", "--config", CONFIGS / "demo.yaml", "--config", small,
            "--data.batch_size", 2, "--data.num_workers", 2, "--trainer.max_steps", 6, *words,
        ]  # fmt: skip
        terminal = Terminal([str(word) for word in command], tmp_path, forked, READY=str(ready), GO=str(go), **more)
        terminals.append(terminal)
        for rank in range(processes):
            until(Path(f"{ready}{rank}").exists, "the second step")
        return terminal

    yield start, go
    for terminal in terminals:
        terminal.kill()


def newest(folder: Path) -> dict:
    (path,) = folder.glob("runs/run/version_0/checkpoints/newest.ckpt")
    return torch.load(path, weights_only=True)


def others(folder: Path) -> list[int]:
    """Return the second process of a run, if it has one."""
    return [int(path.read_text()) for path in folder.glob("ready1")]


TWO = ("--trainer.devices", 2, "--data.batch_size", 1, "--trainer.limit_val_batches", 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_saves_and_a_second_one_stops_at_once(held, tmp_path, processes):
    start, go = held
    words = TWO if processes == 2 else ()
    # one that is not forked: its data loaders, too, are processes of the terminal
    terminal = start(*words, processes=processes, forked=processes == 2)
    terminal.press(*others(tmp_path))
    terminal.wait_for("saving after this step; press again to stop now")
    go.touch()
    assert terminal.end() == 128 + signal.SIGINT, terminal.text
    assert terminal.text.count("press again") == 1
    assert "\nstopped by SIGINT after step" in terminal.text  # below the bar
    assert "Traceback" not in terminal.text and newest(tmp_path)["global_step"] >= 2

    go.unlink()
    for path in tmp_path.glob("ready*"):
        path.unlink()
    terminal = start(*words, processes=processes)
    terminal.press(*others(tmp_path))
    terminal.wait_for("press again")
    terminal.press()  # the other process sees one signal alone, as a busy one takes two for one
    assert terminal.end() == 128 + signal.SIGINT, terminal.text
    last = [line for line in terminal.text.split("press again to stop now")[1].splitlines() if line.strip(" ^C")]
    assert last == ["stopped at once by SIGINT; nothing more was saved"]
    assert not (tmp_path / "runs" / "run" / "version_1" / "checkpoints" / "newest.ckpt").exists()


def test_a_closed_terminal_saves(held, tmp_path):
    start, go = held
    terminal = start()
    terminal.close()
    go.touch()
    assert terminal.status() == 128 + signal.SIGHUP
    assert newest(tmp_path)["global_step"] == 2


def test_nohup_stays_nohup(held, tmp_path):
    start, go = held
    terminal = start(NOHUP="1")
    os.kill(terminal.process, signal.SIGHUP)
    go.touch()
    assert terminal.end() == 0, terminal.text
    (path,) = tmp_path.glob("runs/run/version_0/checkpoints/last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 6


LATE = "mcn_lightning.module:MCNModule"
WHERE = {
    "imports": ("imports", "fit"),
    "set-up of fit": ("mcn_lightning.data.datamodule:NarratedVideos.setup", "fit"),
    "test": (f"{LATE}.test_step", "test"),
    "validate": (f"{LATE}.validation_step", "validate"),
    "predict": (f"{LATE}.predict_step", "predict"),
    "prepare": ("mcn_lightning.data.shards.pack._plan", "prepare"),
}


def assert_one_line(tmp_path: Path, what: str, *words: object) -> None:
    """Run a command that is interrupted, and see that it ends as it should."""
    command = ["-c", INTERRUPTED, what, *map(str, words)]
    if what == "imports":  # python() has imported all
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path)
    else:
        done = python(*command, cwd=tmp_path)
    assert done.returncode == 130, (what, done.stderr)
    assert done.stderr.count("stopped") == 1 and "Traceback" not in done.stderr, (what, done.stderr)


@pytest.mark.parametrize("where", WHERE)
def test_ctrl_c_outside_of_training_is_one_line(where, tiny, tmp_path):
    what, command = WHERE[where]
    small = write_overlay(tmp_path / "small.yaml", tiny, tmp_path / "runs", "pytorch_lightning.loggers.CSVLogger")
    more = ("--pack.output", tmp_path / "shards") if command == "prepare" else ("--data.num_workers", 1)
    assert_one_line(tmp_path, what, command, "--config", CONFIGS / "demo.yaml", "--config", small, *more)


def test_ctrl_c_in_commands_without_a_trainer_is_one_line(tmp_path):
    for what, *words in (
        ("mcn_lightning.commands.data.write_synthetic", "synthetic", "--root", "made"),
        ("mcn_lightning.commands.data.ShardHeader", "verify", "--shards", "shards"),
        ("mcn_lightning.commands.convert.read_weights", "convert", "--weights", "a.pth", "--output", "a.ckpt"),
        ("mcn_lightning.commands.experiments.results", "results", "runs"),
    ):
        assert_one_line(tmp_path, what, *words)
