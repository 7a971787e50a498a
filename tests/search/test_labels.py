"""Zero-shot labels: the nearest label of every clip, files of any size, and labels that are refused."""

from __future__ import annotations

import pandas as pd
import pytest
from launch import refusal, run
from references.retrieval import scores

import mcn_lightning as mcn
from mcn_lightning.search.explore import labels as module
from mcn_lightning.search.explore.labels import check_labels, write_labels


@pytest.fixture
def words(index) -> list[str]:
    """Three captions of the index, as labels."""
    return list(dict.fromkeys(str(clip["text"]) for clip in index.clips.take(range(len(index)))))[:3]


def nearest(index: mcn.Index, labels: list[str], names: list[str]) -> list[tuple[str, float]]:
    """Return label and score of each clip by the slow formula."""
    rows = index.vectors.rows(names, range(len(index)))
    found = scores(index.model.embed_text(labels), rows)
    best = [max(range(len(labels)), key=lambda each, row=row: found[each][row]) for row in range(len(rows))]
    return [(labels[each], found[each][row]) for row, each in enumerate(best)]


@pytest.mark.parametrize(("modality", "names"), [(None, ["fused"]), ("v", ["video"]), ("vat", ["fused", "text"])])
def test_every_clip_has_the_label_with_the_highest_dot_product(modality, names, index, words):
    found = index.classify(words, modality=modality)
    assert found["id"].tolist() == [clip["id"] for clip in index.clips.take(range(len(index)))]
    expected = nearest(index, words, names)
    assert found["label"].tolist() == [label for label, _ in expected]
    assert found["score"].tolist() == pytest.approx([score for _, score in expected], abs=1e-5)
    each = found[[f"score_{label}" for label in words]]
    assert each.max(axis=1).tolist() == found["score"].tolist() and found["label"].nunique() > 1


def test_a_condition_leaves_clips_out(index, words):
    video = index.clips.videos()[0]
    found = index.classify(words, where=f"video = '{video}'")
    every = index.classify(words)
    pd.testing.assert_frame_equal(found, every[every["video"] == video].reset_index(drop=True))
    assert 0 < len(found) < len(every)
    assert index.classify(words, where="start < 0").empty


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_writes_what_python_returns(ending, index, made, words, tmp_path, monkeypatch, capsys):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(module, "CHUNK", 5)  # several blocks
    listed, output = tmp_path / "labels.txt", tmp_path / f"found.{ending}"
    listed.write_text("\n".join(words) + "\n\n")
    run("search", made, "--labels", listed, "--output", output)
    expected = index.classify(words)
    found = pd.read_csv(output) if ending == "csv" else pd.read_parquet(output)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["clips", "label", "highest", "clip"]
    counts = expected["label"].value_counts()
    assert {line.split()[0] for line in lines[1:]} == {str(counts.get(word, 0)) for word in words}
    best = expected.loc[expected["score"].idxmax()]
    assert any(line.endswith(best["id"]) and f"{best['score']:.3f}" in line for line in lines)


def test_unknown_words_of_a_label_are_named(made, words, tmp_path, capsys):
    path = tmp_path / "labels.txt"
    path.write_text(f"{words[0]} xyzzy\n{words[1]}\n")
    run("search", made, "--labels", path)
    assert capsys.readouterr().err == "note: words that the model does not know are left out: xyzzy\n"


def test_a_file_is_whole_or_not_there(tmp_path, index, words):
    def broken():
        yield index.classify(words)
        raise mcn.InputError("stop")

    path = tmp_path / "a.csv"
    path.write_text("before")
    with pytest.raises(mcn.InputError, match="stop"):
        list(write_labels(path, broken()))
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.txt: expected a label on each line, found none"),
        ("topic\n\nother\n", "labels.txt, line 2: expected a label, found none; delete the line"),
        ("red dog\nother\nRed  dog!\n", "labels.txt, line 3: expected each label once, found 'Red dog!' as number 1"),
        (
            "xyzzy\nplugh frotz\n",
            "--labels: expected labels with a known word, found none known of: xyzzy, plugh frotz",
        ),
    ],
)
def test_wrong_labels_are_refused_in_one_line(text, message, made, tmp_path, capsys):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    found = refusal(capsys, "search", made, "--labels", path, "--output", tmp_path / "found.csv")
    assert message in found and found.count("\n") == 0
    assert not (tmp_path / "found.csv").exists()


def test_options_without_effect_are_refused(made, tmp_path, capsys):
    path = tmp_path / "labels.txt"
    path.write_text("a\n")
    for words, message in (
        (("words", "--labels", path), "--labels: expected no sentence with it"),
        (("--labels", path, "--per_video", 1), "--labels: expected no --per_video with it"),
        (("--labels", path, "--moments", "v"), "--labels: expected no --moments with it"),
        (
            ("--labels", path, "--output", "found.json"),
            "--output found.json: expected a name ending in .parquet or .csv",
        ),
        (("words", "--output", "found.csv"), "--output: expected --labels or --moments with it, found neither"),
        (("--labels", tmp_path / "none.txt"), "none.txt: expected a label on each line, found no file"),
    ):
        assert message in refusal(capsys, "search", made, *words)


def test_labels_of_python_are_checked_too(index):
    with pytest.raises(mcn.InputError, match="label 2: expected each label once"):
        check_labels(["a", "A"])
    with pytest.raises(mcn.InputError, match="found none"):
        index.classify([])
