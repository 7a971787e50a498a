"""The embeddings of an evaluation, kept once for all directions of retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mcn_lightning.metrics import Ranking, RetrievalRecall
from mcn_lightning.metrics.directions import AUDIO_TEXT, captions_side, clips_of_sides
from mcn_lightning.metrics.scoring import ClustersOf, Scoring


@dataclass(frozen=True)
class _Batch:
    ids: Sequence[str]
    items: Sequence[str]
    embeddings: dict[str, Tensor]
    present: Mapping[str, Tensor] | None

    def sides(self, direction: str) -> tuple[Tensor, Tensor] | tuple[None, None]:
        return clips_of_sides(self.present, direction, AUDIO_TEXT in self.embeddings)


class HeldOutEmbeddings:
    """The embeddings of this process's held-out clips, and their ranks in any direction.

    Each embedding is kept once, in the precision of the network. The queries and the gallery of a direction exist while
    it is ranked. So memory does not grow with the number of directions.
    """

    def __init__(self) -> None:
        self._batches: list[_Batch] = []

    def add(
        self,
        ids: Sequence[str],
        items: Sequence[str],
        embeddings: Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None,
    ) -> None:
        """Keep the embeddings of a batch.

        Args:
            ids: B names, one for each caption of a clip.
            items: clip of each row, B names; empty if each row is a clip.
            embeddings: ``(B, D)`` by modality.
            present: which clips have each embedding, ``(B,)`` bool by name; ``None`` if all have all.
        """
        # copies: a compiled network may write its next outputs into the same memory
        kept = {name: rows.detach().clone() for name, rows in embeddings.items()}
        self._batches.append(_Batch(ids, items, kept, present))

    def pairs(self, direction: str) -> int:
        """Return the number of rows with both a query and a gallery item in a direction, such as ``t->va``."""
        count = 0
        for batch in self._batches:
            asks, answers = batch.sides(direction)
            count += len(batch.ids) if asks is None or answers is None else int((asks & answers).sum())
        return count

    def rank(
        self, direction: str, scoring: Scoring, clusters_of: ClustersOf
    ) -> tuple[dict[str, float], Ranking | None]:
        """Rank the clips of all processes in a direction. All processes call it together.

        Args:
            direction: letters, for instance t->va.
            scoring: how modalities are fused and scores are calibrated.
            clusters_of: see ``Scoring.sides``.

        Returns:
            Metrics by name, and the ranking.

        Raises:
            ValueError: if an embedding is not finite.
        """
        recall = RetrievalRecall(captions=captions_side(direction))
        for batch in self._batches:
            queries, gallery = scoring.sides(clusters_of, batch.embeddings, direction)
            recall.update(batch.ids, queries, gallery, batch.items, *batch.sides(direction))
        metrics = recall.compute()
        # together: one wait for a GPU
        return dict(zip(metrics, torch.stack(list(metrics.values())).tolist(), strict=True)), recall.ranking
