"""What the parsers of all commands have in common."""

from __future__ import annotations

import sys
from typing import NoReturn

from jsonargparse import ArgumentParser


class OneLineErrors:
    """Of a parser whose errors are one line, without pages of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the command with the message."""
        sys.exit("error: " + " ".join(message.split()))


class CommandParser(OneLineErrors, ArgumentParser):
    """The parser of the commands without a trainer."""
