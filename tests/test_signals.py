"""Signals that come before training."""

from __future__ import annotations

import json
import os
import signal
import sys
from importlib.metadata import entry_points
from types import SimpleNamespace

from launch import CONFIGS, write_overlay
from processes import python

from mcn_lightning.signals import take_early_signal

COMMAND = """
import os
import runpy
import signal

from pytorch_lightning import Trainer

run = Trainer._run_stage  # when Lightning listens, and Resume not yet


def told(trainer):
    os.kill(os.getpid(), signal.SIGTERM)
    return run(trainer)


Trainer._run_stage = told
runpy.run_module("mcn_lightning", run_name="__main__")
"""


def test_sigterm_before_training_does_not_look_like_success(tiny, tmp_path):
    small = write_overlay(tmp_path / "small.yaml", tiny, tmp_path, "pytorch_lightning.loggers.CSVLogger")
    words = ["fit", "--config", str(CONFIGS / "demo.yaml"), "--config", str(small)]
    done = python("-c", COMMAND, *words)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr[-2000:]
    assert not json.loads((tmp_path / "run" / "version_0" / "run.json").read_text())["finished"]


def test_a_signal_to_a_job_is_remembered_while_the_command_is_loaded(monkeypatch):
    told = []

    def signalled(words: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        told.append(take_early_signal())

    former = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setitem(sys.modules, "mcn_lightning.commands.fit", SimpleNamespace(run=signalled))
    monkeypatch.setattr(sys, "argv", ["lightning", "fit"])
    try:
        entry_points(group="console_scripts")["lightning"].load()()
        assert told == [signal.SIGUSR1] and signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, former)
