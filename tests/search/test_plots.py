"""Plots of an index: coordinates and recall against slow formulas, what figures show, files, and what is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from launch import refusal, run
from processes import python
from references.retrieval import expected_rank, scores

pytest.importorskip("matplotlib")

import mcn_lightning as mcn
from mcn_lightning.plots.figures import save_figure, shorten
from mcn_lightning.plots.map import NAME, map_method, map_points
from mcn_lightning.plots.options import PlotConfig
from mcn_lightning.search.explore.groups import read_groups
from mcn_lightning.search.explore.points import make_points, map_file, read_points, usual_method
from mcn_lightning.search.explore.recall import cluster_recall

NO_UMAP = {"umap": ("no_such_module", "umap-learn", "mcn-lightning[plots]")}


@pytest.fixture
def copied(made, tmp_path) -> Path:
    """A folder of an index that may be written to."""
    return Path(shutil.copytree(made, tmp_path / "copied"))


def texts_of(figure) -> str:
    """Return all that a figure says."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("modality", ["va", "t"])
def test_the_map_shows_the_first_two_principal_components(modality, index):
    rows = index.vectors.rows({"va": ["fused"], "t": ["text"]}[modality], range(len(index))).double().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows -= rows.mean(axis=0)
    left, size, _ = np.linalg.svd(rows, full_matrices=False)
    expected = left[:, :2] * size[:2]
    found = map_points(index, modality, "pca")
    spread = (found.max(axis=0) - found.min(axis=0)).max()
    assert spread == pytest.approx(2, abs=1e-5)  # it fills the square
    expected *= 2 / (expected.max(axis=0) - expected.min(axis=0)).max()
    for axis in range(2):  # up to sign and place
        one, other = found[:, axis] - found[:, axis].mean(), expected[:, axis] - expected[:, axis].mean()
        np.testing.assert_allclose(one * np.sign(one @ other), other, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "module"), [("umap", "umap"), ("tsne", "openTSNE")])
@pytest.mark.filterwarnings("ignore")  # of the packages, about each other
def test_other_methods_keep_neighbours_and_repeat_by_seed(method, module, index):
    pytest.importorskip(module, reason="only .ci/run installs it: numba compiles for twenty seconds")
    found = make_points(index.vectors, ["fused"], method, seed=3)
    assert found.shape == (len(index), 2) and np.isfinite(found).all()
    assert np.array_equal(found, make_points(index.vectors, ["fused"], method, seed=3))
    assert not np.array_equal(found, make_points(index.vectors, ["fused"], method, seed=4))


