"""``torch.compile`` for parts of a step: its modes, and batches of an unusual size."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from mcn_lightning.errors import InputError

Result = TypeVar("Result")
Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]
_WITHOUT_CUDA_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}
_backend = "inductor"
"""What compiles; tests take another, as this one takes seconds."""


@functools.cache
def _compiled(function: Callable[..., Result], mode: str, backend: str) -> Callable[..., Result]:
    # the default since torch 2.5; without it 2.4 cannot cut graphs of free sizes for DDP
    if torch.__version__.startswith("2.4."):
        torch._dynamo.config.inline_inbuilt_nn_modules = True
    # other backends have no modes
    return torch.compile(function, backend=backend, mode=mode if backend == "inductor" else None)


class Compiler:
    """Calls functions of a batch, compiled. The number of clips is free in the graphs, so no size compiles again.

    The largest batch of training is the usual one: CUDA graphs are for its size alone.

    It holds no compiled code, so it can be copied and pickled with its owner.

    Args:
        mode: of ``torch.compile``.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._largest = 0

    def begin_step(self, clips: int) -> None:
        """Begin a step of training with a batch of some clips."""
        self._largest = max(self._largest, clips)
        if self.mode in _WITHOUT_CUDA_GRAPHS:
            # the results of the last step may be overwritten, even if it had no backward pass
            torch.compiler.cudagraph_mark_step_begin()

    def is_usual(self, clips: int) -> bool:
        """Return whether a batch of training has the usual size."""
        return clips == self._largest

    def call(
        self, function: Callable[..., Result], *args: object, free: Iterable[Tensor], usual: bool = False
    ) -> Result:
        """Call a function.

        Args:
            function: a plain function; a module whose weights it uses is an argument.
            args: of the function.
            free: those tensors in the arguments whose first dimension is free.
            usual: whether the batch has the usual size.
        """
        for tensor in free:
            # "maybe": one clip, or a network that asks for a size, may still have a graph of its own
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        mode = self.mode if usual else _WITHOUT_CUDA_GRAPHS.get(self.mode, self.mode)
        return _compiled(function, mode, _backend)(*args)


def make_compiler(value: bool | str, option: str = "--model.compile") -> Compiler | None:
    """Return the compiler that an option asks for, or ``None`` for no compiling.

    Args:
        value: of the option; true is the mode "default".
        option: its name in the message.

    Raises:
        InputError: if there is no such mode.
    """
    if value is False:
        return None
    mode = "default" if value is True else value
    if mode not in get_args(Mode):
        wanted = f"true, false or one of {', '.join(get_args(Mode))}"
        raise InputError(f"{option}: expected {wanted}, found {value}; choose one")
    return Compiler(mode)


def check_compiler(device: torch.device | str, option: str = "--model.compile") -> None:
    """Check that kernels can be compiled for a device.

    Args:
        device: that the kernels run on.
        option: its name in the message.

    Raises:
        InputError: if they are for a processor, and there is no C++ compiler.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if torch.device(device).type == "cpu" and _backend == "inductor" and not any(map(shutil.which, names)):
        advice = "install one, name it in CXX, or set the option to false"
        raise InputError(f"{option}: expected a C++ compiler ({' or '.join(names)}), found none; {advice}")
