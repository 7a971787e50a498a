"""Checks of arrays before a metric is computed. Each kind of message is built in one place, here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

Array = Tensor | np.ndarray | Sequence[str]


def check_arrays(empty: bool = False, **given: tuple[Array, str]) -> None:
    """Refuse arrays whose shapes do not fit each other, or that hold another type.

    A letter stands for one size, which must be the same wherever the letter occurs. A number stands for itself.

    Example:
        >>> check_arrays(scores=(scores, "(N, C)"), labels=(labels, "(N,) int64"))

    Args:
        empty: whether a size may be 0.
        **given: by name, the array and its form: the shape, then a type, ``integers``, or no more for any type.

    Raises:
        ValueError: naming the forms of all arrays, and what was found.
    """
    sizes: dict[str, int] = {}
    if all(_fits(array, form, sizes) for array, form in given.values()) and (empty or 0 not in sizes.values()):
        return
    expected = _join(f"{name} {form}" for name, (_, form) in given.items())
    found = _join(f"{_shape(array)} {_dtype(array)}" for array, _ in given.values())
    raise ValueError(f"expected {expected}{'' if empty else ', no size 0'}, found {found}")


def _fits(array: Array, form: str, sizes: dict[str, int]) -> bool:
    """Tell whether an array has a form, where ``sizes`` has the letters so far and gets the new ones."""
    # of "(N_q, D) int64" the letters N_q and D
    names = re.findall(r"[^\s(,][^(,]*", form[: form.index(")")])
    kind, shape = form[form.index(")") + 1 :].strip(), _shape(array)
    if kind and not _dtype(array).startswith(("int", "uint") if kind == "integers" else kind):
        return False
    return len(names) == len(shape) and all(
        size == (int(name) if name.isdigit() else sizes.setdefault(name, size))
        for name, size in zip(names, shape, strict=True)
    )


def _shape(array: Array) -> tuple[int, ...]:
    return tuple(array.shape) if isinstance(array, Tensor | np.ndarray) else (len(array),)


def _dtype(array: Array) -> str:
    return str(array.dtype).removeprefix("torch.") if isinstance(array, Tensor | np.ndarray) else "names"


def _join(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def check_values(name: str, good: Tensor | np.ndarray, expected: str, values: Tensor | np.ndarray) -> None:
    """Refuse values that are not as expected; the message names the first of them and its position.

    Args:
        name: of the array.
        good: which values, or rows of them, are as expected; bool.
        expected: what the values should be, as a part of the sentence.
        values: the array.

    Raises:
        ValueError: if one is not good.
    """
    if good.all():
        return
    # NumPy, as nonzero of a tensor would return one matrix instead of an index for each axis
    bad = (~np.asarray(good.cpu() if isinstance(good, Tensor) else good)).nonzero()
    first = tuple(int(index[0]) for index in bad)
    position = first[0] if len(first) == 1 else first
    value = f"{values[first].tolist()}"[:60]  # a row may be thousands of numbers wide
    raise ValueError(f"{name}: expected {expected}, found {value} at {position}, the first of {len(bad[0])} such")
