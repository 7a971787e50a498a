"""Reading of text files, and atomic writing.

Text is UTF-8, with or without a byte order mark. For other content the error names its format and how to convert it.
A written file is complete or absent, whenever the process is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mcn_lightning.errors import InputError, one_line, os_reason

PARTIAL = ".partial"
"""Suffix of a file that is still being written. A killed process may leave one behind."""


def load_yaml(text: str, loader: str) -> Any:
    """Parse YAML by the fast loader where there is one. What it refuses, such as half a surrogate pair, Python's takes.

    Args:
        text: the file.
        loader: of PyYAML: SafeLoader or BaseLoader.

    Raises:
        yaml.YAMLError: if it is no YAML.
    """
    import yaml  # files that others read need it not

    if fast := getattr(yaml, f"C{loader}", None):
        with suppress(yaml.YAMLError):
            return yaml.load(text, fast)
    return yaml.load(text, getattr(yaml, loader))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside a file, and rename it to the file when the block ends.

    The content reaches the disk before the new name does. If the block raises, the old file stays. Only one process at
    a time may use it: the temporary path is the name of the file followed by ``.partial``.

    Example:
        >>> with replacing(Path("run.json")) as partial:
        ...     partial.write_text("{}")

    Args:
        path: the file, which need not exist, in a folder that exists.

    Raises:
        OSError: if the temporary file cannot be written or renamed.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)
        # made here for its permissions, which are those of any new file of the user
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        partial.chmod(mode)  # safetensors makes files that only their owner may read
        # before the rename: after a power failure the new name could else have no content
        _to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)  # the rename itself, which is an entry of the folder


@contextmanager
def writing(what: str, advice: str = "give another file") -> Iterator[None]:
    """Report an error of the operating system in the block in one line.

    Args:
        what: the option and the path that is written.
        advice: what to do instead.

    Raises:
        InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: expected to write there, found {os_reason(error)}; {advice}") from None


@contextmanager
def reading(path: str | Path, what: str, *kinds: type[Exception], advice: str = "get the file again") -> Iterator[None]:
    """Report a file that cannot be read in the block in one line.

    Args:
        path: of the file.
        what: what it should hold, such as "the coordinates of a map".
        *kinds: errors that damaged contents raise.
        advice: what to do about it.

    Raises:
        InputError: in place of an OSError and of these errors. One that is raised in the block passes unchanged.
    """
    errors: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except InputError:
        raise
    except errors as error:
        found = os_reason(error) if isinstance(error, OSError) else f"a damaged file ({one_line(error)})"
        if isinstance(error, FileNotFoundError | IsADirectoryError):
            found = "no file" if isinstance(error, FileNotFoundError) else "a folder"
        raise InputError(f"{path}: expected {what}, found {found}; {advice}") from None


