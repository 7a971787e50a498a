"""Unpickling without running code: NumPy arrays, torch tensors, pandas frames and builtin containers.

Files of Python 2 and of older libraries use other names. ``_RENAMED`` maps them to the names of today.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
import torch

from mcn_lightning.data.files.pickle_errors import conversion_advice, describe_torch_file, describe_unreadable_pickle
from mcn_lightning.errors import InputError

# Names are listed one by one. A whole module would also admit what it imports, and calls such as numpy's runstring.
_ADMITTED = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list range set slice str tuple",
    "collections": "Counter OrderedDict",
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
    "pandas.core.indexes.numeric": "Float64Index Int64Index UInt64Index",
    "pandas.core.indexes.range": "RangeIndex",
    "pandas.core.internals.managers": "BlockManager SingleBlockManager",
    "pandas.core.series": "Series",
    "torch": "Size bfloat16 device float16 float32 float64 int16 int32 int64 int8 uint8",
    "torch._utils": "_rebuild_parameter _rebuild_tensor _rebuild_tensor_v2",
}
_ALLOWED = {(module, name) for module, names in _ADMITTED.items() for name in names.split()}
# classes of old tensors, one for each type of number
_STORAGES = "Bool Byte Char Double Float Half Int Long Short BFloat16"
_ALLOWED |= {("torch", f"{kind}Storage") for kind in _STORAGES.split()}
_NUMBERS = ("Int64Index", "UInt64Index", "Float64Index")
_RENAMED = {
    ("pandas.core.internals", "BlockManager"): ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.core.internals", "SingleBlockManager"): ("pandas.core.internals.managers", "SingleBlockManager"),
    ("pandas.core.internals.blocks", "new_block"): ("pandas._libs.internals", "_unpickle_block"),
    **{("pandas.core.index", name): ("pandas.core.indexes.base", name) for name in ("Index", "_new_Index")},
    **{("pandas.core.index", name): ("pandas.core.indexes.numeric", name) for name in _NUMBERS},
    ("pandas.core.index", "RangeIndex"): ("pandas.core.indexes.range", "RangeIndex"),
    **{("pandas.indexes.base", name): ("pandas.core.indexes.base", name) for name in ("Index", "_new_Index")},
    **{("pandas.indexes.numeric", name): ("pandas.core.indexes.numeric", name) for name in _NUMBERS},
    ("pandas.indexes.range", "RangeIndex"): ("pandas.core.indexes.range", "RangeIndex"),
    **{("__builtin__", name): ("builtins", name) for name in _ADMITTED["builtins"].split()},
    ("__builtin__", "long"): ("builtins", "int"),
    ("__builtin__", "unicode"): ("builtins", "str"),
    ("__builtin__", "xrange"): ("builtins", "range"),
}
"""Names of Python 2 and of older releases of pandas, with the names of today."""
_FACTORIES = (None, bool, dict, float, int, list, set, str, tuple)
_TORCH_SAVED = 0x1950A86A20F9469CFC6C  # first number in a file of torch.save before release 1.6

# exceptions of the standard unpickler and of the rebuilders for bytes that are not a pickle
_DAMAGED = (
    *(pickle.PickleError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError),
    *(AssertionError, OSError, RuntimeError, TypeError, ValueError),  # torch asserts
)

Record = Mapping[str, object]
"""One dict of a pickle of clips. Its values are not checked yet."""


class _RefusedError(pickle.UnpicklingError):
    """The pickle needs a global that is not admitted."""

    def __init__(self, module: str, name: str, more: str = "") -> None:
        super().__init__(f"the global {module}.{name}{more}")
        self.module = module


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that admits a fixed list of names and refuses all others."""

    def find_class(self, module: str, name: str) -> object:
        """Return an admitted name, and refuse the others with ``pickle.UnpicklingError``."""
        if (substitute := _SUBSTITUTES.get((module, name))) is not None:
            return substitute
        wanted, name = _RENAMED.get((module, name), (module, name))
        # NumPy 2 renamed numpy.core: the file may have either name, and either release may read it
        wanted = "numpy._core" + wanted[len("numpy.core") :] if wanted.startswith("numpy.core") else wanted
        if (wanted, name) not in _ALLOWED:
            raise _RefusedError(module, name)
        if wanted == "pandas.core.indexes.numeric":  # pandas 2 has only Index
            import pandas

            return getattr(pandas, name, pandas.Index)
        if (wanted, name) == ("pandas.core.internals.managers", "BlockManager"):
            return _Manager
        try:
            return getattr(import_module(wanted), name)
        except ModuleNotFoundError:
            if wanted.startswith("numpy._core"):
                return getattr(import_module(wanted.replace("numpy._core", "numpy.core")), name)
            raise _RefusedError(module, name, ", which this version lacks") from None


