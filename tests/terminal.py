"""A command in a real terminal, in which Ctrl-C can be pressed."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from forked import Popen
from processes import LIMIT


class Terminal:
    """A process with a terminal of its own, whose text is collected.

    Args:
        command: what runs in it.
        folder: working folder.
        forked: whether it is forked from the warm server, see ``forked.Popen``. What it starts then has no part in
            the terminal: a command that starts processes by itself, and must end them, is not.
        environment: more of it.
    """

    def __init__(self, command: list[str], folder: Path, forked: bool = False, **environment: str) -> None:
        self._master, end = os.openpty()
        # the first program of a session with this terminal; a fork begins one by itself
        self._started = Popen(
            command if forked else ["setsid", "--ctty", *command],
            stdin=end, stdout=end, stderr=end, start_new_session=forked, cwd=folder, env=os.environ | environment,
        )  # fmt: skip
        os.close(end)
        self.process = self._started.pid
        self.text = ""

    def read(self) -> bool:
        """Take what was written; return whether there may be more."""
        if not select.select([self._master], [], [], LIMIT)[0]:
            raise TimeoutError(self.text)
        try:
            part = os.read(self._master, 4096)
        except OSError:  # the other end is closed
            return False
        self.text += part.decode(errors="replace")
        return bool(part)

    def wait_for(self, text: str) -> None:
        """Read until a text has come."""
        while text not in self.text:
            assert self.read(), self.text

    def press(self, *others: int) -> None:
        """Press Ctrl-C, which the terminal turns into SIGINT for all of its processes.

        Args:
            others: processes that were forked elsewhere, and cannot belong to this terminal.
        """
        os.write(self._master, b"\x03")
        for number in others:
            os.kill(number, signal.SIGINT)

    def close(self) -> None:
        """Close the terminal."""
        os.close(self._master)

    def kill(self) -> None:
        """End the process, if it is still there."""
        self._started.kill()

    def end(self) -> int:
        """Return the exit status, when all has been read."""
        while self.read():
            pass
        return self.status()

    def status(self) -> int:
        """Return the exit status."""
        return self._started.wait(LIMIT)
