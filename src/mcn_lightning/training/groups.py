"""Groups of devices: the losses of a step compare the clips of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcn_lightning import distributed
from mcn_lightning.distributed import Presence, has_groups, of_group, sum_all, world_size
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveInt


@dataclass(frozen=True)
class DistributedConfig(Options, option="--model.distributed"):
    """Options of training on several devices.

    Args:
        group_size: devices whose clips the losses compare, consecutive ones such as those of a node. It divides the
            number of devices. The gradient is the mean over the groups. By default all devices are one group. k-means
            and its queue are those of all devices in any case.
    """

    group_size: PositiveInt | None = None

    def check(self, devices: int) -> None:
        """Check that the groups fit a number of devices.

        Args:
            devices: of the run, on all nodes.

        Raises:
            InputError: if the size does not divide it.
        """
        size = self.group_size
        if size is not None and devices % size:
            wanted = f"a divisor of the number of devices, {devices}"
            fitting = " or ".join(str(each) for each in range(1, devices + 1) if devices % each == 0)
            advice = f"set it to {fitting}, or to null for all devices"
            raise InputError(f"{self.option}.group_size: expected {wanted}, found {size}; {advice}")

    def form_groups(self) -> None:
        """Divide the processes of the run into groups. All processes call it together.

        Raises:
            InputError: on all processes, if the size does not divide their number.
        """
        self.check(world_size())
        distributed.form_groups(self.group_size)


def clips_of_group(counts: Sequence[int], present: Presence | None) -> tuple[Sequence[int], Presence | None]:
    """Return the clips of each process of the group, and which lack an embedding (``None`` if none does).

    Args:
        counts: clips of each process of the run.
        present: which clips of the run have which embeddings; ``None`` if all have all.
    """
    if not has_groups():
        return counts, present
    some = None if present is None else present.of_group()
    return of_group(counts), None if some is None or some.complete else some


def mean_of_groups(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of named scalars over the groups, without gradient, the same on every process.

    Args:
        values: of this process's group; the names are the same on every process.
    """
    if not has_groups() or not values:
        return dict(values)
    own = torch.stack([value.detach().float() for value in values.values()])
    # every process of a group has its value, so the mean over processes is that over groups
    return dict(zip(values, sum_all(own) / world_size(), strict=True))
