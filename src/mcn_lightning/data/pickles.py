"""Unpickling without running code: NumPy arrays, torch tensors, pandas frames and builtin containers, nothing else."""

from __future__ import annotations

import io
import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from mcn_lightning.data.batch import InputError

# Every name is written out: a whole module admitted would admit what it imports, and calls such as numpy's runstring.
_ADMITTED = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice str tuple",
    "collections": "OrderedDict",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "pandas": "DataFrame Index NA RangeIndex Series StringDtype",
    "pandas._libs.arrays": "__pyx_unpickle_NDArrayBacked",
    "pandas._libs.internals": "_unpickle_block",
    "pandas._libs.missing": "NA",
    "pandas.arrays": "StringArray",
    "pandas.core.arrays.string_": "StringArray StringDtype",
    "pandas.core.frame": "DataFrame",
    "pandas.core.indexes.base": "Index _new_Index",
    "pandas.core.indexes.numeric": "Float64Index Int64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pandas.core.series": "Series",
    "torch": "Size bfloat16 device float16 float32 float64 int16 int32 int64 int8 uint8",
    "torch._utils": "_rebuild_parameter _rebuild_tensor _rebuild_tensor_v2",
}
_ALLOWED = {(module, name) for module, names in _ADMITTED.items() for name in names.split()}
_STORAGES = "Bool Byte Char Double Float Half Int Long Short BFloat16"
_ALLOWED |= {("torch", f"{kind}Storage") for kind in _STORAGES.split()}
_OLD_NAMES = {"long": "int", "unicode": "str", "xrange": "range"}  # of Python 2, which protocols 0 to 2 write

# what the standard unpickler and the rebuilders raise on bytes that are no pickle
_DAMAGED = (
    *(pickle.PickleError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError),
    *(AssertionError, OSError, RuntimeError, TypeError, ValueError),  # torch asserts
)


class _RefusedError(pickle.UnpicklingError):
    """A pickle that may be whole, and holds what is not admitted."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that admits a written list of names and refuses every other one."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an admitted name, and refuse the others with ``pickle.UnpicklingError``."""
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if module == "__builtin__":
            module, name = "builtins", _OLD_NAMES.get(name, name)
        # NumPy 2 renamed numpy.core; either name may stand in the file, and either NumPy may read it
        wanted = "numpy._core" + module[len("numpy.core") :] if module.startswith("numpy.core") else module
        if (wanted, name) not in _ALLOWED:
            raise _RefusedError(f"the global {module}.{name}")
        try:
            return getattr(import_module(wanted), name)
        except ModuleNotFoundError:
            if wanted.startswith("numpy._core"):
                return getattr(import_module(wanted.replace("numpy._core", "numpy.core")), name)
            package = module.split(".")[0]
            raise _RefusedError(f"{module}.{name}, which this version of {package} lacks") from None


def _load_storage(data: bytes) -> Any:
    """Read the numbers of a tensor; torch's own function for it would unpickle anything."""
    return torch.load(io.BytesIO(data), weights_only=True)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Make bytes of the text that old pickle protocols store them as."""
    if encoding != "latin1":
        raise _RefusedError(f"bytes in the encoding {encoding}")
    return text.encode("latin1")


def load_pickle(path: Path) -> Any:
    """Read a pickle of arrays, tensors, frames and builtin containers, without running what else it may hold.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        InputError: if the file is missing, damaged, or needs a global that is not admitted.
    """
    try:
        with open(path, "rb") as file:
            return RestrictedUnpickler(file).load()
    except FileNotFoundError:
        raise InputError(f"{path}: expected a pickle, found no file") from None
    except _RefusedError as error:
        kinds = "arrays, tensors, frames and builtin containers"
        raise InputError(f"{path}: expected a pickle of {kinds}, found {error}") from None
    except _DAMAGED as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: expected a whole pickle, found a damaged one ({what})") from None
