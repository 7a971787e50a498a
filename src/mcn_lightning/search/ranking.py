"""The best clips for a query, by rank: nearest embeddings, full text, or both."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import reading
from mcn_lightning.metrics import query_density
from mcn_lightning.metrics.directions import embedding_names
from mcn_lightning.search.answers import fuse_ranks
from mcn_lightning.search.clips import Clips
from mcn_lightning.search.manifest import CLUSTERS, Manifest, gallery_names
from mcn_lightning.search.neighbours import Neighbours, exact, has_faiss
from mcn_lightning.search.options import SearchConfig, modalities_of
from mcn_lightning.search.query import Query
from mcn_lightning.search.vectors import Vectors

POOL = 5_000
"""Nearest clips among which calibrated scores are compared, at least."""
DEPTH = 100  # of each ranking that is fused, at least
TRIED = 6_000
"""Candidates that a condition is tested on, before it is tested on all clips."""


class Ranking:
    """Finds the best rows of an index.

    Args:
        folder: of the index.
        manifest: what it holds.
        clips: its table.
        vectors: its embeddings.
    """

    def __init__(self, folder: Path, manifest: Manifest, clips: Clips, vectors: Vectors) -> None:
        self.folder, self.manifest, self.clips, self.vectors = folder, manifest, clips, vectors
        self._neighbours: dict[str, Neighbours] = {}
        self._having: dict[str, np.ndarray] = {}

    @cached_property
    def clusters(self) -> dict[str, Tensor]:
        """Centroids ``(K, D)`` and sizes ``(K,)`` of the clusters by embedding, as ``video.centroids``; may be empty.

        Raises:
            InputError: if the file is damaged.
        """
        path = self.folder / CLUSTERS
        with reading(path, "the clusters of the index", SafetensorError, advice="make the index again"):
            return load_file(path)

    def rank(
        self,
        query: Query,
        vector: Tensor | None,
        letters: str,
        depth: int,
        matching: Future[list[int] | None],
        config: SearchConfig,
    ) -> dict[int, float]:
        """Return the scores of the best clips by row, best first.

        Args:
            query: what is looked for.
            vector: its embedding ``(D,)``; ``None`` for words alone.
            letters: of the gallery.
            depth: clips.
            matching: what ``matching`` returns for the query and depth.
            config: the condition on the clips, and how scores are calibrated.

        Raises:
            InputError: if the scores cannot be calibrated, or the condition is none.
        """
        fused = max(depth, DEPTH) if query.words is not None else depth
        nearest: dict[int, float] = {}
        if vector is not None:
            if config.calibrate:
                nearest = self._calibrated(query, vector, letters, fused, config)
            else:
                scores, rows = self.nearest(letters, vector, fused, config.where)
                nearest = dict(zip(rows.tolist(), scores.tolist(), strict=True))
        if (by_words := matching.result()) is None:
            return nearest
        rankings = [by_words] if vector is None else [list(nearest), by_words]
        return dict(list(fuse_ranks(*rankings).items())[:depth])

    def matching(self, words: str | None, depth: int, condition: str | None) -> list[int] | None:
        """Return the rows of clips that have words of a query, the best first; ``None`` without words.

        Args:
            words: of the query.
            depth: clips.
            condition: on the table of clips, in SQL.

        Raises:
            InputError: if there are no words, or the condition is none.
        """
        if words is None:
            return None
        fused = max(depth, DEPTH)
        if condition is None:
            return self.clips.matching(words, fused)
        # all that match, as the condition may remove most of them
        found = self.clips.matching(words, len(self.vectors))
        if (first := self.clips.holding(condition, found, fused)) is not None:
            return first
        rows = np.array(found, dtype=np.int64)
        kept: list[int] = rows[np.isin(rows, self.clips.where(condition), assume_unique=True)][:fused].tolist()
        return kept

    def nearest(
        self, letters: str, vector: Tensor, k: int, condition: str | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the nearest clips, by the search index of the gallery if there is one.

        Args:
            letters: of the gallery.
            vector: ``(D,)``.
            k: clips.
            condition: on the table of clips, in SQL.

        Raises:
            InputError: if the condition is none.
        """
        names = gallery_names(letters, self.manifest.embeddings, "--modality")
        there, neighbours = self.rows_with(letters), self._gallery(letters, names)
        # of a large index, the best candidates are tested first: reading the whole table takes longer than the search
        if condition is not None and neighbours is not None and (wanted := neighbours.few(k)) <= TRIED // 2:
            best = neighbours.candidates(vector, TRIED)
            kept = self.clips.holding(condition, best, wanted)
            if kept is not None and len(kept) == wanted:
                scores, rows = neighbours.compare(vector, np.array(kept))
                return scores[:k], rows[:k]
        allowed = None if condition is None else self.clips.where(condition)
        if allowed is not None and len(there) < len(self.vectors):
            allowed = np.intersect1d(allowed, there, assume_unique=True)
        asked = there if allowed is None else allowed
        k = min(k, len(asked))
        if k == 0:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        if neighbours is None or (allowed is not None and len(allowed) <= neighbours.few(k)):
            every = None if len(asked) == len(self.vectors) else asked
            scores, rows = exact(self.vectors, names, vector[None], k, every)
            return scores[0], rows[0]
        return neighbours.search(vector, k, allowed)

    def warm_up(self, letters: str) -> None:
        """Read the search index of a gallery and the table, so that no search waits for the disk.

        Args:
            letters: of the gallery.
        """
        names = gallery_names(letters, self.manifest.embeddings, "--modality")
        if (neighbours := self._gallery(letters, names)) is not None:
            neighbours.warm_up()
        self.rows_with(letters)
        self.clips.warm_up()

    def _key(self, letters: str) -> str | None:
        return next((each for each in self.manifest.galleries if {*each} == {*letters}), None)

    def _gallery(self, letters: str, names: Sequence[str]) -> Neighbours | None:
        """Return the search index of a gallery, opened at the first search."""
        key = self._key(letters)
        if key is None or not has_faiss():
            return None
        if key not in self._neighbours:
            about = self.manifest.galleries[key]
            self._neighbours[key] = Neighbours(self.folder / about["file"], about, self.vectors, names)
        return self._neighbours[key]

    def rows_with(self, letters: str) -> np.ndarray:
        """Return the rows of the clips that have any of some modalities, ascending.

        Args:
            letters: of the modalities.
        """
        key = "".join(sorted(letters))
        if key not in self._having:
            gallery, count = self._key(letters), len(self.vectors)
            whole = gallery is not None and self.manifest.galleries[gallery]["clips"] == count
            wanted = modalities_of(letters, "--modality")
            self._having[key] = np.arange(count) if whole else self.clips.having(wanted)
        return self._having[key]

    def _calibrated(
        self,
        query: Query,
        vector: Tensor,
        letters: str,
        depth: int,
        config: SearchConfig,
    ) -> dict[int, float]:
        """Return calibrated scores of the best clips, as ``Scoring`` has them, among the nearest ones."""
        asking = embedding_names(query.modalities, "audio_text" in self.manifest.embeddings)
        centroids = self.clusters.get(f"{asking[0]}.centroids") if len(asking) == 1 else None
        if centroids is None:
            raise InputError(
                "--calibrate: expected a model with k-means clusters, and a query of one modality, found "
                f"{' and '.join(query.modalities) or 'neither'}; leave it out"
            )
        names = gallery_names(letters, self.manifest.embeddings, "--modality")
        scores, rows = self.nearest(letters, vector, max(POOL, 10 * depth), config.where)
        sizes = self.clusters[f"{asking[0]}.sizes"]
        items = self.vectors.rows(names, rows)
        again = scores - config.calibrate * query_density(items, centroids, sizes, config.calibrate_temperature).numpy()
        # by score and then by row, so that ties do not depend on the search index
        order = np.lexsort((rows, -again))[:depth]
        return dict(zip(rows[order].tolist(), again[order].tolist(), strict=True))
