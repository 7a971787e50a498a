"""The reconstruction loss: the input of a branch is predicted from its embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.distributed import Presence, row_counts, sum_with_gradient, world_size
from mcn_lightning.losses.tiled import full_precision


def reconstruction_loss(
    reconstructions: dict[str, Tensor],
    targets: dict[str, Tensor],
    detach_targets: bool,
    counts: Sequence[int] | None = None,
    present: Presence | None = None,
) -> dict[str, Tensor]:
    """Compute the mean squared error of each modality (MCN, Chen et al., ICCV 2021).

    Args:
        reconstructions: outputs of the heads for this process's clips, ``(n, width)`` for each modality.
        targets: inputs to reconstruct, of the same shapes.
        detach_targets: whether to stop the gradient at the targets (the released code does not).
        counts: clips of each process; by default from ``distributed.row_counts``.
        present: which clips have which modality, if some lack one. The rows are then those of clips that have it.

    Returns:
        A scalar for each modality that any clip has, at least float32: the mean over features and over the clips of all
        processes that have it.
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
    if world_size() == 1:
        return F.mse_loss(made, target)
    counts = row_counts(len(made), made.device) if counts is None else counts
    # sums, not means: processes may have different numbers of clips
    return sum_with_gradient(F.mse_loss(made, target, reduction="sum")) / (sum(counts) * made.shape[1])
