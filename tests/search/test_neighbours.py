"""The search index of a gallery: chosen by size, exact when flat, with the recall that was asked for when not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import mcn_lightning as mcn
from mcn_lightning.search.clips import Clips, write_clips
from mcn_lightning.search.manifest import Manifest
from mcn_lightning.search.neighbours import Neighbours, build, choose, exact
from mcn_lightning.search.ranking import Ranking
from mcn_lightning.search.vectors import Vectors, write_shard

COUNT, WIDTH = 6_000, 32


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> tuple[Path, Vectors]:
    """Embeddings in clusters, in three shards; texts near their videos."""
    folder = tmp_path_factory.mktemp("vectors")
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(60, WIDTH, generator=random)
    video = centres[torch.arange(COUNT) % 60] + 0.7 * torch.randn(COUNT, WIDTH, generator=random)
    tensors = {"video": torch.nn.functional.normalize(video, dim=1)}
    tensors["text"] = torch.nn.functional.normalize(video + torch.randn(COUNT, WIDTH, generator=random), dim=1)
    shards = []
    for number, (first, last) in enumerate([(0, 2_500), (2_500, 2_600), (2_600, COUNT)]):
        name = f"vectors-{number:05d}.safetensors"
        write_shard(folder / name, {key: value[first:last] for key, value in tensors.items()})
        shards.append((name, last - first))
    return folder, Vectors(folder, shards)


def brute(vectors: Vectors, queries: torch.Tensor, k: int, allowed: np.ndarray | None = None) -> np.ndarray:
    rows = np.arange(COUNT) if allowed is None else allowed
    values = queries.double() @ vectors.rows(["video"], rows).double().T
    return rows[values.topk(k, dim=1)[1].numpy()]


def test_vectors_are_read_by_row_and_by_chunk(stored):
    _, vectors = stored
    whole = torch.cat([chunk for _, chunk in vectors.chunks(["video", "text"], 700)])
    assert [first for first, _ in vectors.chunks(["video"], 2_000)] == [0, 2_000, 2_500, 2_600, 4_600]
    rows = [5_999, 0, 2_550, 2_550, 2_499]
    torch.testing.assert_close(vectors.rows(["video", "text"], rows), whole[rows])
    assert len(vectors) == COUNT and vectors.width == WIDTH and vectors.names == ["text", "video"]


@pytest.mark.parametrize("some", [False, True])
def test_exact_search_is_the_slow_formula(some, stored):
    _, vectors = stored
    allowed = np.arange(3, COUNT, 7) if some else None
    queries = vectors.rows(["text"], range(20))
    scores, rows = exact(vectors, ["video"], queries, 12, allowed)
    assert (rows == brute(vectors, queries, 12, allowed)).all()
    np.testing.assert_allclose(scores[0, 0], vectors.rows(["video"], [rows[0, 0]])[0] @ queries[0], rtol=1e-5)


def made(stored, tmp_path: Path, factory: str | None = None, recall: float = 0.97, flat: int = 200_000):
    _, vectors = stored
    choice = choose(COUNT, WIDTH, 4.0, flat)
    choice = choice if factory is None else choice._replace(factory=factory)
    about = build(tmp_path / "x.faiss", vectors, ["video"], np.arange(COUNT), choice, recall, ["text"])
    return about, Neighbours(tmp_path / "x.faiss", about, vectors, ["video"])


def test_a_flat_index_equals_exact_search(stored, tmp_path):
    about, neighbours = made(stored, tmp_path)
    queries = stored[1].rows(["text"], range(50))
    assert neighbours.flat and about["recall"] == 1.0
    assert (neighbours.search_many(queries, 10)[1] == exact(stored[1], ["video"], queries, 10)[1]).all()
    allowed = np.arange(0, COUNT, 3)
    assert (neighbours.search_many(queries, 10, allowed)[1] == brute(stored[1], queries, 10, allowed)).all()


@pytest.mark.parametrize("factory", [None, "IVF64,PQ16x4fs"])
def test_a_compressed_index_has_the_recall_that_it_says(factory, stored, tmp_path):
    about, neighbours = made(stored, tmp_path, factory, 0.95 if factory is None else 0.8, flat=1_000)
    assert about["factory"].startswith("IVF") and about["probes"] >= 1
    fresh = stored[1].rows(["text"], range(1, COUNT, 23))
    truth, found = brute(stored[1], fresh, 10), neighbours.search_many(fresh, 10)[1]
    recall = np.mean([len({*a.tolist()} & {*b.tolist()}) / 10 for a, b in zip(truth, found, strict=True)])
    assert recall == pytest.approx(about["recall"], abs=0.05) and recall >= (0.93 if factory is None else 0.75)
    scores, rows = neighbours.search(fresh[0], 10)
    np.testing.assert_allclose(scores, (stored[1].rows(["video"], rows) @ fresh[0]).numpy(), rtol=1e-5)
    allowed = np.arange(0, COUNT, 2)
    rows = neighbours.search(fresh[0], 10, allowed)[1]
    assert len(rows) == 10 and (rows % 2 == 0).all()


def test_lists_far_from_the_query_are_searched_where_the_condition_leaves_only_those(stored, tmp_path):
    _, vectors = stored
    _, neighbours = made(stored, tmp_path, "IVF16,SQ8", 0.5)
    neighbours.probes, query = 1, vectors.rows(["video"], [0])[0]
    order = np.argsort(-(vectors.rows(["video"], range(COUNT)) @ query).numpy())
    far = np.sort(order[-600:])
    assert neighbours.search(query, 100, far)[1].tolist() == brute(vectors, query[None], 100, far)[0].tolist()


@pytest.mark.parametrize("factory", ["IVF16,SQ8", "IVF16,PQ16x4fs"])
def test_a_condition_is_tested_on_the_best_candidates_first(factory, stored, tmp_path):
    folder, vectors = stored
    about, neighbours = made(stored, tmp_path, factory, 0.9)
    about["file"] = str(tmp_path / about["file"])
    write_clips(tmp_path / "clips.sqlite", [
        {"row": row, "id": str(row), "video": f"v{row % 60}", "kind": "window", "has_video": 1, "has_audio": 0,
         "has_text": 1} for row in range(COUNT)], {})  # fmt: skip
    manifest = Manifest("", {}, {}, {}, "clips.sqlite", [], ["video"], {"v": about})
    query = vectors.rows(["text"], [5])[0]
    for condition, read in (("row % 4 = 0", False), ("row % 50 = 7", True), ("row % 4 = 0 and row in (select 8)", True),
                            ("video in ('v5', 'v6')", True), ("row < 0", True), ("true", False)):  # fmt: skip
        clips = Clips(tmp_path / "clips.sqlite")
        ranking = Ranking(folder, manifest, clips, vectors)
        scores, rows = ranking.nearest("v", query, 10, condition)
        assert (condition in clips._kept) is read, condition
        allowed = clips.where(condition)
        again = ranking.nearest("v", query, 10, condition)
        assert rows.tolist() == again[1].tolist() and scores.tolist() == again[0].tolist(), condition
        if len(allowed) <= 200:
            assert rows.tolist() == brute(vectors, query[None], min(10, len(allowed)), allowed)[0].tolist()
        else:
            own = neighbours.search(query, 10, allowed)[1]
            # coarse scores tie where candidates end, so one answer may differ
            assert len({*rows.tolist()} & {*own.tolist()}) >= 10 - ("PQ" in factory) and len(rows) == 10


def test_coarse_codes_have_more_candidates(stored, tmp_path):
    about, neighbours = made(stored, tmp_path, "IVF16,PQ2x4fs", 0.9)
    assert about["candidates"] == neighbours.more > 160 and about["recall"] >= 0.9
    fresh = stored[1].rows(["text"], range(1, COUNT, 53))
    truth, found = brute(stored[1], fresh, 10), neighbours.search_many(fresh, 10)[1]
    assert np.mean([len({*a.tolist()} & {*b.tolist()}) / 10 for a, b in zip(truth, found, strict=True)]) >= 0.85


def test_two_builds_have_the_same_bytes(stored, tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        made(stored, folder, flat=1_000)
    assert (first / "x.faiss").read_bytes() == (second / "x.faiss").read_bytes()


def test_rows_that_are_not_there_are_no_answers(stored, tmp_path):
    _, vectors = stored
    there = np.arange(1, COUNT, 2)
    for flat in (COUNT, 100):
        choice = choose(len(there), WIDTH, 4.0, flat)
        about = build(tmp_path / f"{flat}.faiss", vectors, ["video"], there, choice, 0.9)
        found = Neighbours(tmp_path / f"{flat}.faiss", about, vectors, ["video"]).search(
            vectors.rows(["text"], [0])[0], 50
        )
        assert len(found[1]) == 50 and (found[1] % 2 == 1).all()


@pytest.mark.parametrize(
    ("count", "width", "memory", "factory"),
    [
        (100_000, 1024, 4.0, "SQfp16"), (200_000, 1024, 4.0, "SQfp16"), (200_001, 1024, 4.0, "IVF1024,PQ256x4fs"),
        (100_000, 1024, 0.15, "IVF512,PQ256x4fs"), (1_000_000, 1024, 4.0, "IVF2048,PQ256x4fs"),
        (1_000_000, 1024, 0.1, "IVF2048,PQ128x4fs"), (1_000_000, 512, 4.0, "IVF2048,PQ256x4fs"),
        (1_000_000, 128, 4.0, "IVF2048,SQ8"), (1_000_000, 333, 4.0, "IVF2048,SQ8"),
        (120_000_000, 1024, 10.0, "IVF16384,PQ128x4fs"),
    ],
)  # fmt: skip
def test_the_choice_follows_size_and_budget(count, width, memory, factory):
    choice = choose(count, width, memory)
    assert choice.factory == factory and choice.bytes <= memory * 1e9


def test_a_budget_that_is_too_small_says_what_is_needed():
    with pytest.raises(
        mcn.InputError, match=r"--memory: expected at least 2\.95 GB for 120000000 clips, found 1; raise"
    ):
        choose(120_000_000, 1024, 1.0)


def test_a_large_index_is_searched_as_a_small_one(trained, tmp_path, capsys):
    flat = trained.index(tmp_path / "flat")
    lists = trained.index(tmp_path / "lists", "--flat_clips", 10, "--recall", 1.0)
    assert lists.manifest.galleries["va"]["factory"].startswith("IVF1,SQ8")
    assert "lists, 16 bytes a clip, 1 searched" in capsys.readouterr().out
    text = flat.clips.take([0])[0]["text"]
    for options in ({}, {"where": "start > 5"}, {"per_video": 1}, {"calibrate": 0.3}):
        one, two = (each.search(text, k=10, **options) for each in (flat, lists))
        assert one["id"].tolist() == two["id"].tolist()
