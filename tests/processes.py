"""Run a function in several processes that talk over gloo, and wait for what processes do."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

LIMIT = 600.0
"""Seconds that a test waits for anything: only what hangs takes as long, however busy the machine is."""

WARM = ["mcn_lightning.commands.main", "mcn_lightning.commands.fit", "hypothesis", "pytest"]
"""Imported once, by the process that those of ``python`` and ``run`` are forked from."""


def share_server() -> None:
    """Let all forks of this process, and theirs, come from one server that has imported ``WARM``.

    Else the first data loader decides what the server imports, and Python 3.11 starts a new server in every fork.
    """
    forkserver.set_forkserver_preload(WARM)
    forkserver.set_forkserver_preload = lambda names: None
    server = forkserver._forkserver
    if server._forkserver_pid is None and server._forkserver_address is not None:  # this process is a fork
        server.ensure_running = forkserver.ensure_running = resource_tracker.ensure_running


share_server()


def python(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments such as ``-m mcn_lightning fit`` or ``-c CODE``; return its output and status.

    The process is forked from one that has imported the package: importing takes longer than a tiny run. So are those
    that Lightning starts for more devices. A test of start-up, a terminal or limits, and one that repeats a run to
    compare it, starts ``sys.executable`` instead.

    Args:
        arguments: ``-m`` or ``-c`` and its value, or a script; then what ``sys.argv`` holds after the first.
        cwd: working folder; by default the present one.
        env: environment; by default the present one.
    """
    words = [str(argument) for argument in arguments]
    given = (words, os.fspath(cwd or Path.cwd()), dict(os.environ if env is None else env))
    (code,), (out,), (err,) = _wait([(_python, given)])
    return subprocess.CompletedProcess(words, code, out, err)


def run(function: Callable[..., Any], *arguments: Any, world: int = 2) -> list[Any]:
    """Call a function of a test module in ``world`` processes at once; return what each gave.

    Args:
        function: found by its module and name in the other processes; inside it ``torch.distributed`` is ready.
        arguments: picklable.
        world: processes; 1 runs it in a process of its own without a process group.
    """
    import torch

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes, _, errors = _wait([(_rank, (folder, rank, world, function, arguments)) for rank in range(world)])
        assert not any(codes), "\n".join(error[-3000:] for code, error in zip(codes, errors, strict=True) if code)
        return [torch.load(folder / f"result-{number}", weights_only=False) for number in range(world)]


def _wait(tasks: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> tuple[list[int | None], list[str], list[str]]:
    """Call functions at once in processes of their own; return exit codes, outputs, errors."""
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as name:
        files = [(Path(name, f"out-{number}"), Path(name, f"err-{number}")) for number in range(len(tasks))]
        started = [context.Process(target=_call, args=(*to, *task)) for to, task in zip(files, tasks, strict=True)]
        for process in started:
            process.start()
        end = time.monotonic() + LIMIT
        try:
            for process in started:
                process.join(max(0.0, end - time.monotonic()))
            codes = [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()
                process.join()
        outputs, errors = ([path.read_text() for path in paths] for paths in zip(*files, strict=True))
    if None in codes:
        raise TimeoutError(f"{tasks}: not within {LIMIT:g} s\n" + "\n".join(error[-3000:] for error in errors))
    return codes, outputs, errors


def _call(out: Path, err: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Call a function with its output in files, and end as a Python process of its own does."""
    for path, number in ((out, 1), (err, 2)):
        with path.open("ab") as file:  # several processes may write to it
            os.dup2(file.fileno(), number)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a data loader that starts the server blocks some there
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()


def _python(arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    from pytorch_lightning.strategies.launchers import subprocess_script

    subprocess_script.subprocess = types.SimpleNamespace(Popen=Forked)  # type: ignore[attr-defined]
    option, *rest = arguments
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    if option == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif option == "-c":
        sys.argv = [option, *rest[1:]]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(option))
        runpy.run_path(option, run_name="__main__")


class Forked:
    """A Python process with what Lightning asks of ``Popen``, forked as this one was; its output goes where ours does.

    Args:
        command: the interpreter, and arguments as those of ``python``.
        env: environment.
        cwd: working folder; by default the present one.
    """

    def __init__(self, command: list[str], env: dict[str, str], cwd: str | None = None) -> None:
        out, err = (Path(os.readlink(f"/proc/self/fd/{number}")) for number in (1, 2))
        given = (out, err, _python, (command[1:], cwd or os.getcwd(), dict(env)))
        self._process = multiprocessing.get_context("forkserver").Process(target=_call, args=given)
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, or ``None`` before the end."""
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        """The exit status, or ``None`` before the end."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.pid is not None and self.poll() is None:
            os.kill(self.pid, number)


def _rank(folder: Path, number: int, world: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=number, world_size=world)
    torch.save(function(*arguments), folder / f"result-{number}")
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def until(true: Callable[[], object], what: str, seconds: float = LIMIT) -> None:
    """Wait until something is true.

    Args:
        true: asked ten times a second.
        what: is waited for, for the message.
        seconds: after which it will never come true.

    Raises:
        TimeoutError: if it does not come true.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def wait_for(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until something is true that a process does; when that ends before, fail and tell what it said."""
    try:
        until(lambda: true() or process.poll() is not None, "what the process should do")
    except TimeoutError:
        process.kill()
        raise
    if not true():
        raise AssertionError(f"the process ended with {process.returncode}: {process.communicate()}")


def running(number: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
