"""The nearest clips of a query: by faiss where it is installed, else by comparing all of them."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_through, replacing
from mcn_lightning.search.vectors import Vectors

SAMPLE = 200
"""Queries by which recall is measured."""
DEPTH = 10  # of that recall
ITERATIONS = 8  # of the k-means that finds the lists
ROWS_A_LIST = 40  # of its training sample; faiss warns below 39
FINEST = 128
"""Bytes of a clip, or 1 bit a number if that is more: finer ones find no more, as candidates are scored again."""
RERANK, MORE = 4, 160  # candidates for each answer, and for each search, scored again by the stored embeddings
FLAT_FEW = 5_000  # clips that a condition leaves, up to which embeddings are faster than an index without lists
FEW = 20_000
"""Clips that a condition leaves, up to which they are compared one by one."""


class Choice(NamedTuple):
    """How a gallery is searched.

    Args:
        factory: faiss's name of it.
        bytes: that it takes.
        what: for the user.
    """

    factory: str
    bytes: int
    what: str


def choose(count: int, width: int, memory: float, flat_clips: int = 200_000) -> Choice:
    """Choose the search index of a gallery by its size and the memory that it may take.

    Args:
        count: N, clips.
        width: D.
        memory: gigabytes.
        flat_clips: clips up to which all are compared.

    Raises:
        InputError: if no form is small enough.
    """
    budget = memory * 1e9
    if count <= flat_clips and (size := 2 * count * width) <= budget:
        return Choice("SQfp16", size, "all clips compared, float16")
    # twice the root of N balances the lists that are compared with the clips in them
    lists = 2 ** round(math.log2(max(2 * math.sqrt(count), 1)))
    lists = max(min(lists, count // ROWS_A_LIST), 1)
    split = [(f"PQ{width // share}x4fs", -(-width // share // 2)) for share in (2, 4, 8, 16, 32) if width % share == 0]
    forms = [form for form in [("SQ8", width), *split] if form[1] <= max(FINEST, width // 8)]
    for form, each in forms or [("SQ8", width), ("SQ4", width // 2)]:
        # 8 bytes for the number of each clip, and a float32 centroid for each list
        size = count * (each + 8) + 16 * lists * each + 4 * lists * width  # lists are filled up to whole blocks of 32
        if size <= budget:
            return Choice(f"IVF{lists},{form}", size, f"{lists} lists, {each} bytes a clip")
    raise InputError(f"--memory: expected at least {size / 1e9:.2f} GB for {count} clips, found {memory:g}; raise it")


def has_faiss() -> bool:
    """Return whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def exact(
    vectors: Vectors, names: Sequence[str], queries: Tensor, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare queries with all clips, or with some of them.

    Args:
        vectors: of the clips.
        names: of the embeddings that are summed.
        queries: ``(Q, D)``.
        k: answers of each query.
        allowed: rows that may be answers, ascending; all if left out.

    Returns:
        Scores ``(Q, k)`` float32 and rows ``(Q, k)`` int64, best first; fewer where there are fewer clips.
    """
    queries = queries.float().cpu()
    best = torch.zeros(len(queries), 0)
    rows = torch.zeros(len(queries), 0, dtype=torch.int64)
    for chunk_rows, chunk in _gallery(vectors, names, allowed):
        scores = torch.cat([best, queries @ chunk.T], dim=1)
        places = torch.cat([rows, chunk_rows.expand(len(queries), -1)], dim=1)
        # the best so far and this chunk: no more than a chunk of scores is held
        best, order = scores.topk(min(k, scores.shape[1]), dim=1)
        rows = places.gather(1, order)
    return best.numpy(), rows.numpy()


def _gallery(vectors: Vectors, names: Sequence[str], allowed: np.ndarray | None) -> Any:
    """Return rows and embeddings of the clips, a chunk at a time."""
    if allowed is not None and len(allowed) <= max(FEW, len(vectors) // 10):
        for first in range(0, len(allowed), FEW):
            some = allowed[first : first + FEW]
            yield torch.from_numpy(np.asarray(some, dtype=np.int64)), vectors.rows(names, some)
        return
    for first, chunk in vectors.chunks(names):
        places = torch.arange(first, first + len(chunk))
        if allowed is not None:
            inside = torch.from_numpy(np.isin(places.numpy(), allowed, assume_unique=True))
            places, chunk = places[inside], chunk[inside]
        yield places, chunk


def build(
    path: Path,
    vectors: Vectors,
    names: Sequence[str],
    there: np.ndarray,
    choice: Choice,
    recall: float,
    queries: Sequence[str] = (),
) -> dict[str, Any]:
    """Build and write the search index of a gallery.

    Args:
        path: to write.
        vectors: of the clips.
        names: of the embeddings that are summed.
        there: rows of the clips that have any of them, ascending.
        choice: how it is searched.
        recall: share of the true nearest that a sample of searches must find.
        queries: names of the embeddings that ask in that sample; those of the gallery if left out.

    Returns:
        What a search must know of it: ``probes``, ``recall`` and others.
    """
    import faiss

    index: Any = faiss.index_factory(vectors.width, choice.factory, faiss.METRIC_INNER_PRODUCT)
    flat = not choice.factory.startswith("IVF")
    # a fixed seed: the same clips give the same index
    random = np.random.default_rng(0)
    if not flat:
        index.cp.niter = ITERATIONS
    sample = np.sort(
        random.choice(there, min(len(there), max(ROWS_A_LIST * getattr(index, "nlist", 1), 65_536)), False)
    )
    index.train(vectors.rows(names, sample).numpy())
    whole = len(there) == len(vectors)
    filled = faiss.IndexIDMap(index) if flat and not whole else index
    for rows, chunk in _gallery(vectors, names, None if whole else there):
        if flat and whole:
            filled.add(chunk.numpy())
        else:
            filled.add_with_ids(chunk.numpy(), rows.numpy())
    with replacing(path) as partial:
        faiss.write_index(filled, str(partial))
    about: dict[str, Any] = {"file": path.name, "factory": choice.factory, "what": choice.what, "probes": 0}
    about |= {"clips": len(there), "bytes": path.stat().st_size, "recall": 1.0}
    if not flat:
        about |= _tune(Neighbours(path, about, vectors, names), there, recall, queries or names, random)
    return about


def _tune(
    neighbours: Neighbours, there: np.ndarray, recall: float, asking: Sequence[str], random: np.random.Generator
) -> dict[str, Any]:
    """Find the fewest lists and candidates that give the recall, by a sample of queries and exact search."""
    rows = np.sort(random.choice(there, min(SAMPLE, len(there)), False))
    vectors, names = neighbours.vectors, neighbours.names
    queries = vectors.rows(asking, rows)
    # clips without text have zeros, which ask for nothing
    queries = queries[queries.abs().sum(dim=1) > 0]
    if not len(queries):
        queries = vectors.rows(names, rows)
    truth = exact(vectors, names, queries, DEPTH, there)[1]

    def measure(probes: int) -> float:
        neighbours.probes = probes
        pairs = zip(neighbours.search_many(queries, DEPTH)[1], truth, strict=True)
        return sum(len({*mine.tolist()} & {*true.tolist()}) for mine, true in pairs) / truth.size

    lists = neighbours.lists
    for more in (MORE, 4 * MORE, 16 * MORE):  # where all lists are too few, the codes are too coarse
        neighbours.more, probes = more, 1
        while (found := measure(probes)) < recall and probes < lists:
            probes = min(2 * probes, lists)
        if found >= recall:
            break
    for fewer in (5 * probes // 8, 6 * probes // 8, 7 * probes // 8):  # a search takes as long as it has lists
        if probes // 2 < fewer < probes and (less := measure(fewer)) >= recall:
            probes, found = fewer, less
            break
    about = {"probes": probes, "recall": round(found, 4), "sample": len(queries), "lists": lists}
    return about | {"candidates": neighbours.more}


class Neighbours:
    """The search index of a gallery. It is memory-mapped; faiss reads lists of product quantisation as a whole.

    Args:
        path: of faiss's file.
        about: what ``build`` returned.
        vectors: of the clips.
        names: of the embeddings that are summed.

    Raises:
        InputError: if the file is missing or damaged.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], vectors: Vectors, names: Sequence[str]) -> None:
        import faiss

        self.path, self.vectors, self.names = path, vectors, list(names)
        self._index: Any
        if not path.is_file():
            raise InputError(f"{path}: expected a search index, found no file; make the index again")
        try:
            self._index = faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].rpartition(" failed: ")[2][-100:]
            raise InputError(
                f"{path}: expected a search index, found a damaged file ({reason}); make it again"
            ) from None
        if self._index.ntotal != about["clips"] or self._index.d != vectors.width:
            found = f"{self._index.ntotal} of {self._index.d} numbers"
            raise InputError(f"{path}: expected {about['clips']} clips, found {found}; make the index again")
        self.flat: bool = not str(about["factory"]).startswith("IVF")
        self.lists = 0 if self.flat else int(self._index.nlist)
        self.probes, self.more = int(about["probes"]), int(about.get("candidates", MORE))
        if not self.flat:
            self._index.parallel_mode = 1  # a single query uses all cores, list by list

    def warm_up(self) -> None:
        """Read the file once. The system keeps it in memory as long as there is room."""
        read_through(self.path)

    @property
    def wide(self) -> int:
        """Lists that are searched with a condition: those nearest to the query may hold few of the allowed clips."""
        return min(4 * self.probes, self.lists)

    def few(self, k: int) -> int:
        """Return the number of clips up to which a search for ``k`` answers compares stored embeddings.

        Lists score so many candidates again. In an index without lists, that is faster than to skip most clips.
        """
        return max(FLAT_FEW, len(self.vectors) // 100) if self.flat else RERANK * k + self.more

    def candidates(self, query: Tensor, count: int) -> list[int]:
        """Return the rows of the clips that the search index ranks highest for a query ``(D,)``, best first."""
        return [int(row) for row in self._ask(query[None], count, self.wide)[1][0] if row >= 0]

    def search_many(self, queries: Tensor, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores ``(Q, k)`` and rows ``(Q, k)``, best first; rows are -1 where there are too few clips.

        Candidates of a compressed index are scored again by the stored embeddings.

        Args:
            queries: ``(Q, D)``.
            k: answers of each query.
            allowed: rows that may be answers; all if left out.
        """
        wanted = min(k if self.flat else self.few(k), self._index.ntotal)
        scores, rows = self._ask(queries, wanted, self.probes if allowed is None else self.wide, allowed)
        if self.flat:
            return scores, rows
        if allowed is not None and (rows < 0).sum(axis=1).max() > max(wanted - len(allowed), 0):
            # the lists nearest to the query have too few of the allowed clips
            scores, rows = self._ask(queries, wanted, self.lists, allowed)
        for number, (query, own) in enumerate(zip(queries, rows, strict=True)):
            again, found = self.compare(query, own[own >= 0])
            scores[number], rows[number] = -np.inf, -1
            scores[number, : len(found)], rows[number, : len(found)] = again, found
        return scores[:, :k], rows[:, :k]

    def _ask(
        self, queries: Tensor, wanted: int, probes: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search by faiss alone, in the nearest ``probes`` lists where there are lists."""
        import faiss

        given: dict[str, Any] = {}
        if allowed is not None:
            inside = np.zeros(len(self.vectors), dtype=bool)
            inside[allowed] = True
            selector: Any = faiss.IDSelectorBitmap
            given["sel"] = selector(np.packbits(inside, bitorder="little"))
        if not self.flat:
            given["nprobe"] = probes
        parameters = None
        if given:
            parameters = faiss.SearchParameters(**given) if self.flat else faiss.SearchParametersIVF(**given)
        asked = np.ascontiguousarray(queries.float().cpu().numpy())
        found: tuple[np.ndarray, np.ndarray] = self._index.search(asked, wanted, params=parameters)
        return found

    def compare(self, query: Tensor, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scores of some rows for a query ``(D,)`` by the stored embeddings, and the rows, best first."""
        scores = (self.vectors.rows(self.names, rows) @ query.float().cpu()).numpy()
        order = np.argsort(-scores, kind="stable")
        return scores[order], rows[order]

    def search(self, query: Tensor, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of the best clips for one query ``(D,)``, at most k of each."""
        scores, rows = self.search_many(query[None], k, allowed)
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]
