"""Stored arrays of features: ``.npz`` and ``.npy`` files, memory-mapped where possible, and checks of their numbers.

A video is far longer than a clip. NumPy's ``savez`` does not compress, so only the rows that a clip uses are read.
"""

from __future__ import annotations

import math
import mmap
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.batch import AbsentError
from mcn_lightning.errors import InputError, one_line

Shape = tuple[int | str, ...]
"""Expected size of each dimension. A name, such as "rows", stands for any size of at least 1."""
# what NumPy, zipfile and mmap raise for files that are cut short or overwritten
_DAMAGED = (OSError, EOFError, ValueError, TypeError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def feature_file(stem: Path) -> Path:
    """Return the feature file of a path without its suffix: ``.npz`` if that file exists, else ``.npy``.

    Args:
        stem: the path. One that ends in ``.npz`` or ``.npy`` is returned as it is.
    """
    if stem.suffix in (".npz", ".npy"):
        return stem
    stored = stem.with_name(f"{stem.name}.npz")
    single = stem.with_name(f"{stem.name}.npy")
    # the .npz file where neither exists, as the message should name the release's form
    return single if not stored.is_file() and single.is_file() else stored


def read_array(path: Path, key: str, shape: Shape) -> Tensor:
    """Read one floating-point array of an ``.npz`` file, or the array of an ``.npy`` file. Nothing is unpickled.

    Args:
        path: the file.
        key: name of the array in an ``.npz`` file.
        shape: expected shape.

    Returns:
        The array as a tensor of its stored precision.

    Raises:
        InputError: if the file is missing or damaged, has no such array, or the array is empty, of another shape, or
            does not hold floating-point numbers.
    """
    try:
        array = _map_single(path) if path.suffix == ".npy" else _map_array(path, key)
    except (KeyError, *_DAMAGED) as error:
        raise _unreadable(path, key, error) from None
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:  # torch has no long double
        raise InputError(f"{path}: expected '{key}' to hold floating-point numbers, found {array.dtype}")
    if array.size == 0:
        raise InputError(f"{path}: expected at least one row in '{key}', found an empty array {array.shape}")
    values = torch.from_numpy(array)
    check_shape(values, shape, f"{path}: expected {key}")
    return values


def _unreadable(path: Path, key: str, error: Exception) -> InputError:
    """Return the error for a feature file that cannot be read."""
    single = path.suffix == ".npy"
    if isinstance(error, FileNotFoundError):
        other = "" if single else f", nor {path.stem}.npy"
        return AbsentError(f"{path}: expected a feature file with the array '{key}', found no file{other}")
    if isinstance(error, KeyError):
        return InputError(f"{path}: expected the array '{key}', found {error.args[0]}")
    reason = one_line(error)
    found = f"a damaged one ({reason})"
    if "Python objects" in reason or "Object arrays" in reason:  # NumPy's message for what only a pickle can hold
        found = "an array of Python objects, which may run code: save numbers, np.asarray(rows, dtype='float32')"
    expected = "a whole .npy file" if single else f"a whole .npz file with '{key}'"
    return InputError(f"{path}: expected {expected}, found {found}")


def _map_single(path: Path) -> np.ndarray:
    """Memory-map the array of an ``.npy`` file."""
    with open(path, "rb") as file:  # without this check, np.load would also accept a zip archive or a pickle
        np.lib.format.read_magic(file)
    # copy-on-write: torch wants an array that may be written to
    array = np.load(path, mmap_mode="c" if path.stat().st_size else None, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _map_array(path: Path, key: str) -> np.ndarray:
    """Memory-map one array of an ``.npz`` file. A compressed one, or one of another layout, is read whole."""
    with zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            raise KeyError([name.removesuffix(".npy") for name in archive.namelist()])
        # the central directory does not say where the data begin: the local header may be longer
        entry = archive.getinfo(f"{key}.npy")
        if entry.compress_type == zipfile.ZIP_STORED:
            with open(path, "rb") as file:
                file.seek(entry.header_offset)
                head = file.read(30)  # the fixed part of a zip member's header ends with the lengths of two fields
                file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
                begin = file.tell()
                shape, fortran, dtype = _read_header(file)
                # in a damaged file header and archive may disagree: a map would then read other bytes
                whole_array = file.tell() - begin + dtype.itemsize * math.prod(shape) == entry.file_size
                if whole_array and not fortran and dtype.kind == "f" and dtype.isnative and min(shape, default=1) > 0:
                    # copy-on-write: torch wants an array that may be written to
                    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                    return np.ndarray(shape, dtype, buffer=whole, offset=file.tell())
        with archive.open(entry) as member:
            array = np.lib.format.read_array(member, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"NumPy format version {version}")


def as_float_tensor(value: object, expected: str) -> Tensor:
    """Return an array of floating-point numbers as a tensor.

    Args:
        value: a NumPy array or a tensor.
        expected: start of the message: the place and what is expected there.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize <= 8:
        # torch takes neither another byte order nor memory that is read-only
        native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        return torch.from_numpy(native if native.flags.writeable else native.copy())
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach()
    dtype = getattr(value, "dtype", None)
    raise InputError(f"{expected}, found a {type(value).__name__}" if dtype is None else f"{expected}, found {dtype}")


def check_shape(values: Tensor, shape: Shape, expected: str, empty: bool = False) -> None:
    """Refuse a tensor of another shape.

    Args:
        values: the tensor.
        shape: expected shape.
        expected: start of the message: the place and what is expected there.
        empty: a size that has a name may be 0.

    Raises:
        InputError: if the number of dimensions or a size differs.
    """
    sizes = zip(values.shape, shape, strict=False)
    fits = all(found == size if isinstance(size, int) else found > 0 or empty for found, size in sizes)
    if values.ndim != len(shape) or not fits:
        wanted = f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"
        raise InputError(f"{expected} of shape {wanted}, found {tuple(values.shape)}")


def all_finite(values: Tensor) -> bool:
    """Tell whether no number is NaN or infinite. Comparing bits is ten times faster than ``isfinite``."""
    size = values.element_size()
    bits = values.numpy().view(f"i{size}")
    infinity = torch.tensor(float("inf"), dtype=values.dtype).numpy().view(f"i{size}")
    # as signed integers, non-finite numbers lie above all others; as unsigned ones, so do negative non-finite numbers
    return bool(bits.max() < infinity and bits.view(f"u{size}").max() < infinity.view(f"u{size}") + (1 << 8 * size - 1))


def check_finite(values: Tensor, expected: str) -> None:
    """Refuse NaN and infinity.

    Args:
        values: any floating-point numbers.
        expected: start of the message: the place and what is expected there.

    Raises:
        InputError: with the count of such numbers.
    """
    if values.numel() and not all_finite(values):
        raise InputError(f"{expected}, found {int((~values.isfinite()).sum())} NaN or infinite")


def check_clip_finite(window: Tensor, start: float, end: float) -> None:
    """Refuse NaN and infinity in the rows or frames of a clip from ``start`` to ``end``, in seconds."""
    check_finite(window, f"expected finite numbers in the clip {start:.2f} to {end:.2f} s")
