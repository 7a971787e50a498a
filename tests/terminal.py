"""A command in a real terminal, in which Ctrl-C can be pressed."""

from __future__ import annotations

import os
import pty
import select
from pathlib import Path

from processes import LIMIT, until


class Terminal:
    """A process with a terminal of its own, whose text is collected."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        self.process, self._master = pty.fork()
        if self.process == 0:
            os.chdir(folder)  # in which nohup leaves a file
            os.execvpe(command[0], command, os.environ | environment)
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

    def press(self) -> None:
        """Press Ctrl-C, which the terminal turns into SIGINT for all of its processes."""
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """Close the terminal."""
        os.close(self._master)

    def end(self) -> int:
        """Return the exit status, when all has been read."""
        while self.read():
            pass
        return self.status()

    def status(self) -> int:
        """Return the exit status."""
        ended: list[int] = []

        def over() -> bool:
            number, status = os.waitpid(self.process, os.WNOHANG)
            if number:
                ended.append(status)
            return bool(number)

        until(over, "the end of the process")
        return os.waitstatus_to_exitcode(ended[0])