def test_a_method_without_its_package_is_refused(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mcn_lightning.search.explore.points.PACKAGES", NO_UMAP)
    found = refusal(capsys, "plot", copied, "--output", tmp_path / "out", "--method", "umap")
    assert "--method umap: expected the package umap-learn, found none; pip install 'mcn-lightning[plots]'" in found
    assert not (tmp_path / "out").exists()


def test_the_usual_method_is_umap_where_it_is_installed_and_clips_are_neither_few_nor_many(index, monkeypatch):
    monkeypatch.setattr("mcn_lightning.search.explore.points.PACKAGES", {"umap": ("json", "umap-learn", "")})
    assert [usual_method(count) for count in (9, 10, 200_000, 200_001)] == ["pca", "umap", "umap", "pca"]
    assert map_method(index) == map_method(index, "t") == "umap"
    monkeypatch.setattr("mcn_lightning.search.explore.points.PACKAGES", NO_UMAP)
    assert map_method(index) == "pca"


@pytest.mark.parametrize("modality", ["va", "v"])
def test_recall_of_a_cluster_is_that_of_its_captions(modality, index):
    clips = index.clips.take(range(len(index)))
    ranked = scores(
        index.vectors.rows(["text"], range(len(index))),
        index.vectors.rows({"va": ["fused"], "v": ["video"]}[modality], range(len(index))),
    )
    ranks = [expected_rank(row, number) for number, row in enumerate(ranked)]
    found = cluster_recall(index, modality, (1, 5))
    assert found.attrs["gallery"] == len(index)
    for _, row in found[:-1].iterrows():
        own = [rank for rank, clip in zip(ranks, clips, strict=True) if clip["cluster"] == row["cluster"]]
        assert row["clips"] == len(own) > 0
        for k in (1, 5):
            assert row[f"R@{k}"] == pytest.approx(100 * sum(rank <= k for rank in own) / len(own))
    assert found["clips"].tolist()[:-1] == sorted(found["clips"][:-1], reverse=True)
    assert {*found["cluster"][:-1]} == {clip["cluster"] for clip in clips}
    assert found.iloc[-1]["R@5"] == pytest.approx(100 * sum(rank <= 5 for rank in ranks) / len(ranks))


def test_captions_of_the_same_seconds_share_a_clip(index, monkeypatch):
    take = index.clips.take

    def doubled(rows):  # every second caption has the seconds of the one before
        return [{**clip, "video": "one", "start": clip["row"] // 2, "end": clip["row"] // 2 + 1} for clip in take(rows)]

    monkeypatch.setattr(index.clips, "take", doubled)
    found = cluster_recall(index, "va", (1,))
    assert found.attrs["gallery"] == (len(index) + 1) // 2 and found.iloc[-1]["clips"] == len(index)
    queries = index.vectors.rows(["text"], range(len(index)))
    ranked = scores(queries, index.vectors.rows(["fused"], range(0, len(index), 2)))
    hits = sum(expected_rank(row, number // 2) <= 1 for number, row in enumerate(ranked))
    assert found.iloc[-1]["R@1"] == pytest.approx(100 * hits / len(index))


def test_a_large_index_is_sampled(index, monkeypatch):
    monkeypatch.setattr("mcn_lightning.search.explore.recall.SAMPLE", 7)
    found = cluster_recall(index)
    assert found.iloc[-1]["clips"] == 7 and found.attrs["gallery"] == 7


def test_what_figures_show(index):
    groups = read_groups(index.clips, "cluster")
    figure = mcn.plot_map(index, method="pca")
    said = texts_of(figure)
    for number, (code, size) in enumerate(groups.sizes().items(), 1):
        assert f"{number}: {shorten(groups.labels[code], NAME)} ({size})" in said
    assert f"{len(index)} clips" in said
    points = sum(len(each.get_offsets()) for each in figure.axes[0].collections)
    assert points == len(index)
    montage = texts_of(mcn.plot_montage(index, clusters=2, clips=3))
    first = next(iter(groups.sizes()))
    assert f"cluster {first}, {groups.sizes()[first]} clips" in montage
    assert all(word in montage for word in groups.labels[first].split(", "))
    recall = mcn.plot_recall(index, k=5)
    widths = sorted(bar.get_width() for bar in recall.axes[0].patches)
    assert widths == pytest.approx(sorted(cluster_recall(index, None, (5,))["R@5"][:-1]))
    assert f"among {len(index)} clips" in texts_of(recall)
    video = index.clips.longest_video()
    assert video in texts_of(mcn.plot_video(index, video))
    moments = index.moments(video, like=index.clips.of_video(video)[0]["id"])
    line = mcn.plot_moments(moments, "the query").axes[0].lines[0]
    assert line.get_ydata() == pytest.approx(moments["score"])
    assert line.get_xdata() == pytest.approx((moments["start"] + moments["end"]) / 2)


def test_clips_without_the_modality_are_not_on_the_map(index):
    points = np.zeros((len(index), 2), dtype=np.float32)
    points[0] = np.nan
    figure = mcn.plot_map(index, points=points)
    assert sum(len(each.get_offsets()) for each in figure.axes[0].collections) == len(index) - 1
    with pytest.raises(mcn.InputError, match=r"points: expected coordinates \(\d+, 2\), found the shape \(3, 2\)"):
        mcn.plot_map(index, points=points[:3])


def test_captions_are_no_formulas():
    assert shorten("a $x$ costs\n5$", 40) == r"a \$x\$ costs 5\$" and shorten(None, 9) == ""
    assert shorten("one two three", 10) == "one two..."


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_the_same_figure_has_the_same_bytes(form, index, tmp_path):
    for name in ("one", "other"):
        save_figure(mcn.plot_map(index, method="pca"), tmp_path / f"{name}.{form}")
    assert (tmp_path / f"one.{form}").read_bytes() == (tmp_path / f"other.{form}").read_bytes()
    begin = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[form]
    assert (tmp_path / f"one.{form}").read_bytes().startswith(begin)


def test_the_command_writes_every_plot_and_the_map_of_the_page(copied, tmp_path, capsys):
    run("plot", copied, "--output", tmp_path / "out", "--format", "svg", "--method", "pca")
    names = ["map", "montage", "recall", "video"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{name}.svg" for name in names]
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.split(" (")[0]).stem for line in lines] == names and "(principal components)" in lines[0]
    index = mcn.Index.open(copied)
    stored = read_points(map_file(copied, "va"), len(index))
    np.testing.assert_allclose(stored, map_points(index, method="pca"), atol=1e-5)
    map_file(copied, "va").unlink()
    run("plot", copied, "--output", tmp_path / "out", "--kinds", "map,video", "--store", "false", "--method", "pca")
    assert not map_file(copied, "va").exists()
    run("plot", copied, "--output", tmp_path / "out", "--kinds", "[map]", "--modality", "av", "--method", "pca")
    assert map_file(copied, "va").is_file()  # as the page asks for it


def test_an_index_without_clusters_has_the_other_plots(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mcn_lightning.search.explore.groups.Groups.sizes", lambda self: {})
    run("plot", copied, "--output", tmp_path / "out", "--method", "pca")
    told = capsys.readouterr()
    assert "note: no montage: montage: expected clusters, found none in this index" in told.err
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {"map", "recall", "video"}
    found = refusal(capsys, "plot", copied, "--output", tmp_path / "out", "--kinds", "montage")
    assert "montage: expected clusters, found none in this index; leave this plot out" in found


def test_wrong_options_are_refused_in_one_line(made, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_text("")
    for words, message in (
        (("--kinds", "maps"), "--kinds: expected some of map, montage, recall, video, found maps"),
        (("--kinds", ""), "--kinds: expected some of map, montage, recall, video, found none"),
        (("--kinds", "recall", "--modality", "vt"), "recall: expected a gallery of v or a, found vt"),
        (("--kinds", "video", "--video", "nowhere"), "expected the name of a video of this index, found 'nowhere'"),
        (("--modality", "x"), "--modality: expected letters of v, a and t"),
        (("--format", "gif"), "--format: expected one of 'png', 'svg', 'pdf', found gif"),
        (("--output", taken), f"--output {taken}: expected to write there, found file exists; give another folder"),
    ):
        found = refusal(capsys, "plot", made, "--output", tmp_path / "out", *words)
        assert message in found and "\n" not in found
    assert "expected an index that lightning index made" in refusal(capsys, "plot", taken.parent, "--output", "out")
    assert PlotConfig("out", kinds="map, video,map").chosen == ["map", "video"]


def test_without_matplotlib_one_line_says_so(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = refusal(capsys, "plot", made, "--output", tmp_path / "out")
    assert "lightning plot: expected the package matplotlib, found none; pip install 'mcn-lightning[plots]'" in found


def test_no_display_is_opened(made, tmp_path):
    code = (
        "import mcn_lightning as mcn\n"
        f"mcn.plot_map(mcn.Index.open({str(made)!r}), method='pca').savefig({str(tmp_path / 'a.png')!r})\n"
        "from matplotlib._pylab_helpers import Gcf\n"
        "assert not Gcf.figs  # pyplot keeps none\n"
    )
    done = python("-c", code, env={"PATH": "", "MPLBACKEND": "TkAgg"})
    assert done.returncode == 0, done.stderr


def test_pictures_come_from_the_videos_that_are_there(tmp_path):
    pytest.importorskip("av")
    from app.indexes import VIDEOS, clips_of, write_films, write_index

    folder = write_index(tmp_path / "index", clips_of(write_films(tmp_path / "films")))
    (tmp_path / "films" / f"{VIDEOS[1]}.mp4").write_bytes(b"no video")  # damaged
    figure = mcn.plot_montage(mcn.Index.open(folder), clusters=3, clips=6)
    # the first cluster has the clips of two videos, of which one has no file
    assert figure.get_label() == "6 of 12 pictures"
    pictures = [panel.images[0].get_array() for panel in figure.axes if panel.images]
    assert len(pictures) == 6 and {each.shape for each in pictures} == {(144, 192, 3)}
    assert torch.tensor(np.asarray(pictures[0])).float().std() > 0
    assert "tune the guitar" in texts_of(figure)  # the caption stands for it
