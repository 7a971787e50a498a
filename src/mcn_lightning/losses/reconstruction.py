"""The reconstruction loss: an embedding should still tell what it was made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.losses.contrastive import full_precision


def reconstruction_loss(
    reconstructions: dict[str, Tensor], targets: dict[str, Tensor], detach_targets: bool
) -> dict[str, Tensor]:
    """Mean squared error of each modality (MCN, Chen et al., ICCV 2021).

    Args:
        reconstructions: what the heads made, ``(B, width)`` for each modality.
        targets: what they should have made, shaped alike.
        detach_targets: stop the gradient at the targets (the released code does not).

    Returns:
        A scalar for each modality, mean over features and batch, at least float32.
    """
    terms = {}
    for name, made in reconstructions.items():
        target = targets[name].detach() if detach_targets else targets[name]
        with torch.autocast(made.device.type, enabled=False):
            terms[name] = F.mse_loss(full_precision(made), full_precision(target))
    return terms
