"""Losses: tensors in, named scalars out."""

from __future__ import annotations

from dataclasses import dataclass, field

from mcn_lightning.losses.cluster import ClusterLoss, ClusterLossConfig, cluster_contrast
from mcn_lightning.losses.contrastive import ContrastiveLoss, TiledContrastiveLoss
from mcn_lightning.losses.finite import FiniteWatch, NotFiniteError, check_state
from mcn_lightning.losses.kinds import info_nce, make_contrastive, max_margin, mil_nce, mms
from mcn_lightning.losses.pairs import ContrastiveConfig
from mcn_lightning.losses.reconstruction import reconstruction_loss
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat

__all__ = [
    "ClusterLoss",
    "ClusterLossConfig",
    "ContrastiveConfig",
    "ContrastiveLoss",
    "FiniteWatch",
    "LossConfig",
    "NotFiniteError",
    "TiledContrastiveLoss",
    "check_state",
    "cluster_contrast",
    "info_nce",
    "make_contrastive",
    "max_margin",
    "mil_nce",
    "mms",
    "reconstruction_loss",
]


@dataclass(frozen=True)
class LossConfig(Options, option="--model.loss"):
    """Options of the loss terms and their weights; the defaults are the released recipe.

    Args:
        contrastive: contrastive loss between modalities.
        cluster: clustering loss between embeddings and centroids.
        contrastive_weight: weight of the sum of the contrastive terms.
        cluster_weight: weight of the clustering loss (lambda in the paper). At 0, k-means runs but its clusters attract
            no embedding; clustering.kind none turns k-means off.
        reconstruction_weight: weight of the sum of the reconstruction errors.
        detach_targets: whether to stop the gradient at the reconstruction targets (released: no).
    """

    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    cluster: ClusterLossConfig = field(default_factory=ClusterLossConfig)
    contrastive_weight: NonNegativeFloat = 1.0
    cluster_weight: NonNegativeFloat = 1.0
    reconstruction_weight: NonNegativeFloat = 50.0  # as released: squared errors of normalised inputs are small
    detach_targets: bool = False
