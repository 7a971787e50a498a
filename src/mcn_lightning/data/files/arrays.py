"""Stored arrays of features: ``.npz`` and ``.npy`` files, memory-mapped where possible, and checks of their numbers.

A video is far longer than a clip. NumPy's own ``savez`` does not compress, so only the rows that a clip uses are read.
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
from mcn_lightning.errors import InputError

_DAMAGED = (OSError, EOFError, ValueError, TypeError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


def feature_file(stem: Path) -> Path:
    """Return the file of features that a path without its ending means: ``.npz`` where there is one, else ``.npy``.

    Args:
        stem: the path; one that ends in ``.npz`` or ``.npy`` already is returned as it is.
    """
    if stem.suffix in (".npz", ".npy"):
        return stem
    stored = stem.with_name(f"{stem.name}.npz")
    single = stem.with_name(f"{stem.name}.npy")
    return single if not stored.is_file() and single.is_file() else stored


def read_array(path: Path, key: str) -> Tensor:
    """Read one floating-point array of an ``.npz`` file, or the one of an ``.npy`` file, never unpickling anything.

    Args:
        path: the file.
        key: name of the array in an ``.npz`` file.

    Returns:
        The array as a tensor of its stored shape and precision.

    Raises:
        InputError: if the file is missing or damaged, has no such array, or the array is empty or not of numbers.
    """
    single = path.suffix == ".npy"
    try:
        array = _map_single(path) if single else _map_array(path, key)
    except FileNotFoundError:
        other = "" if single else f", nor {path.stem}.npy"
        raise AbsentError(f"{path}: expected a feature file with the array '{key}', found no file{other}") from None
    except KeyError as error:
        raise InputError(f"{path}: expected the array '{key}', found {error.args[0]}") from None
    except _DAMAGED as error:
        what = " ".join(str(error).split())
        whole = "a whole .npy file" if single else f"a whole .npz file with '{key}'"
        found = f"a damaged one ({what})"
        if "Python objects" in what or "Object arrays" in what:  # NumPy's words for what only a pickle can hold
            found = "an array of Python objects, which may run code: save numbers, np.asarray(rows, dtype='float32')"
        raise InputError(f"{path}: expected {whole}, found {found}") from None
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:  # torch knows no long double
        raise InputError(f"{path}: expected '{key}' to hold floating-point numbers, found {array.dtype}")
    if array.size == 0:
        raise InputError(f"{path}: expected at least one row in '{key}', found an empty array {array.shape}")
    return torch.from_numpy(array)


def _map_single(path: Path) -> np.ndarray:
    """Memory-map the array of an ``.npy`` file."""
    with open(path, "rb") as file:  # NumPy would otherwise read a zip archive or try a pickle
        np.lib.format.read_magic(file)
    # copy-on-write: torch wants an array that may be written to
    array = np.load(path, mmap_mode="c" if path.stat().st_size else None, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _map_array(path: Path, key: str) -> np.ndarray:
    """Memory-map one array of an ``.npz`` file, or read it where it is compressed or oddly laid out."""
    with zipfile.ZipFile(path) as archive:
        if f"{key}.npy" not in archive.namelist():
            raise KeyError([name.removesuffix(".npy") for name in archive.namelist()])
        entry = archive.getinfo(f"{key}.npy")
        if entry.compress_type == zipfile.ZIP_STORED:
            with open(path, "rb") as file:
                file.seek(entry.header_offset)
                head = file.read(30)  # the fixed part of a zip member's header ends with the lengths of two fields
                file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
                begin = file.tell()
                shape, fortran, dtype = _read_header(file)
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


def all_finite(values: Tensor) -> bool:
    """Tell whether no number is NaN or infinite, by its bits: ten times faster than asking each number."""
    size = values.element_size()
    bits = values.numpy().view(f"i{size}")
    infinity = torch.tensor(float("inf"), dtype=values.dtype).numpy().view(f"i{size}")
    # as signed integers, what is not finite lies above all else; as unsigned ones, so does what is not and is negative
    return bool(bits.max() < infinity and bits.view(f"u{size}").max() < infinity.view(f"u{size}") + (1 << 8 * size - 1))


def refuse_non_finite(window: Tensor, start: float, end: float) -> None:
    """Refuse rows or frames of a clip, from ``start`` to ``end`` in seconds, among which are NaN or infinity."""
    bad = int((~torch.isfinite(window)).sum())
    if bad:  # a sum of large finite numbers may overflow without one
        raise InputError(f"expected finite numbers in the clip {start:.2f} to {end:.2f} s, found {bad} NaN or infinite")
