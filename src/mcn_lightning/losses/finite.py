"""Losses that are not finite end the run, before a checkpoint can hold what they did to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mcn_lightning.distributed import Later, sum_all, world

SHOWN = 3  # videos that a message names


class NotFiniteError(FloatingPointError):
    """A loss or a weight is not finite; every process raises it, with one and the same line."""


class FiniteWatch:
    """Looks at the loss terms of a step when the next one begins, so that no step waits for the device."""

    def __init__(self) -> None:
        self._step = 0
        self._ids: Sequence[str] = ()
        self._names: list[str] = []
        self._values: Later | None = None

    def note(self, step: int, terms: Mapping[str, Tensor], ids: Sequence[str]) -> None:
        """Take note of a step, after a look at the one before; all processes call this with the same names.

        Args:
            step: number of the step.
            terms: scalars by name.
            ids: this process's clips, ``"<video id>:<clip number>"``.

        Raises:
            NotFiniteError: if a term of the step before is not finite on some process.
        """
        self.check()
        if not terms:
            return
        values = torch.stack([value.detach().float() for value in terms.values()])
        bad = sum_all((~values.isfinite()).float())
        self._step, self._names, self._ids = step, list(terms), ids
        self._values = Later(torch.stack([values, bad]))

    def check(self) -> None:
        """Look at the step noted last, once.

        Raises:
            NotFiniteError: if a term of it is not finite on some process.
        """
        if self._values is None:
            return
        (values, bad), self._values = self._values.read(), None
        if not any(bad):
            return
        found = {
            name: value
            for name, value, count in zip(self._names, values, bad, strict=True)
            if count and not math.isfinite(value)
        }
        raise NotFiniteError(_message(self._step, *_of_all(found, self._ids)))


def _of_all(found: dict[str, float], ids: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Return the terms that some process found not finite, and the videos of the processes that found one."""
    own = (found, list(dict.fromkeys(name.rsplit(":", 1)[0] for name in ids)) if found else [])
    if world() == 1:
        return own
    everyone: list[tuple[dict[str, float], list[str]]] = [own] * world()
    dist.all_gather_object(everyone, own)
    terms = {name: value for part, _ in reversed(everyone) for name, value in part.items()}
    return terms, [video for _, videos in everyone for video in videos]


def _message(step: int, found: Mapping[str, float], videos: Sequence[str]) -> str:
    terms = ", ".join(f"{name} is {value}" for name, value in found.items())
    shown = ", ".join(videos[:SHOWN]) + (f" and {len(videos) - SHOWN} more" if len(videos) > SHOWN else "")
    return (
        f"step {step}: {terms}, expected finite numbers; videos of the batch: {shown}; the checkpoints written before "
        "are whole: lower --model.optimizer.lr, set --trainer.gradient_clip_val, or leave out a damaged video"
    )


def check_state(step: int, state: Mapping[str, Tensor]) -> None:
    """Refuse weights and buffers that are not finite.

    Args:
        step: steps done.
        state: state dict; it has the same names on all processes.

    Raises:
        NotFiniteError: naming the first that is not finite.
    """
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    if not floats:
        return
    # one number for each tensor, and one wait for all of them
    counts = sum_all(torch.stack([(~value.isfinite()).any().float() for value in floats.values()])).tolist()
    bad = [name for name, count in zip(floats, counts, strict=True) if count]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise NotFiniteError(
            f"after step {step}: {bad[0]}{more}: expected finite numbers, found others; no checkpoint is written and "
            "those written before are whole: lower --model.optimizer.lr or set --trainer.gradient_clip_val"
        )
