"""The error that the user can mend: its message is one line."""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """A file or an option that the user gave is wrong; the message is one line that says how to mend it."""


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, as part of a sentence."""
    return f"{error.strerror or error}".lower()


def why_unreadable(path: str | Path, error: Exception) -> str:
    """Return what a file is that ``torch.load`` could not read, as part of a sentence.

    Args:
        path: of a file that is there.
        error: what torch raised; its words are about options of torch where the file is none of torch's.
    """
    import zipfile  # only where something is wrong: every command imports this file

    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "an empty file"
    if not zipfile.is_zipfile(path):
        return "a file that is cut short, or was not written by torch.save"
    return str(error).split("\n")[0] or type(error).__name__
