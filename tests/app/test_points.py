"""The map and the clusters: against slow formulas, and where clips lack a modality."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mcn_lightning.errors import InputError
from mcn_lightning.search.explore.clusters import describe_clusters
from mcn_lightning.search.explore.points import fit_square, principal_points, read_points
from mcn_lightning.search.vectors import Vectors, write_shard


def stored(folder, **tensors: torch.Tensor) -> Vectors:
    count = len(next(iter(tensors.values())))
    write_shard(folder / "x.safetensors", tensors)
    return Vectors(folder, [("x.safetensors", count)])


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def test_points_are_the_principal_components(tmp_path):
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 1, 1, 1, 1])
    vectors = stored(tmp_path, video=rows)
    exact = unit(rows.half().double().numpy())
    centred = exact - exact.mean(axis=0)
    axes = np.linalg.svd(centred)[2][:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    expected = fit_square(centred @ axes.T)
    assert principal_points(vectors, ["video"]) == pytest.approx(expected, abs=1e-4)


def test_a_clip_without_the_modality_has_no_point(tmp_path):
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    rows[3] = 0
    found = principal_points(stored(tmp_path, audio=rows), ["audio"])
    assert np.isnan(found[3]).all() and np.isfinite(np.delete(found, 3, axis=0)).all()
    assert np.nanmax(np.abs(found)) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [1, 2])
def test_few_clips_have_points_too(tmp_path, count):
    found = principal_points(stored(tmp_path, video=torch.eye(4)[:count]), ["video"])
    assert found.shape == (count, 2) and np.isfinite(found).all()


def test_a_map_of_the_index_is_read_and_a_wrong_one_refused(tmp_path):
    np.save(tmp_path / "good.npy", np.array([[0.0, 10.0], [4.0, 20.0]]))
    assert read_points(tmp_path / "good.npy", 2) == pytest.approx(np.array([[-0.4, -1.0], [0.4, 1.0]]))
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    assert read_points(tmp_path / "good.npy", 3) is None  # clips were added
    for name, count in (("good.npy", 1), ("objects.npy", 2), ("text.npy", 2), ("none.npy", 2)):
        with pytest.raises(InputError, match=r"expected .*, found .*delete the file"):
            read_points(tmp_path / name, count)


def test_clusters_are_described_as_by_the_slow_formula(tmp_path):
    random = torch.Generator().manual_seed(1)
    parts = {name: torch.randn(60, 5, generator=random) for name in ("video", "audio", "text")}
    parts["audio"][:20] = parts["text"][:10] = 0
    codes = np.arange(60) % 3
    codes[55:] = -1
    found = describe_clusters(stored(tmp_path, **parts), codes)
    rows = {name: unit(value.half().double().numpy()) for name, value in parts.items()}
    joint = unit(sum(rows.values()))
    centroids = unit(np.stack([joint[codes == code].mean(axis=0) for code in range(3)]))
    for code in range(3):
        agreeing = []
        for clip in np.flatnonzero(codes == code):
            nearest = [int((value[clip] @ centroids.T).argmax()) for value in rows.values() if value[clip].any()]
            if len(nearest) > 1:
                agreeing.append(len(set(nearest)) == 1)
        assert found[code].agreement == pytest.approx(np.mean(agreeing))
        mine = np.flatnonzero(codes == code)
        scores = joint[mine] @ centroids.T
        assert found[code].nearest == mine[np.argsort(-scores[:, code])[:6]].tolist()
        margin = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2]
        assert [clip for clip, _ in found[code].between] == mine[np.argsort(margin)[:6]].tolist()
        assert all(other != code for _, other in found[code].between)


def test_a_single_modality_tells_nothing_of_agreement(tmp_path):
    found = describe_clusters(stored(tmp_path, video=torch.eye(4)), np.array([0, 0, 1, 1]))
    assert found[0].agreement is None and found[1].agreement is None
    assert describe_clusters(stored(tmp_path, video=torch.eye(4)), np.full(4, -1)) == {}
