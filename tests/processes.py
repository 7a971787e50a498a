"""Run a function in several processes that talk over gloo, and wait for what processes do."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT = 600.0
"""Seconds that a test waits for anything: only what hangs takes as long, however busy the machine is."""

RUN = """
import os, pickle, sys
from pathlib import Path
import torch
import torch.distributed as dist

folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
sys.path[:0] = pickle.loads((folder / "path").read_bytes())
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)
function, arguments = pickle.loads((folder / "task").read_bytes())
torch.save(function(*arguments), folder / f"result-{rank}")
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def run(function: Callable[..., Any], *arguments: Any, world: int = 2, timeout: float = LIMIT) -> list[Any]:
    """Call a function of a test module in ``world`` processes at once; return what each gave.

    Args:
        function: found by its module and name in the other processes; inside it ``torch.distributed`` is ready.
        arguments: picklable.
        world: processes; 1 runs it in a process of its own without a process group.
        timeout: seconds after which the processes are killed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "path").write_bytes(pickle.dumps(sys.path))
        (folder / "task").write_bytes(pickle.dumps((function, arguments)))
        words = [sys.executable, "-c", RUN, name]
        started = [
            subprocess.Popen([*words, str(number), str(world)], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
            for number in range(world)
        ]
        try:
            errors = [process.communicate(timeout=timeout)[1] for process in started]
        finally:
            for process in started:
                process.kill()
        told = "\n".join(error[-3000:] for process, error in zip(started, errors, strict=True) if process.returncode)
        assert all(process.returncode == 0 for process in started), told
        import torch

        return [torch.load(folder / f"result-{number}", weights_only=False) for number in range(world)]


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
