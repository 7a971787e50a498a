"""Handling of signals before a run handles them itself, and in processes that should ignore them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""Signals on which a run saves its state and ends."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables that number the processes of a run, in Lightning's order."""
# as shells report a process that a signal ended
INTERRUPTED = 128 + signal.SIGINT

_early: list[int] = []
_interrupts: list[tuple[int, int]] = []  # process and signal of Ctrl-C, or of another one that ends a command


class Interrupted(BaseException):
    """Ctrl-C while no run can save its state. Lightning treats a ``KeyboardInterrupt`` as an error.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


def handled_signals() -> list[int]:
    """Return the signals of ``STOP_SIGNALS`` that are not ignored. ``nohup`` for instance ignores SIGHUP."""
    return [number for number in STOP_SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def is_first() -> bool:
    """Return whether this is the first process of a run, by its environment variables."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def write_line(text: str) -> None:
    """Write a line to stderr from the first process. It is safe in a signal handler: no buffer, no lock."""
    if is_first():
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{text}\n".encode() if os.isatty(2) else f"{text}\n".encode())


@contextmanager
def exit_on_interrupt() -> Iterator[None]:
    """Exit with one line and status 130 on Ctrl-C, from the first import on. A second Ctrl-C exits at once.

    During training ``Resume`` handles the signal.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    # _interrupt raises no KeyboardInterrupt, which Lightning treats as an error
    signal.signal(signal.SIGINT, _interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, _exit_from_unraisable
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        _exit_interrupted()
    except BaseException as error:  # after Ctrl-C another process may have ended, or a library raised its own error
        if not _interrupts or (isinstance(error, SystemExit) and error.code == 128 + _interrupts[0][1]):  # reported
            raise
        _exit_interrupted()
    finally:
        sys.unraisablehook = hook


@contextmanager
def interrupted_by(*numbers: int) -> Iterator[None]:
    """Let signals raise ``Interrupted`` in the block, as Ctrl-C does.

    Args:
        *numbers: of the signals. One that was blocked or recorded before is delivered in the block.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows signal handlers in the main thread only
        return
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        if (early := take_early_signal()) in numbers:
            _interrupt(early, None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGHUP:
        drop_closed_terminal()
    if _interrupts:
        if number == signal.SIGINT:
            stop_now()
        return  # the process is ending already
    _interrupts.append((os.getpid(), number))
    raise Interrupted(number)


def _exit_interrupted() -> NoReturn:
    # a forked process inherits the list of its parent
    process, number = _interrupts[0] if _interrupts else (os.getpid(), int(signal.SIGINT))
    if process != os.getpid():  # a forked worker: the main process writes the line
        os._exit(128 + number)
    write_line(f"stopped by {signal.Signals(number).name}")
    sys.exit(128 + number)


def _exit_from_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Exit on Ctrl-C inside a destructor or callback, where Python would print the exception and go on."""
    if issubclass(error.exc_type, (Interrupted, KeyboardInterrupt)):
        write_line("stopped by SIGINT")
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(error)


def stop_now() -> NoReturn:
    """End this process and its data-loading workers at once."""
    import multiprocessing

    # workers of a fork server would outlive this process
    for child in multiprocessing.active_children():
        child.kill()
    write_line("stopped at once by SIGINT; nothing more was saved")
    os._exit(INTERRUPTED)


def drop_closed_terminal() -> None:
    """Redirect stdout and stderr of a closed terminal to the null device. Writing to the terminal would raise."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and _is_gone(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


@contextmanager
def survive_job_signals() -> Iterator[None]:
    """Keep SIGUSR1 from killing a process of a SLURM job. Before training it is recorded, after training ignored."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    signal.signal(signal.SIGUSR1, _remember_signal)
    try:
        yield
    finally:
        # a Python handler is gone while the interpreter shuts down, SIG_IGN is not
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _remember_signal(number: int, frame: FrameType | None) -> None:
    _early.append(number)


def take_early_signal() -> int:
    """Return the signal recorded by ``survive_job_signals`` and forget it; 0 without one."""
    # the last one: a job may get several warnings, and all ask for the same
    number = _early[-1] if _early else 0
    _early.clear()
    return number


def start_forkserver() -> None:
    """Start the server of worker processes with stop signals blocked. SLURM may send them to all processes of a job."""
    from multiprocessing import forkserver

    start_resource_tracker()  # it unblocks some signals when it is done, hence a block of its own
    with signals_blocked():
        forkserver.ensure_running()


def start_resource_tracker() -> None:
    """Start the process that counts semaphores with stop signals blocked."""
    from multiprocessing import resource_tracker

    # its stderr is silenced: it would list the resources of a run that is stopped at once
    with signals_blocked(), _stderr_silenced():
        resource_tracker.ensure_running()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block stop signals in the block. Processes that start there have them blocked until they unblock them."""
    # children inherit the mask; signals that arrive here are delivered when it is restored
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
