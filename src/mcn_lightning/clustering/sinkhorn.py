"""Balanced cluster assignments by the Sinkhorn-Knopp algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcn_lightning.distributed import gather_rows, world_size


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int, counts: Sequence[int] | None = None) -> Tensor:
    """Return soft codes that distribute all clips evenly over the prototypes.

    Cuturi, "Sinkhorn distances" (2013), as SwAV uses it (Caron et al. 2020, eq. 3): ``Q`` maximises ``tr(Q^T S) +
    epsilon H(Q)`` among codes with the same mass for every prototype. It works in logarithms, so that no score
    overflows.

    Args:
        scores: similarities of the clips of this process to the prototypes, ``(n, K)``.
        epsilon: smaller values give harder codes.
        iterations: rounds of normalising prototypes, then clips.
        counts: clips of each process, over which prototypes are normalised; ``None`` for this process alone.

    Returns:
        ``(n, K)``, at least float32, each row a distribution.
    """
    with torch.autocast(scores.device.type, enabled=False):
        logits = (scores if scores.dtype == torch.float64 else scores.float()) / epsilon
        for _ in range(iterations):
            logits = logits - _prototype_mass(logits, counts)
            logits = logits - logits.logsumexp(dim=1, keepdim=True)
        return logits.exp()


def _prototype_mass(logits: Tensor, counts: Sequence[int] | None) -> Tensor:
    """Return the log-sum-exp over the clips of all processes, ``(K,)``."""
    mass = logits.logsumexp(dim=0)
    if counts is None or world_size() == 1:
        return mass
    return gather_rows(mass[None], [1] * world_size()).logsumexp(dim=0)
