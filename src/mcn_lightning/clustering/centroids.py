"""k-means centroids of a queue as prototypes (MCN, Chen et al., ICCV 2021, and its ablation)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from mcn_lightning.clustering.base import ALL_PRESENT, MEAN, Clustering, Step, Target, mask_absent, present_rows
from mcn_lightning.clustering.kmeans import KMeansReport
from mcn_lightning.clustering.online import OnlineClustering
from mcn_lightning.clustering.options import ClusteringConfig


class CentroidClustering(Clustering):
    """k-means centroids as prototypes. The kinds differ in the clustered features, and in those that are attracted.

    Args:
        config: options of the clustering.
        dim: width D of the embeddings.
        names: names of the embeddings.
    """

    runs_kmeans = True

    def __init__(self, config: ClusteringConfig, dim: int, names: Sequence[str]) -> None:
        super().__init__(config, dim, names)
        # named `of`: the keys of checkpoints begin with clustering.of
        self.of = nn.ModuleDict({name: OnlineClustering(config, dim) for name in self.clustered(names)})

    @classmethod
    def clustered(cls, names: Sequence[str]) -> list[str]:
        """Return the features that are clustered, of embeddings of these names and their mean."""
        return [MEAN]

    def predicted(self, features: Iterable[str], ready: Mapping[str, object]) -> dict[str, str]:
        """Return the features that are attracted to centroids, each with the feature whose centroids these are.

        Args:
            features: names of the features.
            ready: the clustered features that have centroids.
        """
        return {name: name for name in ready}

    @classmethod
    def queue_bytes(cls, config: ClusteringConfig, dim: int, names: Sequence[str]) -> int:
        """Return the bytes of all queues."""
        # 4 bytes a number in float32, 2 in bfloat16
        return len(cls.clustered(names)) * config.queue_rows * dim * (4 if config.queue_dtype == "float32" else 2)

    @property
    def queue_rows(self) -> int:
        """Rows of each queue."""
        return self.config.queue_rows

    def _each(self, features: Mapping[str, object]) -> dict[str, OnlineClustering]:
        """Return the clusterings whose features exist in this step."""
        return {name: one for name, one in self._online().items() if name in features}

    def _online(self) -> dict[str, OnlineClustering]:
        return {name: one for name, one in self.of.items() if isinstance(one, OnlineClustering)}

    @property
    def has_centroids(self) -> bool:
        """Whether all clustered features have centroids."""
        return all(one.has_centroids for one in self._online().values())

    def cluster(
        self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT, fresh: bool = False
    ) -> dict[str, KMeansReport]:
        """Run k-means on queue and batch, on the clips that have the feature; see ``OnlineClustering.cluster``."""
        reports = {}
        for name, one in self._each(features).items():
            some = step.having(name)
            rows = None if step.counts is None else sum(step.counts)
            if some is not None:
                rows = sum(some.counts)
                if rows + self.config.queue_rows < self.config.num_clusters:  # wait for a batch with more such clips
                    continue
            report = one.cluster(present_rows(features[name], some), fresh, batch_rows=rows)
            if report is not None:
                reports[name] = report
        return reports

    def fit(self, rows: Mapping[str, Sequence[Tensor]], fresh: bool = False) -> dict[str, KMeansReport]:
        """Run k-means on given rows; see ``OnlineClustering.fit``."""
        # a process without rows of a feature must join the collective operations too
        return {name: one.fit(rows.get(name, ()), fresh) for name, one in self._online().items()}

    def targets(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> dict[str, Target]:
        """Return the nearest centroid of each clip, for features that have centroids."""
        # k-means of a modality that few clips have may run later than the others'
        ready = {name: one for name, one in self._each(features).items() if one.has_centroids}
        labels = {name: one.labels(features[name]) for name, one in ready.items()}
        found = {}
        for name, source in self.predicted(features, ready).items():
            some = step.having(name)
            if some is None or some:
                found[name] = Target(ready[source].centroids, present_rows(labels[source], some), some=some)
        return found

    def push(self, features: Mapping[str, Tensor], step: Step = ALL_PRESENT) -> None:
        """Push the first clips of each video to the queues; see ``OnlineClustering.push``."""
        for name, one in self._each(features).items():
            kept = None if step.present is None else step.present.mask(name, MEAN)
            one.push(features[name], step.clips_per_video, step.counts, kept)

    def clusters(self, name: str) -> tuple[Tensor, Tensor] | None:
        """Return the centroids of a modality, or of the mean if it is clustered; ``None`` before the first k-means."""
        found = self._online()
        one = found.get(name) or found.get(MEAN)
        return (one.centroids, one.sizes) if one is not None and one.has_centroids else None

    def centroids_by_name(self) -> dict[str, Tensor]:
        """Return ``centroids`` ``(K, D)``, or ``centroids_<modality>`` for each; empty before the first k-means."""
        found = {name: one.centroids for name, one in self._online().items() if one.has_centroids}
        return {"centroids" if name == MEAN else f"centroids_{name}": value for name, value in found.items()}

    def assignments(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor | None:
        """Return the cluster of each clip (of its first modality if each is clustered alone); see ``Clustering``."""
        if not self.has_centroids or not (available := self._each(features)):
            return None
        name, one = next(iter(available.items()))
        return mask_absent(one.labels(features[name]), present, name)


class KMeansOfMean(CentroidClustering):
    """The mean of the modalities is clustered, and each modality is attracted to the centroid of its clip."""

    def predicted(self, features: Iterable[str], ready: Mapping[str, object]) -> dict[str, str]:
        """Return every embedding, attracted to the centroids of the mean."""
        return {name: MEAN for name in features if name != MEAN and MEAN in ready}


class KMeansJoint(CentroidClustering):
    """The mean of the modalities is clustered, and is itself attracted to its centroid."""


class KMeansPerModality(CentroidClustering):
    """Each modality is clustered alone, and attracted to its own centroids."""

    @classmethod
    def clustered(cls, names: Sequence[str]) -> list[str]:
        """Return every embedding."""
        return list(names)
