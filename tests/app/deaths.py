"""What a process of the app does in tests that end it. It is imported there."""

from __future__ import annotations

import os
import signal
import time

from mcn_lightning.errors import InputError


def end_badly(task: str, path: str) -> str:
    """Die, hang, refuse, or return the path."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(10_000)
    if task == "refuse":
        raise InputError(f"{path}: expected a video, found none")
    if task == "fill":
        return str(len(bytearray(1 << 40)))
    return path
