"""The reconstruction loss: an embedding should still tell what it was made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.distributed import Presence, row_counts, total, world
from mcn_lightning.losses.tiled import full_precision


def reconstruction_loss(
    reconstructions: dict[str, Tensor],
    targets: dict[str, Tensor],
    detach_targets: bool,
    counts: Sequence[int] | None = None,
    present: Presence | None = None,
) -> dict[str, Tensor]:
    """Mean squared error of each modality (MCN, Chen et al., ICCV 2021).

    Args:
        reconstructions: what the heads made of this process's clips, ``(n, width)`` for each modality.
        targets: what they should have made, shaped alike.
        detach_targets: stop the gradient at the targets (the released code does not).
        counts: clips of every process from ``distributed.row_counts``, which is asked when they are not given.
        present: which clips have which modality, where some lack one; the rows are then of those that have it.

    Returns:
        A scalar for each modality, mean over features and the clips of all processes that have it, at least float32;
        none for a modality that no clip has.
    """
    terms = {}
    for name, made in reconstructions.items():
        if present is not None:
            if not (some := present.having(name)):
                continue
            counts = some.counts
        target = targets[name].detach() if detach_targets else targets[name]
        with torch.autocast(made.device.type, enabled=False):
            terms[name] = _mean_squared_error(full_precision(made), full_precision(target), counts)
    return terms


def _mean_squared_error(made: Tensor, target: Tensor, counts: Sequence[int] | None) -> Tensor:
    if world() == 1:
        return F.mse_loss(made, target)
    counts = row_counts(len(made), made.device) if counts is None else counts
    return total(F.mse_loss(made, target, reduction="sum")) / (sum(counts) * made.shape[1])
