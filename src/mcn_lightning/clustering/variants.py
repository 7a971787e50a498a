"""The clusterings that a run can choose from, all with one way in and one way out.

In: the embeddings of the clips of a batch by modality, and their mean. Out: for each feature that the loss draws to
clusters, the prototypes of the clusters and the code of each clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.clustering.kmeans import KMeansReport
from mcn_lightning.clustering.online import ClusteringConfig, OnlineClustering
from mcn_lightning.clustering.sinkhorn import sinkhorn
from mcn_lightning.distributed import Presence, Subset

MEAN = "mean"
"""Name of the fused feature among the embeddings."""


class Target(NamedTuple):
    """What one feature should predict.

    Args:
        prototypes: of the clusters, ``(K, D)``.
        codes: cluster of each clip ``(B,)`` int64, or its distribution over the clusters ``(B, K)``.
        cosine: whether the prediction is by cosine similarity, whatever the options of the loss say.
        some: the clips that should predict, whose codes these are; ``None`` for all.
    """

    prototypes: Tensor
    codes: Tensor
    cosine: bool = False
    some: Subset | None = None


def _having(name: str, present: Presence | None) -> Subset | None:
    """Return the clips that have a feature; ``None`` for all."""
    if present is None:
        return None
    return present.having_any() if name == MEAN else present.having(name)


def _rows(feature: Tensor, some: Subset | None) -> Tensor:
    return feature if some is None else feature[some.rows]


def _or_none(labels: Tensor, present: Mapping[str, Tensor] | None, name: str) -> Tensor:
    """Return labels ``(B,)``, -1 for clips without the feature."""
    if present is None:
        return labels
    return labels.masked_fill(~present[name].to(labels.device, non_blocking=True), -1)


class CentroidClustering(nn.Module):
    """k-means centroids of a queue as prototypes (MCN, Chen et al., ICCV 2021, and its ablation).

    The kind kmeans clusters the mean of the modalities, to whose centroids each modality is drawn; kmeans_joint draws
    the mean itself; kmeans_per_modality clusters each modality alone.

    Args:
        config: how to cluster.
        dim: width D of the embeddings.
        modalities: names of the embeddings.
    """

    def __init__(self, config: ClusteringConfig, dim: int, modalities: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        names = list(modalities) if config.kind == "kmeans_per_modality" else [MEAN]
        self.of = nn.ModuleDict({name: OnlineClustering(config, dim) for name in names})

    def _each(self, features: Mapping[str, Any]) -> dict[str, OnlineClustering]:
        """Return the clusterings whose features are there."""
        return {name: one for name, one in self.of.items() if name in features}  # type: ignore[misc]

    @property
    def has_centroids(self) -> bool:
        """Whether there are centroids of all features."""
        return all(one.has_centroids for one in self.of.values())

    def cluster(
        self,
        features: Mapping[str, Tensor],
        fresh: bool = False,
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> dict[str, KMeansReport]:
        """Run k-means on queue and batch; see ``OnlineClustering.cluster``.

        Args:
            features: embeddings of this process ``(n, D)`` by modality, and their mean.
            fresh: start anew and not from the present centroids.
            counts: clips of every process.
            present: which clips have which feature, where some lack one: those that have it are clustered.

        Returns:
            A report for each feature that was clustered; empty as long as there are too few clips.
        """
        reports = {}
        for name, one in self._each(features).items():
            some = _having(name, present)
            rows = None if counts is None else sum(counts)
            if some is not None:
                rows = sum(some.counts)
                if rows + self.config.queue_rows < self.config.num_clusters:  # another batch has more of them
                    continue
            report = one.cluster(_rows(features[name], some), fresh, batch_rows=rows)
            if report is not None:
                reports[name] = report
        return reports

    def fit(self, rows: Mapping[str, Sequence[Tensor]], fresh: bool = False) -> dict[str, KMeansReport]:
        """Run k-means on rows from elsewhere; see ``OnlineClustering.fit``."""
        # a process without rows takes part in what all compute together
        return {name: one.fit(rows.get(name, ()), fresh) for name, one in self.of.items()}  # type: ignore[operator]

    def targets(
        self,
        features: Mapping[str, Tensor],
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> dict[str, Target]:
        """Return what each feature should predict: the nearest centroid; nothing of features without centroids yet.

        Args:
            features: embeddings ``(n, D)`` by modality, and their mean.
            counts: clips of every process (not needed here).
            present: which clips have which feature, where some lack one.
        """
        ready = {name: one for name, one in self._each(features).items() if one.has_centroids}
        labels = {name: (one.centroids, one.labels(features[name])) for name, one in ready.items()}
        if self.config.kind == "kmeans":
            labels = {name: labels[MEAN] for name in features if name != MEAN and MEAN in labels}
        parts = {name: _having(name, present) for name in labels}
        return {
            name: Target(centroids, _rows(codes, parts[name]), some=parts[name])
            for name, (centroids, codes) in labels.items()
            if parts[name] is None or parts[name]
        }

    def push(
        self,
        features: Mapping[str, Tensor],
        clips_per_video: int,
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> None:
        """Push the first clips of each video to the queues; see ``OnlineClustering.push``."""
        for name, one in self._each(features).items():
            one.push(features[name], clips_per_video, counts, None if present is None else present.mask(name, MEAN))

    def clusters(self, modality: str) -> tuple[Tensor, Tensor] | None:
        """Return the centroids ``(K, D)`` of a modality, or of the mean where that is clustered, and the rows of each.

        ``None`` as long as there are none.
        """
        name = modality if modality in self.of else MEAN
        one = self.of[name] if name in self.of else None
        return (one.centroids, one.sizes) if isinstance(one, OnlineClustering) and one.has_centroids else None

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return ``centroids`` ``(K, D)``, or ``centroids_<modality>`` of each; none as long as there are none."""
        found = {name: one.centroids for name, one in self.of.items() if one.has_centroids}
        return {"centroids" if name == MEAN else f"centroids_{name}": value for name, value in found.items()}  # type: ignore[misc]

    def assignments(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Return the cluster of each clip ``(B,)`` int64 (of its first modality where each is clustered alone).

        Args:
            features: embeddings ``(B, D)`` by modality, and their mean.
            present: which clips have each feature, ``(B,)`` bool by name; the cluster of the others is -1.
        """
        if not self.has_centroids or not (there := self._each(features)):
            return None
        name, one = next(iter(there.items()))
        return _or_none(one.labels(features[name]), present, name)


class PrototypeClustering(nn.Module):
    """Learned prototypes and balanced codes (SwAV, Caron et al. 2020; as MCN's ablation compares it).

    The kind sinkhorn lets each modality predict the code of the mean, sinkhorn_swapped the codes of the other
    modalities; with ``_hard`` at its end a code is one cluster and not a distribution.

    Args:
        config: how to cluster.
        dim: width D of the embeddings.
    """

    has_centroids = True

    def __init__(self, config: ClusteringConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.num_clusters, dim), dim=1))

    def cluster(
        self,
        features: Mapping[str, Tensor],
        fresh: bool = False,
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> dict[str, KMeansReport]:
        """Return nothing: prototypes are learned, and codes found anew for each batch."""
        return {}

    def scores(self, features: Tensor) -> Tensor:
        """Return the cosine similarities of features ``(B, D)`` to the prototypes, ``(B, K)``, without gradient."""
        with torch.no_grad():
            return F.normalize(features.float(), dim=1) @ F.normalize(self.prototypes.float(), dim=1).T

    def codes(self, features: Tensor, counts: Sequence[int] | None = None) -> Tensor:
        """Return the balanced code of each clip, ``(B, K)``; a single 1 in each row for hard codes."""
        codes = sinkhorn(self.scores(features), self.config.epsilon, self.config.sinkhorn_iterations, counts)
        if not self.config.kind.endswith("_hard"):
            return codes
        return F.one_hot(codes.argmax(dim=1), codes.shape[1]).to(codes.dtype)

    def targets(
        self,
        features: Mapping[str, Tensor],
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> dict[str, Target]:
        """Return what each modality should predict; see ``CentroidClustering.targets``.

        Where some clips lack a modality, the codes are spread evenly over those that have it, and a clip predicts the
        codes of the others that it has; one that has no other predicts none.
        """
        names = [name for name in features if name != MEAN]
        if not self.config.kind.startswith("sinkhorn_swapped") or len(names) == 1:
            codes = self._codes_of(MEAN, features, counts, present)
            parts = {name: _having(name, present) for name in names}
            return {
                name: Target(self.prototypes, _rows(codes, part), True, part)
                for name, part in parts.items()
                if part is None or part
            }
        codes_of = {name: self._codes_of(name, features, counts, present) for name in names}
        # the loss is linear in the code: predicting the mean of the others' codes is the mean of predicting each
        if present is None:
            return {
                name: Target(
                    self.prototypes,
                    torch.stack([codes_of[other] for other in names if other != name]).mean(dim=0),
                    True,
                )
                for name in names
            }
        targets = {}
        for name in names:
            if some := present.select(lambda found, name=name: name in found and len(found) > 1):  # type: ignore[misc]
                others = torch.stack([codes_of[other][some.rows] for other in names if other != name]).sum(dim=0)
                targets[name] = Target(self.prototypes, others / others.sum(dim=1, keepdim=True), True, some)
        return targets

    def _codes_of(
        self, name: str, features: Mapping[str, Tensor], counts: Sequence[int] | None, present: Presence | None
    ) -> Tensor:
        """Return the codes ``(n, K)`` of a feature, zeros for clips without it."""
        if (some := _having(name, present)) is None:
            return self.codes(features[name], counts)
        codes = self.codes(features[name][some.rows], some.counts)
        return codes.new_zeros(len(features[name]), codes.shape[1]).index_copy(0, some.rows, codes)

    def push(
        self,
        features: Mapping[str, Tensor],
        clips_per_video: int,
        counts: Sequence[int] | None = None,
        present: Presence | None = None,
    ) -> None:
        """Do nothing: there is no queue."""

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return the ``prototypes`` ``(K, D)``."""
        return {"prototypes": self.prototypes}

    def assignments(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Return the nearest prototype of each clip's mean, ``(B,)`` int64; -1 for a clip without any embedding."""
        return _or_none(self.scores(features[MEAN]).argmax(dim=1), present, MEAN)


Clustering = CentroidClustering | PrototypeClustering


def make_clustering(config: ClusteringConfig, dim: int, modalities: Sequence[str]) -> Clustering | None:
    """Return the clustering of a kind; ``None`` for the kind none.

    Args:
        config: its kind and constants.
        dim: width D of the embeddings.
        modalities: names of the embeddings.
    """
    if config.kind == "none":
        return None
    if config.kind.startswith("sinkhorn"):
        return PrototypeClustering(config, dim)
    return CentroidClustering(config, dim, modalities)
