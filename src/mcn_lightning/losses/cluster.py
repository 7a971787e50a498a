"""The clustering loss: every embedding should be nearest to the centroid of its clip's cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.distributed import Subset, row_counts, sum_with_gradient, world_size
from mcn_lightning.losses.tiled import full_precision
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveFloat


@dataclass(frozen=True)
class ClusterLossConfig(Options, option="--model.loss.cluster"):
    """Options of the clustering loss, which attracts features to prototypes; the defaults are the released recipe.

    Args:
        margin: subtracted from the logit of the true cluster.
        temperature: divisor of the dot products.
        normalize: scale features and centroids to length 1 for this loss; learned prototypes always are.
        video_weight: factor of the video embedding's loss.
        audio_weight: factor of the audio embedding's loss.
        text_weight: factor of the text embedding's loss.
    """

    margin: NonNegativeFloat = 0.001
    temperature: PositiveFloat = 1.0
    normalize: bool = False
    video_weight: NonNegativeFloat = 1.0
    audio_weight: NonNegativeFloat = 1.0
    text_weight: NonNegativeFloat = 1.0


def cluster_contrast(
    x: Tensor,
    codes: Tensor,
    prototypes: Tensor,
    margin: float,
    temperature: float = 1.0,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Compute the cross-entropy of ``X C^T / temperature - margin * onehot(y)`` against the codes.

    This is the clustering loss of MCN (Chen et al., ICCV 2021) as in the released code: the centroids are a classifier.
    If the codes are distributions ``Q``, ``Q`` replaces ``onehot(y)``.

    Args:
        x: embeddings ``(n, D)`` of this process's clips.
        codes: cluster of each clip ``(n,)`` int64, or its distribution over the clusters ``(n, K)``.
        prototypes: ``(K, D)``.
        margin: subtracted from the logit of the label, after the division.
        temperature: divisor of the dot products.
        counts: clips of each process; by default from ``distributed.row_counts``.

    Returns:
        Scalar, mean over the clips of all processes, at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        logits = x @ prototypes.to(x.dtype).T / temperature
        # one_hot gives the margin of a hard code; cross_entropy takes hard codes as indices
        soft = codes.to(x.dtype) if codes.is_floating_point() else F.one_hot(codes, logits.shape[1]).to(x.dtype)
        target = soft if codes.is_floating_point() else codes
        # after the division by the temperature: the margin is in the unit of the logits
        logits = logits - margin * soft
        if world_size() == 1:
            return F.cross_entropy(logits, target)
        counts = row_counts(len(x), x.device) if counts is None else counts
        return sum_with_gradient(F.cross_entropy(logits, target, reduction="sum")) / sum(counts)


class ClusterLoss(nn.Module):
    """The clustering loss of each feature that has a target: the modalities, or their mean.

    Args:
        config: its options.
    """

    def __init__(self, config: ClusterLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        features: Mapping[str, Tensor],
        targets: Mapping[str, tuple[Tensor, Tensor, bool] | tuple[Tensor, Tensor, bool, Subset | None]],
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the weighted mean over features and over the clips of all processes, a scalar.

        Args:
            features: embeddings ``(n, D)`` of this process's clips by modality, and their mean.
            targets: for each feature that clusters attract: the prototypes ``(K, D)``, the codes (see
                ``cluster_contrast``), and whether both sides are scaled to length 1 in any case. If some clips have no
                target, a fourth entry is the subset with targets, and the codes are those of the subset.
            counts: clips of each process; by default from ``distributed.row_counts``.
        """
        margin, temperature, losses = self.config.margin, self.config.temperature, []
        for name, (prototypes, codes, cosine, *part) in targets.items():
            x, clips = features[name], counts
            if part and (some := part[0]) is not None:
                # without the other rows: their zeros would be pulled to a centroid too
                x, clips = x[some.rows], some.counts
            if self.config.normalize or cosine:
                x, prototypes = (F.normalize(full_precision(side), dim=1) for side in (x, prototypes))
            weight = getattr(self.config, f"{name}_weight", 1.0)  # no option for the mean and the joint embedding
            losses.append(weight * cluster_contrast(x, codes, prototypes, margin, temperature, clips))
        return torch.stack(losses).mean()
