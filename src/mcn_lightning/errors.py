"""The error that the user can mend: its message is one line."""

from __future__ import annotations


class InputError(ValueError):
    """A file or an option that the user gave is wrong; the message is one line that says how to mend it."""


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, as part of a sentence."""
    return f"{error.strerror or error}".lower()
