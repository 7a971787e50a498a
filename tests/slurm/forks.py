"""Python for the jobs of a cluster whose processes are forked from a warm one: a cold start takes longer than a run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from forked import Popen

COLD = "COLD_START"
"""With this in its environment, the first start of a job is no fork."""


class Forks:
    """Fork what jobs start with ``python``, a script in a folder, while that folder is there.

    A fork has the files, the environment and the folder of the process that it stands for. It and what it starts are
    a group of processes, to which each signal goes, as SLURM does. It is killed when that process is.
    """

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python"
        own, cold = shlex.quote(sys.executable), f'[ -n "${{{COLD}:-}}" ] && [ -z "${{SLURM_RESTART_COUNT:-}}" ]'
        relay = shlex.join([sys.executable, "-IS", str(Path(__file__).with_name("relay.py")), str(folder / "forks")])
        self.python.write_text(f'#!/bin/sh\nif {cold}; then exec {own} "$@"; fi\nexec {relay} "$@"\n')
        self.python.chmod(0o755)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "forks"))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Fork no more; those that run end with their jobs."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=_serve, args=self._listener.accept()[:1], daemon=True).start()


def _serve(relay: socket.socket) -> None:
    """Run what a process asks for, and hand on its signals."""
    with relay:
        size, files, _, _ = socket.recv_fds(relay, 8, 3)
        words, cwd, env = json.loads(relay.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        process = Popen(
            [sys.executable, *words], stdin=files[0], stdout=files[1], stderr=files[2], cwd=cwd, env=env,
            process_group=0,
        )  # fmt: skip
        for file in files:
            os.close(file)
        threading.Thread(target=_report, args=(process, relay), daemon=True).start()
        with suppress(OSError):  # it has ended
            while signals := relay.recv(64):
                for number in signals:
                    os.killpg(process.pid, number)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _report(process: Popen, relay: socket.socket) -> None:
    code = process.wait()
    with suppress(OSError):  # it has been killed
        relay.sendall(bytes([code if code >= 0 else 128 - code]))
