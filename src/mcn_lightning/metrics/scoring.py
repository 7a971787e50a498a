"""Scores of a direction of retrieval: fusion of modalities, and calibration of gallery items that are hubs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.metrics.directions import AUDIO_TEXT, embedding_names, parse_direction
from mcn_lightning.metrics.retrieval import query_density
from mcn_lightning.options.config import check_fields
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveFloat

Fusion = Literal["sum", "normalized_mean", "normalized_sum"]


def combine(embeddings: Mapping[str, Tensor], names: Sequence[str], how: Fusion, audio_weight: float = 1.0) -> Tensor:
    """Fuse the embeddings of several modalities, each ``(B, D)``, into one ``(B, D)``; see ``RetrievalEvaluation``.

    If the network has a joint embedding of audio and text, it stands for both.

    Raises:
        InputError: if only one of audio and text is named, although they have a joint embedding.
    """
    names = embedding_names(names, AUDIO_TEXT in embeddings)
    # float32 before the sum, also where autocast gave bfloat16
    parts = [embeddings[name].float() for name in names]
    if how == "normalized_mean":
        parts = [F.normalize(part, dim=1) for part in parts]
    # alone, a factor would change no order of the scores
    if len(parts) > 1:
        parts = [audio_weight * part if name == "audio" else part for name, part in zip(names, parts, strict=True)]
    # one embedding is not copied: evaluation keeps it, and scores it in several directions
    total = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
    if how == "normalized_sum":
        return F.normalize(total, dim=1)
    return total if how == "sum" else total / len(parts)


ClustersOf = Callable[[Sequence[str]], tuple[Tensor, Tensor] | None]
"""Returns centroids ``(K, D)`` and sizes ``(K,)`` of the clusters of some embeddings' sum, if there are any."""


@dataclass(frozen=True)
class Scoring:
    """Options for the scores of a direction; see ``RetrievalEvaluation``.

    Args:
        combine: how the modalities of one side are fused.
        audio_weight: factor of the audio embedding where it is summed with others.
        calibrate: share of the density of queries that is subtracted from the scores of a gallery item.
        calibrate_temperature: of the similarities in the density.
        where: prefix of option names in messages.
    """

    combine: Fusion = "sum"
    audio_weight: PositiveFloat = 1.0
    calibrate: NonNegativeFloat = 0.0
    calibrate_temperature: PositiveFloat = 0.05
    where: str = "--retrieval."

    def __post_init__(self) -> None:
        check_fields(self, self.where)

    def calibration_warning(self, clusters_of: ClustersOf, directions: Sequence[str], joint: bool) -> str:
        """Return a warning that names the directions without clusters to calibrate with, or "".

        Args:
            clusters_of: see ``sides``.
            directions: that are evaluated.
            joint: whether audio and text have one joint embedding.
        """
        if not self.calibrate:
            return ""
        plain = [
            direction
            for direction in directions
            if clusters_of(embedding_names(parse_direction(direction)[0], joint)) is None
        ]
        if not plain:
            return ""
        return (
            f"{self.where}calibrate: there are no k-means clusters (yet) of the queries of {', '.join(plain)}, "
            "whose scores stay as they are; --model.clustering.kind kmeans_per_modality or kmeans finds some "
            "for queries of one modality"
        )

    def sides(
        self,
        clusters_of: ClustersOf,
        embeddings: Mapping[str, Tensor],
        direction: str,
        gallery: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return queries and gallery items of a direction, whose dot products are the scores.

        Both are ``(B, D)``, or ``(B, D + 1)`` with calibration.

        Args:
            clusters_of: returns the clusters of the query's modalities.
            embeddings: of the queries, by modality ``(B, D)``.
            direction: letters, for instance t->va.
            gallery: embeddings of the items, by modality. By default the items come with the queries.
        """
        query_names, item_names = parse_direction(direction)
        queries = combine(embeddings, query_names, self.combine, self.audio_weight)
        items = combine(gallery or embeddings, item_names, self.combine, self.audio_weight)
        clusters = clusters_of(embedding_names(query_names, AUDIO_TEXT in embeddings)) if self.calibrate else None
        if clusters is None:
            return queries, items
        density = query_density(items, *clusters, self.calibrate_temperature)
        # the density is one more dimension: so the calibrated score is still a dot product, as ranking needs it
        return F.pad(queries, (0, 1), value=1.0), torch.cat([items, -self.calibrate * density[:, None]], dim=1)
