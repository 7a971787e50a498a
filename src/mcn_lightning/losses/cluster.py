"""The clustering loss: every embedding should be nearest to the centroid of its clip's cluster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.distributed import row_counts, total, world
from mcn_lightning.losses.tiled import full_precision


@dataclass(frozen=True)
class ClusterLossConfig:
    """How embeddings are drawn to centroids; the defaults are the released recipe.

    Args:
        kind: per_modality (mean of one loss for each modality) or joint (one loss on the fused feature).
        margin: taken from the logit of the true cluster.
        temperature: dot products are divided by it.
        normalize: scale embeddings and centroids to length 1 for this loss.
    """

    kind: Literal["per_modality", "joint"] = "per_modality"
    margin: float = 0.001
    temperature: float = 1.0
    normalize: bool = False

    def __post_init__(self) -> None:
        flag = "--model.loss.cluster"
        if self.kind not in ("per_modality", "joint"):
            raise ValueError(f"{flag}.kind: expected per_modality or joint, found {self.kind!r}; choose one of them")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"{flag}.margin: expected 0 or more, found {self.margin}; 0 means no margin")
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"{flag}.temperature: expected more than 0, found {self.temperature}; 1 leaves the products as they are"
            )


def cluster_contrast(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    margin: float,
    temperature: float = 1.0,
    counts: Sequence[int] | None = None,
) -> Tensor:
    """Cross-entropy of ``X C^T / temperature - margin * onehot(y)`` against the labels.

    The clustering loss of MCN (Chen et al., ICCV 2021) as in the released code: the centroids are a classifier.

    Args:
        x: embeddings ``(n, D)`` of this process's clips.
        labels: cluster of each clip ``(n,)`` int64.
        centroids: ``(K, D)``; no gradient flows into them.
        margin: taken from the logit of the label, after the division.
        temperature: dot products are divided by it.
        counts: clips of every process from ``distributed.row_counts``, which is asked when they are not given.

    Returns:
        Scalar, mean over the clips of all processes, at least float32.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = full_precision(x)
        logits = x @ centroids.detach().to(x.dtype).T / temperature
        own = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
        logits = logits - margin * own.to(logits.dtype)
        if world() == 1:
            return F.cross_entropy(logits, labels)
        counts = row_counts(len(x), x.device) if counts is None else counts
        return total(F.cross_entropy(logits, labels, reduction="sum")) / sum(counts)


class ClusterLoss(nn.Module):
    """The clustering loss of each modality, or of the fused feature.

    Args:
        config: kind and constants.
    """

    def __init__(self, config: ClusterLossConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        embeddings: dict[str, Tensor],
        mean: Tensor,
        labels: Tensor,
        centroids: Tensor,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the scalar loss, mean over the clips of all processes.

        Args:
            embeddings: embeddings ``(n, D)`` of this process's clips, of the modalities present.
            mean: fused feature ``(n, D)``, read by the kind joint only.
            labels: cluster of each clip ``(n,)`` int64.
            centroids: ``(K, D)``.
            counts: clips of every process from ``distributed.row_counts``, which is asked when they are not given.
        """
        features = [mean] if self.config.kind == "joint" else list(embeddings.values())
        if self.config.normalize:
            features = [F.normalize(full_precision(x), dim=1) for x in features]
            centroids = F.normalize(full_precision(centroids.detach()), dim=1)
        margin, temperature = self.config.margin, self.config.temperature
        counts = row_counts(len(labels), labels.device) if counts is None else counts
        terms = [cluster_contrast(x, labels, centroids, margin, temperature, counts) for x in features]
        return torch.stack(terms).mean()
