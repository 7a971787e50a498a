"""Python processes forked from one that has imported the package: importing takes longer than a tiny run."""

from __future__ import annotations

import atexit
import fcntl
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import termios
import time
import types
from contextlib import suppress
from multiprocessing import forkserver, reduction, resource_tracker
from pathlib import Path
from typing import Any
from unittest.mock import patch

WARM = ["warm"]
"""Imported once, by the process that all others are forked from."""
PATH = list(sys.path)
"""Where those look for modules, whatever a test adds for itself."""
FORWARDED = ("_execute_child", "_internal_poll", "_try_wait")
COLD: dict[str, Any] = {name: vars(subprocess.Popen)[name] for name in FORWARDED}
"""How ``subprocess`` starts a process, asks for its end and waits for it."""


def share_server() -> None:
    """Let all forks of this process, and theirs, come from one server that has imported ``WARM``.

    Else the first data loader decides what the server imports, and Python 3.11 starts a new server in every fork.
    """
    forkserver.set_forkserver_preload(WARM)
    forkserver.set_forkserver_preload = lambda names: None
    server = forkserver._forkserver
    if server._forkserver_pid is None and server._forkserver_address is not None:  # this process is a fork
        server.ensure_running = forkserver.ensure_running = resource_tracker.ensure_running
        return
    start, here = server.ensure_running, os.path.dirname(__file__)

    def ensure_running() -> None:
        """Begin the server, if need be, where it finds ``warm``."""
        if server._forkserver_pid is not None:
            return start()
        with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))):
            start()

    server.ensure_running = forkserver.ensure_running = ensure_running


share_server()


class File:
    """An open file that a process gets from the one that starts it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self.number),)


def _received(sent: Any) -> int:
    return sent.detach()


class Popen(subprocess.Popen):
    """As ``subprocess.Popen``, but this interpreter and ``lightning`` are not started anew: they are forked.

    So are the processes that such a process starts: those of more devices, of torchrun, and runs of a sweep. With
    ``start_new_session`` a terminal that is its input becomes the terminal of the session. A test of start-up or of
    limits, and one that repeats a run to compare it, uses ``subprocess`` instead.
    """

    def _execute_child(self, args: Any, executable: Any, preexec_fn: Any, *rest: Any) -> None:
        cwd, env, ends, session, group = rest[2], rest[3], rest[7:13], rest[18], rest[19]
        group = os.getpgrp() if group == -1 else group
        words = arguments_of([args] if isinstance(args, str) else [os.fspath(word) for word in args])
        if words is None:
            return COLD["_execute_child"](self, args, executable, preexec_fn, *rest)
        own = zip(range(3), (ends[0], ends[3], ends[5]), strict=True)
        files = [File(number if end == -1 else end) for number, end in own]
        own_env = dict(os.environ if env is None else env)
        given = (files, session, group, words, os.fspath(cwd or Path.cwd()), own_env, PATH)
        self._forked = multiprocessing.get_context("forkserver").Process(target=_main, args=given)
        self._child_created = True
        try:
            self._forked.start()
        finally:
            self._close_pipe_fds(*ends)
        multiprocessing.process._children.discard(self._forked)  # this process need not wait for it at its end
        self.pid = self._forked.pid
        late = time.monotonic() + 600
        with suppress(ProcessLookupError):  # it has ended
            while (session or group == 0) and os.getpgid(self.pid) != self.pid:  # as nobody sees another begin
                if time.monotonic() > late:
                    raise TimeoutError(f"{words}: no session of its own")
                time.sleep(0.005)

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if not hasattr(self, "_forked"):
            return COLD["_try_wait"](self, wait_flags)
        self._forked.join(0 if wait_flags == os.WNOHANG else None)
        code = self._forked.exitcode
        return (0, 0) if code is None else (self.pid, -code if code < 0 else code << 8)

    def _internal_poll(self, *given: Any, **options: Any) -> int | None:
        if not hasattr(self, "_forked"):
            return COLD["_internal_poll"](self, *given, **options)
        if self.returncode is None:
            number, status = self._try_wait(os.WNOHANG)
            if number:
                self._handle_exitstatus(status)
        return self.returncode


def arguments_of(command: list[str]) -> list[str] | None:
    """Return the arguments of a command that runs this interpreter or ``lightning``; ``None`` of any other."""
    words = command[1:] if command[0] == "/usr/bin/env" else command  # as wandb's agents start it
    if words[0] in (sys.executable, "python"):
        return words[1:]
    return words if Path(words[0]) == Path(sys.executable).with_name("lightning") else None


def begin(files: list[int]) -> None:
    """Take files as input, output and errors, and receive signals as a process that was not forked."""
    gc.freeze()  # what the server has imported is no garbage
    gc.set_threshold(100_000, 50, 100)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a data loader that starts the server blocks some there


def _main(
    files: list[int], session: bool, group: int, words: list[str], cwd: str, env: dict[str, str], path: list[str]
) -> None:
    """Run Python with arguments, in a fork."""
    begin(files)
    if session:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    else:
        with suppress(PermissionError):  # of another session
            os.setpgid(0, group)
    for name in FORWARDED:
        setattr(subprocess.Popen, name, vars(Popen)[name])
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    PATH[:] = path
    sys.path[:] = [*filter(None, env.get("PYTHONPATH", "").split(os.pathsep)), *path]
    option, *rest = words[words[0] == "-u" :]
    try:
        if option == "-m":
            sys.argv = rest
            sys.path.insert(0, cwd)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif option == "-c":
            sys.argv = [option, *rest[1:]]
            sys.path.insert(0, cwd)
            module = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), module.__dict__)
        else:
            sys.argv = [option, *rest]
            sys.path.insert(0, os.path.dirname(os.path.abspath(option)))
            runpy.run_path(option, run_name="__main__")
    finally:
        atexit._run_exitfuncs()
