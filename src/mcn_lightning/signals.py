"""Signals that come before a run can act on them, or reach processes that they are not meant for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What tells a run to save and end."""

_early: list[int] = []


@contextmanager
def job_survives() -> Iterator[None]:
    """Let SIGUSR1 kill no process of a SLURM job: before training it is remembered, after it nothing is to be saved."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    signal.signal(signal.SIGUSR1, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # lasts while Python takes itself down, which no handler does


def _note(number: int, frame: FrameType | None) -> None:
    _early.append(number)


def early() -> int:
    """Return the signal that came inside ``job_survives``, 0 for none; it is told once."""
    number = _early[-1] if _early else 0
    _early.clear()
    return number


def start_forkserver() -> None:
    """Start the server of worker processes so that these signals end none of them: SLURM may send them to all."""
    from multiprocessing import forkserver, resource_tracker

    with _kept_from_children():
        resource_tracker.ensure_running()  # which undoes a part of it for what is started next
    with _kept_from_children():
        forkserver.ensure_running()


@contextmanager
def _kept_from_children() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)  # inherited; here they wait until it is undone
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
