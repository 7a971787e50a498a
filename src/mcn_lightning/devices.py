"""Processes for several devices: each does its share, and none outlives the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from mcn_lightning.errors import InputError
from mcn_lightning.signals import Interrupted, interrupted_by, start_forkserver


def find_devices(device: str, devices: int | None) -> list[torch.device]:
    """Return the devices of encoders or of a model.

    Args:
        device: auto, cpu or cuda.
        devices: how many; by default all GPUs, or the CPU once.

    Raises:
        InputError: if there are fewer GPUs.
    """
    there = torch.cuda.device_count() if device != "cpu" else 0
    if device == "cuda" or there:
        count = devices or there
        if not 1 <= count <= there:
            raise InputError(f"--devices: expected at most the GPUs of this machine, found {count}, with {there} there")
        return [torch.device("cuda", index) for index in range(count)]
    return [torch.device("cpu")] * (devices or 1)


def run_on_devices(devices: Sequence[torch.device], work: Callable[..., None], *args: Any) -> None:
    """Do work with a process for each device, and wait for all of them.

    Args:
        devices: of the processes.
        work: a function of a module. It takes the number of its process, the devices and the arguments.
        *args: arguments of the work.

    Raises:
        InputError: the first that a process raised, or if one ended with another error.
        Interrupted: if a process was told to end.
    """
    # CUDA cannot be used in a process that is forked from this one; the server imports what all of them need once
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    start_forkserver()
    errors = context.SimpleQueue()
    # the server has the environment of its start
    tasks = [(errors, dict(os.environ), work, number, devices, *args) for number in range(len(devices))]
    processes = [context.Process(target=_run, args=task) for task in tasks]
    try:
        for process in processes:
            process.start()  # signals are blocked in it, as in the server: this process decides when the others end
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        raise
    if any(process.exitcode == 128 + signal.SIGTERM for process in processes):
        raise Interrupted(signal.SIGTERM)  # which comes to this process, too
    if not errors.empty():
        raise InputError(errors.get())
    if broken := [str(device) for device, process in zip(devices, processes, strict=True) if process.exitcode]:
        raise InputError(f"--devices: expected no error, found one on {' and '.join(broken)}; it is printed above")


def _run(errors: SimpleQueue[str], environment: dict[str, str], work: Callable[..., None], *args: Any) -> None:
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with interrupted_by(signal.SIGTERM):
            work(*args)
    except InputError as error:
        errors.put(str(error))
    except Interrupted as error:
        sys.exit(128 + error.number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
