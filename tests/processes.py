"""Run a function in several processes that talk over gloo, and wait for what processes do."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import Popen, begin

LIMIT = 600.0
"""Seconds that a test waits for anything: only what hangs takes as long, however busy the machine is."""


def python(
    *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments such as ``-m mcn_lightning fit`` or ``-c CODE``; return its output and status.

    The process is forked, see ``forked.Popen``.

    Args:
        arguments: ``-m`` or ``-c`` and its value, or a script; then what ``sys.argv`` holds after the first.
        cwd: working folder; by default the present one.
        env: environment; by default the present one.
    """
    command = [sys.executable, *(str(argument) for argument in arguments)]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired as error:
            process.kill()
            err.seek(0)
            raise TimeoutError(f"{command}: not within {LIMIT:g} s\n{err.read()[-3000:]}") from error
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


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
        started = [_start(folder, rank, world, function, arguments) for rank in range(world)]
        end = time.monotonic() + LIMIT
        try:
            for process in started:
                process.join(max(0.0, end - time.monotonic()))
            codes = [process.exitcode for process in started]
        finally:
            for process in started:
                process.kill()
                process.join()
        errors = [(folder / f"errors-{rank}").read_text()[-3000:] for rank in range(world)]
        if None in codes:
            raise TimeoutError(f"{function.__name__}: not within {LIMIT:g} s\n" + "\n".join(errors))
        assert not any(codes), "\n".join(error for code, error in zip(codes, errors, strict=True) if code)
        return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(world)]


def _start(folder: Path, number: int, *given: Any) -> multiprocessing.context.ForkServerProcess:
    """Start a process of ``run``."""
    process = multiprocessing.get_context("forkserver").Process(target=_call, args=(folder, number, *given))
    process.start()
    return process


def _call(folder: Path, number: int, *given: Any) -> None:
    """Call a function with its output in files, and end as a Python process of its own does."""
    names = (os.devnull, folder / f"output-{number}", folder / f"errors-{number}")
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    begin([os.open(name, flags) for name in names])
    try:
        _rank(folder, number, *given)
    finally:
        atexit._run_exitfuncs()


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


def left(mark: Path) -> list[int]:
    """Return the processes that a command has left, told by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MARK={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
