"""The error for wrong input, and the parts of sentences that its messages share."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """A file or an option of the user is wrong. The message is one line: what was expected and found, what to do."""


def check_rules(*rules: tuple[object, str]) -> None:
    """Check several rules of the options of one group.

    Args:
        *rules: whether the rule is broken, and the message if so.

    Raises:
        InputError: with the message of the first rule that is broken.
    """
    for broken, message in rules:
        if broken:
            raise InputError(message)


def need_package(module: str, where: str, install: str, what: str | None = None) -> None:
    """Refuse an option whose package is missing, without loading the package.

    Args:
        module: of the package.
        where: the option or the file that needs it.
        install: what to do, as "pip install av".
        what: the package by its other name, or with what it is for; ``None`` for the module's name.

    Raises:
        InputError: if it is missing.
    """
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{where}: expected the package {what or module}, found none; {install}")


@contextmanager
def naming(name: str, kind: type[ValueError] = InputError) -> Iterator[None]:
    """Put a name before the message of an error in the block, which keeps its class if it is an ``InputError``.

    Args:
        name: of the option, the file or the item.
        kind: class of the errors.

    Raises:
        InputError: in place of the error.
    """
    try:
        yield
    except kind as error:
        raise (type(error) if isinstance(error, InputError) else InputError)(f"{name}: {error}") from None


def one_line(error: BaseException) -> str:
    """Return the text of an error in one line; the name of its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """Return the first line of the text of an error, where libraries say most; the name of its class if it has none."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def os_reason(error: OSError) -> str:
    """Return the operating system's reason of an error, as part of a sentence."""
    return f"{error.strerror or error}".lower()


def why_unreadable(path: str | Path, error: Exception) -> str:
    """Return why ``torch.load`` could not read a file, as part of a sentence.

    Args:
        path: of a file that exists.
        error: what torch raised. Its text is used last: for a file of another format it speaks of options of torch.
    """
    import zipfile  # imported here, as every command imports this file and few need it

    # asked first: an empty file is no zip file either, and this reason says more
    if Path(path).is_file() and Path(path).stat().st_size == 0:
        return "an empty file"
    if not zipfile.is_zipfile(path):
        return "a file that is cut short, or was not written by torch.save"
    return first_line(error)
