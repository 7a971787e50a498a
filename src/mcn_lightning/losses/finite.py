"""Checks that losses and weights are finite. They end the run before a checkpoint can save damaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mcn_lightning.distributed import HostCopy, sum_all, world_size

MAX_SHOWN = 3  # videos named in a message


class NotFiniteError(FloatingPointError):
    """A loss or a weight is not finite. Every process raises it with the same message."""


class FiniteWatch:
    """Checks the loss terms of a step when the next one begins, so that no step waits for the device."""

    def __init__(self) -> None:
        self._step = 0
        self._ids: Sequence[str] = ()
        self._names: list[str] = []
        self._values: HostCopy | None = None

    def watch(self, step: int, terms: Mapping[str, Tensor], ids: Sequence[str], now: bool = False) -> None:
        """Check the previous step, and record this one. All processes call it with the same names.

        Args:
            step: number of the step.
            terms: scalars by name.
            ids: of this process's clips, ``"<video id>:<clip number>"``.
            now: also check these terms now, which waits for the device.

        Raises:
            NotFiniteError: if a term of the previous step is not finite on any process.
        """
        self.check()
        # all processes have the same terms, so all return here together
        if not terms:
            return
        values = torch.stack([value.detach().float() for value in terms.values()])
        # every process must know of it, or one would stop while the others wait for it
        bad = sum_all((~values.isfinite()).float())
        self._step, self._names, self._ids = step, list(terms), ids
        self._values = HostCopy(torch.stack([values, bad]))
        if now:
            self.check()

    def check(self) -> None:
        """Check the recorded step, once.

        Raises:
            NotFiniteError: if one of its terms is not finite on any process.
        """
        if self._values is None:
            return
        (values, bad), self._values = self._values.read().tolist(), None
        if not any(bad):
            return
        found = {
            name: value
            for name, value, count in zip(self._names, values, bad, strict=True)
            if count and not math.isfinite(value)
        }
        raise NotFiniteError(_message(self._step, *_gather_terms(found, self._ids)))


def _gather_terms(found: dict[str, float], ids: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Gather the terms that are not finite on any process, and the videos of those processes."""
    # the id of a clip is that of its video, a colon and a number
    own = (found, list(dict.fromkeys(name.rsplit(":", 1)[0] for name in ids)) if found else [])
    if world_size() == 1:
        return own
    gathered: list[tuple[dict[str, float], list[str]]] = [own] * world_size()
    dist.all_gather_object(gathered, own)
    # reversed: of several processes with the same term the first one's value stays
    terms = {name: value for part, _ in reversed(gathered) for name, value in part.items()}
    return terms, [video for _, videos in gathered for video in videos]


def _message(step: int, found: Mapping[str, float], videos: Sequence[str]) -> str:
    terms = ", ".join(f"{name} is {value}" for name, value in found.items())
    shown = ", ".join(videos[:MAX_SHOWN]) + (f" and {len(videos) - MAX_SHOWN} more" if len(videos) > MAX_SHOWN else "")
    return (
        f"step {step}: {terms}, expected finite numbers; videos of the batch: {shown}; the checkpoints written before "
        "are whole: lower --model.optimizer.lr, set --trainer.gradient_clip_val, or leave out a damaged video"
    )


def check_state(step: int, state: Mapping[str, Tensor]) -> None:
    """Refuse weights and buffers that are not finite.

    Args:
        step: number of finished steps.
        state: state dict, with the same names on all processes.

    Raises:
        NotFiniteError: naming the first tensor that is not finite.
    """
    # integers have neither NaN nor infinity
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    if not floats:
        return
    # one flag for each tensor and a single transfer: checking one by one would wait for the device each time
    flags = [(~value.isfinite()).any().float() for value in floats.values()]
    # on the device of the weights, which the processes communicate on: a queue may be kept on the CPU
    device = next((flag.device for flag in flags if not flag.is_cpu), flags[0].device)
    counts = sum_all(torch.stack([flag.to(device, non_blocking=True) for flag in flags])).tolist()
    bad = [name for name, count in zip(floats, counts, strict=True) if count]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        advice = "no checkpoint of it is written; lower --model.optimizer.lr or set --trainer.gradient_clip_val"
        raise NotFiniteError(f"after step {step}: {bad[0]}{more}: expected finite numbers, found others; {advice}")
