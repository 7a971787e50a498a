"""Signals that come before a run can act on them, or reach processes that they are not meant for."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""What tells a run to save and end."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables that number the processes of a run, in Lightning's order."""
INTERRUPTED = 128 + signal.SIGINT

_early: list[int] = []
_interrupts: list[int] = []  # the process that Ctrl-C reached


class Interrupted(BaseException):
    """Ctrl-C where no run can save itself; Lightning would end as after an error on ``KeyboardInterrupt``."""


def heard() -> list[int]:
    """Return the signals of ``FOR_THE_RUN`` that are not to be ignored, as SIGHUP is under ``nohup``."""
    return [each for each in FOR_THE_RUN if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def is_first() -> bool:
    """Tell whether this is the process that speaks for all of a run, by its environment."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def tell(text: str) -> None:
    """Write a line to stderr, from the first process, at once and wherever this process happens to be."""
    if is_first():
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{text}\n".encode() if os.isatty(2) else f"{text}\n".encode())


@contextmanager
def one_line_for_ctrl_c() -> Iterator[None]:
    """End with one line and status 130 on Ctrl-C, from the first import on; a second one ends at once.

    A run in training has its own way, see ``Resume``.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _end_where_nothing_is_raised
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        _end_interrupted()
    except BaseException as error:  # of another process that has ended, or what a library made of it
        told = isinstance(error, SystemExit) and error.code == INTERRUPTED
        if told or not _interrupts:
            raise
        _end_interrupted()
    finally:
        sys.unraisablehook = hook


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _interrupts:
        stop_now()
    _interrupts.append(os.getpid())
    raise Interrupted


def _end_interrupted() -> NoReturn:
    if _interrupts and _interrupts[0] != os.getpid():  # a worker
        os._exit(INTERRUPTED)
    tell("stopped by SIGINT")
    sys.exit(INTERRUPTED)


def _end_where_nothing_is_raised(error: Any) -> None:
    if issubclass(error.exc_type, (Interrupted, KeyboardInterrupt)):
        tell("stopped by SIGINT")
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(error)


def stop_now() -> NoReturn:
    """End this process at once, and those that it has started to read for it."""
    import multiprocessing

    for child in multiprocessing.active_children():
        child.kill()
    tell("stopped at once by SIGINT; nothing more was saved")
    os._exit(INTERRUPTED)


def let_terminal_go() -> None:
    """Write to nowhere in place of a terminal that was closed: what would be written there is an error."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and _is_gone(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


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

    with _kept_from_children(), _silent():  # it would list what a run that is stopped at once has left to it
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


@contextmanager
def _silent() -> Iterator[None]:
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