class _Manager:
    """Substitute for the columns of a data frame, which pandas before 1.3 made without arguments."""

    def __new__(cls, *parts: object) -> object:  # type: ignore[misc]  # an instance of the other class is wanted
        from pandas.core.internals.managers import BlockManager

        return BlockManager(*parts) if parts else BlockManager.__new__(BlockManager, (), [], False)

    def __setstate__(self, state: object) -> None:
        """Refuse a change of the class itself."""
        raise _RefusedError("pandas", "BlockManager", " with a state of its own")


class _Function:
    """A function that a pickle may call but not change."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make

    def __call__(self, *parts: object) -> object:
        return self.make(*parts)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("builtins", self.make.__name__, " with a state of its own")


def _object(*_: object) -> NoReturn:
    """Refuse a call of the class ``object``. Old protocols name it without calling it."""
    raise _RefusedError("builtins", "object")


def _reconstruct(cls: type[object], base: object, state: object) -> object:
    """Make an instance of an admitted class, as protocols 0 and 1 require."""
    if base is not _OBJECT or state is not None or not isinstance(cls, type):
        raise _RefusedError("copyreg", "_reconstructor", " of a builtin type")
    return cls.__new__(cls)


def _default_dict(factory: object = None, *items: Mapping[object, object]) -> dict[object, object]:
    """Make a plain dict of a ``defaultdict``, so that looking up a missing key does not create it."""
    if not any(factory is known for known in (*_FACTORIES, _DEFAULT_DICT)):
        raise _RefusedError("collections", "defaultdict", f" of {factory!r}")
    return dict(*items)


def _load_storage(data: bytes | str) -> object:
    """Read the numbers of a tensor. torch's function for it would unpickle anything."""
    content = data.encode("latin1") if isinstance(data, str) else data  # text in files of Python 2
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Return the bytes of a text, which is how old pickle protocols store bytes."""
    if encoding != "latin1":
        raise _RefusedError("_codecs", "encode", f" to {encoding}")
    return text.encode("latin1")


_OBJECT, _DEFAULT_DICT, _RECONSTRUCT = _Function(_object), _Function(_default_dict), _Function(_reconstruct)
_SUBSTITUTES = {
    ("torch.storage", "_load_from_bytes"): _Function(_load_storage),
    ("_codecs", "encode"): _Function(_encode_latin1),
    ("collections", "defaultdict"): _DEFAULT_DICT,
    ("copyreg", "_reconstructor"): _RECONSTRUCT,
    ("copy_reg", "_reconstructor"): _RECONSTRUCT,
    ("builtins", "object"): _OBJECT,
    ("__builtin__", "object"): _OBJECT,
}
"""Substitutes for names that could do more than is needed."""


def load_pickle(path: Path) -> object:
    """Read a pickle of arrays, tensors, frames and builtin containers. No other code of the file runs.

    Args:
        path: the file.

    Returns:
        What was pickled.

    Raises:
        InputError: if the file is missing, damaged, or needs a global that is not admitted.
    """
    try:
        with open(path, "rb") as file:
            found = _load(file)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a pickle, found no file") from None
    except _RefusedError as error:
        kinds = "arrays, tensors, frames and builtin containers"
        found = f"{error}{conversion_advice(path, error.module)}"
        raise InputError(f"{path}: expected a pickle of {kinds}, found {found}") from None
    except _DAMAGED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path}: expected a whole pickle, found {describe_unreadable_pickle(path, reason)}") from None
    if isinstance(found, int) and found == _TORCH_SAVED:
        raise InputError(f"{path}: expected a pickle, found {describe_torch_file(path)}")
    return found


def _load(file: BinaryIO) -> object:
    """Load a pickle. Byte strings of Python 2 become text."""
    try:
        return RestrictedUnpickler(file).load()
    except UnicodeDecodeError:  # only strings of Python 2 are decoded as ASCII; its arrays need Latin-1
        # again from the start: all strings must be read with one encoding
        file.seek(0)
        return _decoded(RestrictedUnpickler(file, encoding="latin1").load())


def _decoded(value: object) -> object:
    """Decode UTF-8 texts in containers that Python 2 had as bytes and that were read as Latin-1."""
    if isinstance(value, str):
        try:
            return value if value.isascii() else value.encode("latin1").decode()
        except UnicodeError:
            return value
    if isinstance(value, dict):
        return type(value)({_decoded(key): _decoded(item) for key, item in value.items()})
    if isinstance(value, list | set | frozenset) or type(value) is tuple:
        return type(value)([_decoded(item) for item in value])
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.frompyfunc(_decoded, 1, 1)(value)
    if (name := type(value).__name__) in ("DataFrame", "Series") and hasattr(value, "map"):
        texts = value.map(_decoded)
        return texts if name == "Series" else texts.rename(columns=_decoded)
    return value
