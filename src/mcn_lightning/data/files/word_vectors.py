"""Reading the vectors of some words from a word-vector file of millions."""

from __future__ import annotations

import gzip
import mmap
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.files import binary_form, reading


class _Lines(Protocol):
    def readline(self) -> bytes: ...


def vector_width(path: Path) -> int:
    """Return the width of the vectors of a word-vector file, from its first line.

    Args:
        path: as in ``read_word_vectors``.

    Raises:
        InputError: if the file is missing or does not begin as a word-vector file.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            # bounded: a binary file may have no line break for gigabytes
            fields = file.readline(1_000_000).split()
        # "words width", or a word and its numbers
        return int(fields[1]) if len(fields) == 2 else len([float(number) for number in fields[1:]]) or int("")
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        found = "none" if isinstance(error, FileNotFoundError) else "another beginning"
        raise InputError(f"{path}: expected a word-vector file, found {found}; check the path") from None


def read_word_vectors(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    """Read the vectors of some words.

    A word2vec binary file is memory-mapped, and only the wanted rows are copied. A ``.gz`` file is unpacked into
    memory. A text file has a word and its numbers on each line. A first line with their counts is optional.

    Args:
        path: ``.bin`` or ``.bin.gz`` for the binary format, any other suffix for text, with or without ``.gz``.
        wanted: words to look for. Case counts.

    Returns:
        The words that were found, in the order of the file, and their vectors ``(words, E)`` float32.

    Raises:
        InputError: if the file is missing, cut short or not in the format.
    """
    with reading(path, "a word-vector file", EOFError, zlib.error, advice="check --data.text.source"):
        binary = path.name.endswith((".bin", ".bin.gz"))
        words, vectors = _read_binary(path, wanted) if binary else _read_text(path, wanted)
    if not np.isfinite(vectors).all():
        word = words[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
        raise InputError(f"{path}: expected finite numbers, found NaN or infinity in the vector of '{word}'")
    return words, vectors


def first_words(path: Path, count: int) -> list[str]:
    """Return the first words of a word-vector file, which are the most frequent ones in the usual files.

    Args:
        path: as in ``read_word_vectors``.
        count: words at most; an entry that cannot be read ends the list.

    Raises:
        OSError: if the file cannot be read.
    """
    found: list[str] = []
    if path.name.endswith((".bin", ".bin.gz")):
        with _mapped(path) as data:
            position = data.find(b"\n", 0, 100) + 1
            counts = data[:position].split()
            entries = _Entries(data, int(counts[1]))
            for _ in range(min(count, int(counts[0]) - 1)):
                word, numbers = entries.split(position, last=False)
                if numbers < 0:
                    break
                position = numbers + entries.size
                found.append(word.decode(errors="replace"))
        return found
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        line = _read_counts(path, file)[2]
        while line.strip() and len(found) < count:
            found.append(line.split(None, 1)[0].decode(errors="replace"))
            line = file.readline()
    return found


@contextmanager
def _mapped(path: Path) -> Iterator[bytes | mmap.mmap]:
    if path.suffix == ".gz":
        with gzip.open(path) as packed:
            yield packed.read()
    elif path.stat().st_size == 0:
        yield b""
    else:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _read_binary(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    wanted_bytes = {word.encode() for word in wanted}
    # bytes are compared: decoding three million words would take longer than reading them
    with _mapped(path) as data:
        position = data.find(b"\n", 0, 100) + 1
        counts = data[:position].split()
        if len(counts) != 2 or not all(count.isdigit() for count in counts):
            form = _describe_form(data[:100], "text or another form")
            raise InputError(f"{path}: expected a first line with the counts of words and numbers, found {form}")
        count, dim = int(counts[0]), int(counts[1])
        entries = _Entries(data, dim)
        found: dict[bytes, np.ndarray] = {}
        for number in range(count):
            word, numbers = entries.split(position, last=number == count - 1)
            if numbers < 0 or numbers + entries.size > len(data):
                raise InputError(f"{path}: expected {count} words, found {number}: the file is cut short")
            position = numbers + entries.size
            if word in wanted_bytes and word not in found:
                # a word may occur twice: the first one counts
                found[word] = np.frombuffer(data[numbers:position], "<f4")
        if data[position : position + 100].strip():
            extra = len(data) - position
            raise InputError(f"{path}: expected {count} words of {dim} numbers, found {extra} bytes after them")
    return _as_table(found, dim)


class _Entries:
    """Splits each entry of a binary file into the word and its numbers, which a space separates.

    A word may itself hold spaces ("New York"). It ends at the first space that is followed by plausible numbers of a
    vector. If there is no such space, it ends at the first one.

    Args:
        data: the whole file.
        dim: numbers of a vector.
    """

    def __init__(self, data: bytes | mmap.mmap, dim: int) -> None:
        self.data = data
        self.size = 4 * dim

    def split(self, position: int, last: bool) -> tuple[bytes, int]:
        """Return the word of the entry at a position, and the position of its numbers, -1 if there is no space."""
        data = self.data
        if data[position : position + 1] == b"\n":  # some writers end each vector with a line break
            position += 1
        first = space = data.find(b" ", position)
        if first < 0 or self._plausible(first + 1):
            return data[position:first], first + 1 if first >= 0 else -1
        while 0 <= (space := data.find(b" ", space + 1)) <= position + _MAX_WORD:
            if not _is_word(data[position:space]):
                break
            if self._plausible(space + 1) and self._continues(space + 1 + self.size, last):
                return data[position:space], space + 1
        return data[position:first], first + 1

    def _plausible(self, position: int) -> bool:
        """Tell whether the numbers at a position have the size of usual vectors. Letters there would be far larger."""
        return not self.data[position + 3 : position + min(self.size, 128) : 4].translate(None, _EXPONENTS)

    def _continues(self, end: int, last: bool) -> bool:
        """Tell whether another word begins at a position, or the file ends there after the last vector."""
        if end > len(self.data) or last:
            return end <= len(self.data) and not self.data[end : end + 100].strip()
        end += self.data[end : end + 1] == b"\n"
        return _is_word(self.data[end : self.data.find(b" ", end)])


_MAX_WORD = 256  # bytes of a word with spaces
_EXPONENTS = bytes(sign + high for sign in (0, 128) for high in (0, *range(0x28, 0x48)))
"""High bytes of a float32 of 0, or of 1e-13 to 1e5."""
_CONTROL = bytes(range(32)) + b"\x7f"


def _is_word(word: bytes) -> bool:
    """Tell whether bytes are text without control characters."""
    if word.isalnum():  # true for ASCII only, and much faster than the test below
        return True
    try:
        return bool(word) and word.translate(None, _CONTROL) == word and bool(word.decode())
    except UnicodeDecodeError:
        return False


def _read_text(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    wanted_bytes = {word.encode() for word in wanted}
    found: dict[bytes, np.ndarray] = {}
    lines = 0
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        count, dim, line = _read_counts(path, file)
        if count is not None and line.strip() and not _is_word(line.strip().replace(b"\t", b" ")):
            raise InputError(f"{path}: expected {count} words as text, found binary numbers: name it .bin")
        # a while loop over readline, as the first line was read to learn the width
        while line:
            if not line.strip():  # a blank line, as at the end
                line = file.readline()
                continue
            lines += 1
            word = line.split(None, 1)[0]
            # counting spaces is faster than splitting millions of lines
            if line.count(b" ") < dim and (fields := len(line.split())) <= dim:
                raise InputError(f"{path}: expected a word and {dim} numbers in entry {lines}, found {fields} fields")
            if word in wanted_bytes and word not in found and len(line.split()) <= dim + 1:  # more: a word with spaces
                found[word] = _numbers(path, line, dim, lines)
            line = file.readline()
    if count is not None and lines != count:
        raise InputError(f"{path}: expected {count} words, found {lines}: the file is cut short or mended by hand")
    return _as_table(found, dim)


def _read_counts(path: Path, file: _Lines) -> tuple[int | None, int, bytes]:
    """Return the number of words (``None`` if no first line gives it), the width, and the first line of a vector."""
    line = file.readline().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    fields = line.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        return int(fields[0]), int(fields[1]), file.readline()
    if len(fields) < 2:
        form = _describe_form(line[:100], repr(line[:40]))
        raise InputError(f"{path}: expected a word and its numbers on each line, found {form}")
    return None, len(fields) - 1, line


def _describe_form(head: bytes, unknown: str) -> str:
    """Describe a file that does not begin as word vectors do, and what to do with it."""
    if head.startswith(_FASTTEXT):
        return "a model of fastText: save its words and their vectors as text (.vec)"
    if (form := binary_form(head)) is not None:
        return f"{form[0]}: {form[1]}"
    return f"{unknown}: name word2vec's binary form .bin, and text .txt or .vec" if head else "an empty file"


_FASTTEXT = (793712314).to_bytes(4, "little")  # first number of fastText's binary models


def _numbers(path: Path, line: bytes, dim: int, number: int) -> np.ndarray:
    try:
        return np.array(line.split()[-dim:], dtype=np.float32)
    except ValueError:
        raise InputError(f"{path}: expected a word and {dim} numbers in entry {number}, found {line[:40]!r}") from None


def _as_table(found: dict[bytes, np.ndarray], dim: int) -> tuple[list[str], np.ndarray]:
    table = np.stack(list(found.values())) if found else np.zeros((0, dim), dtype=np.float32)
    return [word.decode() for word in found], table.astype(np.float32)
