"""Running of tasks one after another, each in a process of its own."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

from mcn_lightning.commands.ablate.past import PastRuns
from mcn_lightning.commands.ablate.tasks import Task
from mcn_lightning.errors import InputError
from mcn_lightning.signals import handled_signals, take_early_signal


class Runner:
    """Runs tasks one after another, each in a process of its own.

    On Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 it stops once the current run has saved its state. In a SLURM job, SIGUSR1
    also counts before the first run. Running the same tasks again continues from there.

    Args:
        past: the earlier runs.
    """

    def __init__(self, past: PastRuns) -> None:
        self.past = past
        self._received = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._spent: list[float] = []  # seconds

    def run(self, tasks: Sequence[Task]) -> int:
        """Run the unfinished tasks, and return the exit status: 1 if one failed, 128 + signal if stopped, else 0."""
        todo, refused = [], []
        for task in tasks:
            try:
                folder = self.past.finished(task)
            except InputError as error:
                refused.append(task)
                print(f"failed: {task.title}: {error}", file=sys.stderr)
                continue
            if folder is None:
                todo.append(task)
            else:
                print(f"{task.title}: finished already in {folder}, left out")
        former = {number: signal.signal(number, self._handle_signal) for number in handled_signals()}
        self._received = self._received or take_early_signal()
        try:
            return self._each(todo, refused, alone=len(tasks) == 1)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _each(self, todo: Sequence[Task], refused: Sequence[Task], alone: bool) -> int:
        failed = list(refused)
        for count, task in enumerate(todo):
            if self._received:
                return self._stopped(f"before {task.title}")
            print(f"[{count + 1}/{len(todo)}] {task.title}{self._left(len(todo) - count)}", flush=True)
            log = None if alone else self.past.log_folder(task) / task.file.stem / f"seed_{task.seed}.log"
            begin = time.monotonic()
            status = self._one(task.command(self.past.can_resume(task)), log)
            self._spent.append(time.monotonic() - begin)
            if self._received:
                return self._stopped(f"in {task.title}")
            if status:
                failed.append(task)
                print(f"failed: {task.title}, exit status {status}{_last_line(log)}", file=sys.stderr)
        done = len(todo) + len(refused) - len(failed)
        print(f"{done} of {len(todo)} runs done in {_time(sum(self._spent))}" if todo else "nothing left to run")
        if failed:
            print("failed: " + "; ".join(task.title for task in failed), file=sys.stderr)
        return 1 if failed else 0

    def _stopped(self, where: str) -> int:
        name = signal.Signals(self._received).name
        print(f"stopped by {name} {where}; the same command goes on from here", file=sys.stderr)
        return 128 + self._received

    def _one(self, command: Sequence[str], log: Path | None) -> int:
        if log is None:
            return self._wait(command, None)
        log.parent.mkdir(parents=True, exist_ok=True)
        # appended, as a task may be resumed several times
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            # before the run writes to the same file by its descriptor
            file.flush()
            return self._wait(command, file)

    def _wait(self, command: Sequence[str], output: IO[bytes] | None) -> int:
        self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if self._process is not None and number != signal.SIGINT:  # the terminal sends Ctrl-C to the run as well
            self._process.send_signal(number)

    def _left(self, runs: int) -> str:
        return f"; about {_time(sum(self._spent) / len(self._spent) * runs)} left" if self._spent else ""


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    lines = log.read_bytes().decode(errors="replace").strip().splitlines()
    return f" ({lines[-1]}); all of it in {log}"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
