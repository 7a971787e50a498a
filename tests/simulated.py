"""A device that is not there. Its tensors compute on the CPU, and a record tells what a GPU would have done.

``RECORD.waits`` counts the operations that make the host wait for the device, by the line of the project that asked for
them. ``RECORD.mixed`` counts those that take tensors of two devices, which a GPU refuses. The backend stays registered,
so it is imported in processes of their own. It needs torch 2.10 or newer.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "simulated"
READS = {"_local_scalar_dense", "nonzero", "masked_select", "bincount", "_unique2", "unique_dim", "unique_consecutive",
         "equal", "is_nonzero", "repeat_interleave"}  # fmt: skip
"""Operations that give the host a number, or whose result has a size that the host must know."""
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operations that copy an index from the CPU to the device."""


class Record:
    """What happened on the device since the last ``clear``."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.operations = 0

    def clear(self) -> None:
        """Forget all."""
        self.__init__()  # type: ignore[misc]


RECORD = Record()


def place() -> str:
    """Return the file and the function that asked for the running operation: the project's, else the library's."""
    frames = [frame for frame in reversed(traceback.extract_stack()) if frame.filename != __file__]
    own = [frame for frame in frames if "/mcn_lightning/" in frame.filename]
    library = [frame for frame in frames if "lightning" in frame.filename or "torchmetrics" in frame.filename]
    first = next(iter(library), frames[0])
    if own and frames.index(own[0]) <= frames.index(first):
        return f"{own[0].filename.split('/mcn_lightning/')[-1]}:{own[0].name}"
    return f"{Path(first.filename).name}:{first.name}"


class Backend(_DummyBackendModule):
    """What torch asks of a device module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, *_: object) -> None:
        RECORD.waits[f"synchronize at {place()}"] += 1

    def is_autocast_enabled(self) -> bool:
        return False

    def get_rng_state(self, *_: object) -> torch.Tensor:
        return torch.get_rng_state()

    def device(self, *_: object) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    set_rng_state = manual_seed = manual_seed_all = set_device = empty_cache = lambda self, *_: None


_setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
DEVICE = torch.device(NAME, 0)


class Simulated(torch.Tensor):
    """A tensor on the device. ``raw`` holds its numbers on the CPU."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, requires_grad: bool = False) -> Simulated:
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            layout=raw.layout, device=DEVICE, requires_grad=requires_grad,
        )  # fmt: skip
        made.raw = raw
        return made

    def __init__(self, *_: object, **__: object) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict) -> Simulated:
        memo[id(self)] = Simulated(self.raw.clone(), self.requires_grad)
        return memo[id(self)]

    def __repr__(self) -> str:
        return f"Simulated({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: object, **__: object) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    __array__ = numpy


def compute(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run an operation on the CPU, and record what it means for the device."""
    name = func._schema.name.split("::")[1]
    given = list(tree_iter((args, kwargs)))
    ours = [each for each in given if isinstance(each, Simulated)]
    RECORD.operations += 1
    _record(name, args, kwargs, given, ours)
    own_args, own_kwargs = tree_map(lambda each: each.raw if isinstance(each, Simulated) else each, (args, kwargs))
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == NAME:
        own_kwargs["device"] = torch.device("cpu")
    there = bool(ours) if wanted is None else torch.device(wanted).type == NAME
    if name == "copy_":
        there = isinstance(args[0], Simulated)
    out = func(*own_args, **own_kwargs)
    if name == "_local_scalar_dense":
        return out
    if name == "_to_copy" and out.data_ptr() == own_args[0].data_ptr():
        out = out.clone()
    if name == "set_":
        return args[0]
    known = {id(each.raw): each for each in ours}  # operations in place return what they were given

    def wrap(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not there:
            return each
        return known[id(each)] if id(each) in known else Simulated(each)

    return tree_map(wrap, out)


def _record(name: str, args: tuple, kwargs: dict, given: list, ours: list) -> None:
    others = [each for each in given if isinstance(each, torch.Tensor) and not isinstance(each, Simulated)]
    crosses = None
    if name == "_to_copy" and kwargs.get("device") is not None:
        crosses = isinstance(args[0], Simulated), torch.device(kwargs["device"]).type == NAME
    elif name == "copy_":
        crosses = isinstance(args[1], Simulated), isinstance(args[0], Simulated)
    if crosses is not None and crosses[0] != crosses[1]:
        waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        way = "read" if crosses[0] else "copy"
        (RECORD.waits if waits else RECORD.copies)[f"{way} at {place()}"] += 1
    elif ours and name in READS:
        RECORD.waits[f"{name} at {place()}"] += 1
    elif ours and name in INDEXING:
        indices = [each for each in args[1] if isinstance(each, torch.Tensor)]
        # a mask must be counted first, but for one value that is written where it holds
        masks = any(each.dtype in (torch.bool, torch.uint8) for each in indices)
        if any(not isinstance(each, Simulated) for each in indices) or (masks and not _fills(args, indices)):
            RECORD.waits[f"{name} at {place()}"] += 1
    elif ours and any(each.dim() > 0 or name in ("stack", "cat") for each in others) and name != "set_":
        RECORD.mixed[f"{name} at {place()}"] += 1
    for generator in (each for each in given if isinstance(each, torch.Generator)):
        wanted = kwargs.get("device")
        if ours or (wanted is not None and torch.device(wanted).type == NAME):
            RECORD.mixed[f"{name} with a generator of {generator.device} at {place()}"] += 1


def _fills(args: tuple, indices: list) -> bool:
    return len(indices) == 1 and len(args) > 2 and args[2].numel() == 1


def _register() -> list[torch.library.Library]:
    """Let every operation on the device, and every one that makes a tensor there, go through ``compute``."""
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(lambda operation, *args, **kwargs: compute(operation, args, kwargs), "PrivateUse1")
    factories = torch.library.Library("aten", "IMPL")

    def add(overload: Any) -> None:
        full = overload._schema.name.split("::")[1] + (f".{overload._schema.overload_name}".rstrip("."))
        with contextlib.suppress(RuntimeError):  # registered, or not for a backend
            factories.impl(full, lambda *args, **kwargs: compute(overload, args, kwargs), "PrivateUse1")

    for packet in (getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)):
        for overload in (getattr(packet, each) for each in getattr(packet, "overloads", list)()):
            arguments = overload._schema.arguments
            takes = any(each.name == "device" for each in arguments)
            if takes and not any("Tensor" in str(each.type) for each in arguments) and "out" not in str(overload):
                add(overload)
    add(torch.ops.aten._to_copy.default)
    return [fallback, factories]


_LIBRARIES = _register()


@functools.wraps(torch.tensor)
def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """As ``torch.tensor``, which fills its result without the dispatcher."""
    made = inspect.unwrap(_tensor)(data, *args, **kwargs)
    return made if device is None or torch.device(device).type == "cpu" else made.to(device)


torch.tensor = _tensor
