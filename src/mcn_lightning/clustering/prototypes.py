"""Learned prototypes and balanced codes by Sinkhorn-Knopp (SwAV, Caron et al. 2020), as in MCN's ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.clustering.base import ALL_PRESENT, MEAN, Clustering, Step, Target, mask_absent, present_rows
from mcn_lightning.clustering.options import ClusteringConfig
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
    # the log-sum-exp of log-sum-exps: sums over processes that cannot overflow
    return gather_rows(mass[None], [1] * world_size()).logsumexp(dim=0)


class Sinkhorn(Clustering):
    """Each modality predicts the balanced code of the mean over learned prototypes.

    If some clips lack a modality, the codes are balanced over the clips that have it.

    Args:
        config: options of the clustering.
        dim: width D of the embeddings.
        names: names of the embeddings.
    """

    hard: ClassVar[bool] = False
    """Whether a code is a single cluster instead of a distribution over all."""

    def __init__(self, config: ClusteringConfig, dim: int, names: Sequence[str]) -> None:
        super().__init__(config, dim, names)
        # random directions: prototypes must differ, or all would get the same clips
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.num_clusters, dim), dim=1))

    def scores(self, features: Tensor) -> Tensor:
        """Return the cosine similarities of features ``(B, D)`` to the prototypes, ``(B, K)``, without gradient."""
        with torch.no_grad():
            # scaled at each use, in place of SwAV's renormalisation of the parameter after each step
            return F.normalize(features.float(), dim=1) @ F.normalize(self.prototypes.float(), dim=1).T

    def codes(self, features: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Return the balanced code of each clip, ``(B, K)``; a single 1 in each row for hard codes."""
        codes = sinkhorn(self.scores(features), self.config.epsilon, self.config.sinkhorn_iterations, counts)
        if not self.hard:
            return codes
        return F.one_hot(codes.argmax(dim=1), codes.shape[1]).to(codes.dtype)

    def targets(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> dict[str, Target]:
        """Return the code of the mean for each modality."""
        codes = self.codes_of(MEAN, features, step)
        parts = {name: step.having(name) for name in features if name != MEAN}
        return {
            name: Target(self.prototypes, present_rows(codes, part), True, part)
            for name, part in parts.items()
            if part is None or part
        }

    def codes_of(self, name: str, features: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the codes ``(n, K)`` of a feature, zeros for clips without it."""
        if (some := step.having(name)) is None:
            return self.codes(features[name], step.counts)
        codes = self.codes(features[name][some.rows], some.counts)
        return codes.new_zeros(len(features[name]), codes.shape[1]).index_copy(0, some.rows, codes)

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return the ``prototypes`` ``(K, D)``."""
        return {"prototypes": self.prototypes}

    def assignments(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Return the nearest prototype of each clip's mean, ``(B,)`` int64; -1 for a clip without any embedding."""
        return mask_absent(self.scores(features[MEAN]).argmax(dim=1), present, MEAN)


class SinkhornHard(Sinkhorn):
    """Each modality predicts one cluster, that of the mean."""

    hard = True


def _has_others(name: str, found: set[str]) -> bool:
    return name in found and len(found) > 1


class SinkhornSwapped(Sinkhorn):
    """Each modality predicts the codes of the other modalities.

    If some clips lack a modality, a clip predicts the codes of its other modalities. A clip with a single modality
    predicts none.
    """

    def targets(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> dict[str, Target]:
        """Return for each modality the mean code of the others; with a single modality that of the mean."""
        names = [name for name in features if name != MEAN]
        # no other modality has a code to predict
        if len(names) == 1:
            return super().targets(features, step)
        codes = {name: self.codes_of(name, features, step) for name in names}
        # the loss is linear in the code: predicting the mean code equals the mean of predicting each code
        targets = {}
        for name in names:
            others = [codes[other] for other in names if other != name]
            if step.present is None:
                targets[name] = Target(self.prototypes, torch.stack(others).mean(dim=0), True)
            elif some := step.present.select(partial(_has_others, name)):
                total = torch.stack([each[some.rows] for each in others]).sum(dim=0)
                # absent codes are zeros, so the sum is over those present and its mass is their number
                targets[name] = Target(self.prototypes, total / total.sum(dim=1, keepdim=True), True, some)
        return targets


class SinkhornSwappedHard(SinkhornSwapped):
    """Each modality predicts the clusters of the other modalities."""

    hard = True