@contextmanager
def making_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside a folder, and rename it to the folder when the block ends.

    Several processes may make the same folder: the first one to finish wins. Temporary folders of killed processes of
    this host are removed.

    Args:
        path: the folder, which must not exist or be empty when the block ends.

    Raises:
        OSError: if the temporary folder cannot be made or renamed, or another process was faster.
    """
    # every node has its own names, as the first process of each may write to one disk
    prefix = f"{path.name}{PARTIAL}-{socket.gethostname()}-"
    for left in list(path.parent.iterdir()) if path.parent.is_dir() else ():
        process = left.name.removeprefix(prefix)
        if left.name.startswith(prefix) and process.isdecimal() and not _is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    partial = path.with_name(f"{prefix}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    # the name may be taken by an earlier process with the same number, on a host that restarted
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)  # this also replaces an empty folder
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        # signal 0 is not delivered: it only asks whether the process exists
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # a process of another user, or not a process number
        pass
    return True


def _to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, have reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_MAGIC = (
    (b"\x1f\x8b", "a gzip file", "unpack it with gunzip"),
    (b"PK\x03\x04", "a zip file", "unpack it"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "save what it holds as text"),
    (b"\x93NUMPY", "a NumPy array", "save what it holds as text"),
    (b"%PDF", "a PDF", "save what it holds as text"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file", "unpack it"),
    (b"BZh", "a bzip2 file", "unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "an xz file", "unpack it with unxz"),
    (b"PAR1", "a Parquet file", "save what it holds as text"),
    # protocols 0 and 1 have no mark; torch.save and pickle write 2 to 5
    *((b"\x80" + bytes([protocol]), "a pickle", "name it .pickle") for protocol in range(2, 6)),
)
_WIDE = (
    # UTF-32 first: its mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
_CONTROL = bytes({*range(32)} - {*b"\t\n\r\f\v\x1b"}) + b"\x7f"


def read_through(path: Path) -> None:
    """Read a file once, so that the system keeps it in memory as long as there is room."""
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def binary_form(head: bytes) -> tuple[str, str] | None:
    """Return the binary format of a file by its first bytes, and what to do with it.

    Args:
        head: at least 8 bytes, where the file has them.

    Returns:
        For instance "a gzip file" and "unpack it with gunzip"; ``None`` for no known format.
    """
    return next(((name, advice) for magic, name, advice in _MAGIC if head.startswith(magic)), None)


def read_text(path: Path, what: str) -> str:
    r"""Read a text file in UTF-8, without its byte order mark and with ``\n`` at the end of each line.

    Args:
        path: the file.
        what: what it should be, for messages: "a list of videos".

    Raises:
        InputError: if it is missing, cannot be read, or is not text in UTF-8.
    """
    with reading(path, what, advice="check the path"):
        content = path.read_bytes()
    return decode_text(content, path, what)


def decode_text(content: bytes, path: Path, what: str) -> str:
    r"""Decode the content of a text file; see ``read_text``.

    Args:
        content: all bytes of the file.
        path: of the file, for messages.
        what: what it should be, for messages.

    Raises:
        InputError: if they are not text in UTF-8; the message names the first byte that is not.
    """
    try:
        # zero is a valid letter of UTF-8, but only binary files and UTF-16 have it
        if b"\x00" not in content:
            text = content.decode("utf-8-sig")
            text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
            return text.replace("\n\ufeff", "\n")  # marks inside the text come from files that were concatenated
        position = content.index(b"\x00")
    except UnicodeDecodeError as error:
        position = error.start  # utf-8-sig counts from after the byte order mark
        if content.startswith(b"\xef\xbb\xbf"):
            position += 3
    raise InputError(f"{path}: expected {what}, as text in UTF-8, found {_other_text(content, position, path)}")


def _other_text(content: bytes, position: int, path: Path) -> str:
    """Describe bytes that are not UTF-8, and say what to do."""
    if (known := binary_form(content[:16])) is not None:
        return f"{known[0]}: {known[1]}"
    wide = next((name for mark, name in _WIDE if content.startswith(mark)), None) or _wide_ascii(content[:1000])
    if wide is not None:
        return f"{wide}: convert it with 'iconv -f {wide} -t UTF-8 {path} > NEW'"
    line = content.count(b"\n", 0, position) + 1
    where = f"byte 0x{content[position]:02x} at position {position} in line {line}"
    if any(byte in _CONTROL for byte in content):
        return f"binary data ({where}): check the path"
    # a letter that is cut off at the end of the file looks like another encoding, but the rest was UTF-8
    rest, before = content[position:], content[:position].removeprefix(b"\xef\xbb\xbf")
    if rest[0] >= 0xC2 and len(rest) < 4 and not before.isascii() and all(0x80 <= byte < 0xC0 for byte in rest[1:]):
        return f"{where}, with which a letter begins and the file ends: it is cut short, get it again"
    name, code = ("Windows-1252", "CP1252") if any(0x80 <= byte < 0xA0 for byte in content) else ("Latin-1", "LATIN1")
    return f"{where}: another encoding, perhaps {name}: convert it with 'iconv -f {code} -t UTF-8 {path} > NEW'"


def _wide_ascii(head: bytes) -> str | None:
    """Return the byte order of UTF-16 without a mark: in it every second byte of ASCII text is zero."""
    for zeros, letters, name in ((head[1::2], head[::2], "UTF-16LE"), (head[::2], head[1::2], "UTF-16BE")):
        # 0.8 leaves room for letters beyond ASCII
        if zeros and zeros.count(0) > 0.8 * len(zeros) and not any(byte == 0 or byte in _CONTROL for byte in letters):
            return name
    return None


def read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a text file, stripped of white space; see ``read_text``."""
    return [line.strip() for line in read_text(path, what).split("\n")]


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: the file, in UTF-8.
        what: what it should hold, for messages.

    Raises:
        InputError: if it is missing or unreadable, not text in UTF-8, or not JSON from its start to its end.
    """
    text = read_text(path, what)
    try:
        return json.loads(text)
    # RecursionError: brackets in brackets, thousands deep
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected {what}, found no whole JSON ({error}): get the file again") from None
