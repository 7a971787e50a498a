"""Searching an index: every kind of query, every gallery, filters, groups and the command."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from launch import refusal, run
from references.retrieval import scores

import mcn_lightning as mcn
from mcn_lightning.commands.search.search import print_answers
from mcn_lightning.metrics.scoring import Scoring

GALLERIES = {"v": ["video"], "a": ["audio"], "t": ["text"], "va": ["fused"], "vt": ["video", "text"],
             "vat": ["fused", "text"]}  # fmt: skip


def best(index: mcn.Index, query: torch.Tensor, modality: str, k: int) -> tuple[list[str], list[float]]:
    """Return ids and scores of the nearest clips by the slow formula."""
    rows = index.vectors.rows(GALLERIES[modality], range(len(index)))
    found = scores(query[None], rows)[0]
    order = sorted(range(len(found)), key=lambda row: -found[row])[:k]
    return [clip["id"] for clip in index.clips.take(order)], [found[row] for row in order]


def text_of(index: mcn.Index, row: int) -> str:
    return str(index.clips.take([row])[0]["text"])


@pytest.mark.parametrize("modality", GALLERIES)
def test_every_gallery_gives_the_highest_dot_products(modality, index):
    query = index.model.embed_text(text_of(index, 7))[0]
    found = index.search(text_of(index, 7), modality=modality, k=8)
    ids, values = best(index, query, modality, 8)
    assert found["id"].tolist() == ids
    np.testing.assert_allclose(found["score"], values, rtol=1e-4, atol=1e-5)
    alone = {letter: index.vectors.rows(GALLERIES[letter], [index.clips.row_of(ids[0])])[0] @ query for letter in "vat"}
    for letter, value in alone.items():
        assert found[f"score_{letter}"][0] == pytest.approx(float(value), abs=1e-5)


def test_the_default_gallery_is_video_and_audio(index):
    index.warm_up()
    text = text_of(index, 3)
    assert index.search(text).equals(index.search(text, modality="va", k=10))
    assert index.default_gallery == "va" and index.modalities == ["video", "audio", "text"]


def test_without_faiss_the_answers_are_the_same(made, monkeypatch):
    text = text_of(mcn.Index.open(made), 5)
    first = mcn.Index.open(made).search(text)
    monkeypatch.setattr("mcn_lightning.search.ranking.has_faiss", lambda: False)
    second = mcn.Index.open(made).search(text)
    assert first["id"].tolist() == second["id"].tolist()
    np.testing.assert_allclose(first["score"], second["score"], rtol=1e-5)


def test_like_a_clip_finds_others_by_any_modality(index):
    clip = index.clips.take([4])[0]["id"]
    for modality in ("v", "a", "t", "va"):
        found = index.search(like=clip, modality=modality, k=5)
        ids, _ = best(index, index.embedding(clip, modality), modality, 6)
        assert found["id"].tolist() == [each for each in ids if each != clip][:5]


def test_a_query_of_several_parts_is_their_sum(index):
    text, clip = text_of(index, 2), index.clips.take([9])[0]["id"]
    sound = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    total = index.model.embed_text(text)[0] + index.model.embed_audio(sound, 16_000) + index.embedding(clip, "v")
    found = index.search(text, audio=sound, rate=16_000, like=clip, modality="v", k=4)
    assert found["id"].tolist() == [each for each in best(index, total, "v", 5)[0] if each != clip][:4]
    assert index.search(vector=total, modality="v", k=5)["id"].tolist() == best(index, total, "v", 5)[0]


def test_words_are_found_by_full_text_and_mixed_by_reciprocal_rank(index):
    word = text_of(index, 0).split()[0]
    alone = index.search(words=word, k=40)
    texts = [clip["text"] for clip in index.clips.take(range(len(index)))]
    assert sorted(alone["text"]) == sorted(text for text in texts if word in text.split())
    assert alone["score"].tolist() == [1 / (60 + rank) for rank in range(1, len(alone) + 1)]
    nearest, matching = index.search(text_of(index, 8), k=40)["id"].tolist(), alone["id"].tolist()
    expected = {name: 1 / (61 + nearest.index(name)) + (1 / (61 + matching.index(name)) if name in matching else 0)
                for name in nearest}  # fmt: skip
    mixed = index.search(text_of(index, 8), words=word, k=40)
    assert dict(zip(mixed["id"], mixed["score"], strict=True)) == pytest.approx(expected)
    assert mixed["score"].is_monotonic_decreasing
    half = index.search(words=word, where="row < 20", k=40)
    assert set(half["id"]) == {name for name in matching if index.clips.row_of(name) < 20}


def test_frequent_words_do_not_count_in_a_large_index(index, monkeypatch):
    texts = [str(clip["text"]).split() for clip in index.clips.take(range(len(index)))]
    counts = Counter(word for text in texts for word in set(text))
    rare, frequent = min(counts, key=counts.get), max(counts, key=counts.get)
    alone = index.search(words=rare, k=40)["id"].tolist()
    assert counts[rare] < counts[frequent] and len(alone) == counts[rare]
    assert len(index.search(words=f"{frequent} {rare}", k=40)) > counts[rare]
    monkeypatch.setattr("mcn_lightning.search.clips.COMMON", counts[rare])
    assert index.search(words=f"{frequent} {rare}", k=40)["id"].tolist() == alone
    assert len(index.search(words=frequent, k=40)) == counts[frequent]


def test_words_of_any_form_are_no_wrong_expression(index):
    for words in ('"', "a AND", "NEAR(", "*x^", "text:a", "-"):
        if re.search(r"\w", words):
            index.search(words=words)
        else:
            with pytest.raises(mcn.InputError, match="--words: expected words to look for, found none"):
                index.search(words=words)


def test_a_condition_and_a_limit_for_each_video(index):
    text = text_of(index, 0)
    every = index.search(text, k=40)
    some = index.search(text, k=40, where="split = 'val' and start > 5")
    kept = every[(every["split"] == "val") & (every["start"] > 5)]
    assert some["id"].tolist() == kept["id"].tolist()
    for most in (1, 2):
        found = index.search(text, k=40, per_video=most)
        assert found["id"].tolist() == every.groupby("video").head(most)["id"].tolist()
    assert len(index.search(text, k=3, per_video=1)) == 3  # more are looked at until there are three
    assert index.search(text, where="start < 0").empty


def test_calibrated_scores_are_those_of_the_evaluation(index):
    text = text_of(index, 6)
    found = index.search(text, k=40, calibrate=0.7, calibrate_temperature=0.1)
    query = index.model.embed_text(text)
    clusters = index.ranking.clusters
    gallery = {name: index.vectors.rows([name], range(40)) for name in ("video", "audio")}
    sides = Scoring(calibrate=0.7, calibrate_temperature=0.1).sides(
        lambda names: (clusters[f"{names[0]}.centroids"], clusters[f"{names[0]}.sizes"]),
        {"text": query},
        "t->va",
        gallery,
    )
    expected = (sides[0] @ sides[1].T)[0]
    rows = [index.clips.row_of(name) for name in found["id"]]
    np.testing.assert_allclose(found["score"], expected[rows].numpy(), rtol=1e-3, atol=1e-3)
    assert found["score"].is_monotonic_decreasing and len(rows) == 40
    assert not np.allclose(found["score"], index.search(text, k=40)["score"])
    with pytest.raises(mcn.InputError, match="--calibrate: expected a model with k-means clusters, and a query of one"):
        index.search(like=found["id"][0], calibrate=0.5)


def test_answers_merge_and_group(trained, tmp_path, capsys, monkeypatch):
    index = trained.index(tmp_path / "index", "--clips", "both", "--window", 5)
    capsys.readouterr()
    text = text_of(index, 1)
    plain, merged = index.search(text, k=200), index.search(text, k=200, merge=True)
    assert merged["merged"].sum() == len(plain) == len(index)
    for video, own in merged.groupby("video"):
        spans = sorted(zip(own["start"], own["end"], strict=True))
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans)), video
    first = plain.iloc[0]
    assert merged.iloc[0]["id"] == first["id"] and merged.iloc[0]["score"] == first["score"]
    assert merged.iloc[0]["start"] <= first["start"] and merged.iloc[0]["end"] >= first["end"]
    grouped = index.search(text, k=200, duplicates=0.9)
    assert len(grouped) + sum(map(len, grouped["duplicates"])) == len(plain)
    rows = torch.nn.functional.normalize(
        index.vectors.rows(["fused"], [index.clips.row_of(name) for name in grouped["id"]]), dim=1
    )
    similar, videos = rows @ rows.T, grouped["video"].tolist()
    assert all(similar[i, j] < 0.9 for i in range(len(videos)) for j in range(i) if videos[i] != videos[j])
    for name, others in zip(grouped["id"], grouped["duplicates"], strict=True):
        for other in others:
            pair = torch.nn.functional.normalize(torch.stack([index.embedding(name), index.embedding(other)]), dim=1)
            assert pair[0] @ pair[1] >= 0.9 - 1e-3

    depths, rank = [], index.ranking.rank
    monkeypatch.setattr(index.ranking, "rank", lambda *given: depths.append(given[3]) or rank(*given))
    monkeypatch.setattr("mcn_lightning.search.index.DEEPEST", 8)
    one = index.search(text, k=2, per_video=1, where=f"video = '{first['video']}'")
    assert len(one) == 1 and depths == [8]  # no deeper, although there are more clips of the video
    run("search", tmp_path / "index", text, "--k", 200, "--duplicates", 0.9, "--format", "csv")
    printed = pd.read_csv(io.StringIO(capsys.readouterr().out), keep_default_na=False)
    assert printed["duplicates"].str.split().tolist() == grouped["duplicates"].tolist()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "expected a query, found none; give a sentence, --audio, --video, --like or --words"),
        ({"text": " "}, "expected a sentence, found an empty one"),
        ({"text": "qwx zyx"}, "expected a sentence with a known word, found none known of: qwx, zyx; reword it"),
        ({"words": ""}, "--words: expected words to look for, found none"),
        ({"text": "a", "start": 5}, "--start, --end: expected --audio or --video with them, found neither"),
        ({"like": "x:1"}, "--like: expected the id of a clip of this index, found 'x:1'"),
        ({"vector": torch.zeros(3)}, r"vector: expected an embedding \(16,\), found the shape \(3,\)"),
        ({"text": "a", "kk": 3}, "search.kk: expected an option of SearchConfig"),
        ({"audio": np.zeros(100)}, "rate: expected the samples a second of the sound, found None"),
        ({"audio": np.zeros((2, 2, 2)), "rate": 16_000}, r"expected samples \(n,\) or \(channels, n\)"),
        ({"audio": np.array([np.nan]), "rate": 16_000}, "expected finite samples"),
        ({"audio": np.zeros(16_000), "rate": 16_000, "start": 5}, "expected a start before an end within its 1.0 s"),
        ({"video": np.zeros((3, 5))}, r"features: expected \(rows, 8\), \(rows, 8\), found \(3, 5\)"),
        ({"video": "film.mp4"}, "expected features that lightning extract made, found others"),
    ],
)  # fmt: skip
def test_wrong_queries_are_one_line(given, said, index):
    with pytest.raises(mcn.InputError, match=said):
        index.search(**given)


def test_an_index_without_a_modality_says_so(trained, tmp_path, capsys):
    words = ("--data.modalities", "[video, text]")
    index = trained.index(tmp_path / "index", *words)
    assert index.default_gallery == "v" and list(index.manifest.galleries) == ["v", "t"]
    said = refusal(capsys, "search", tmp_path / "index", text_of(index, 0), "--modality", "a")
    assert "--modality a: expected embeddings of audio, found video, text without audio" in said
    model = mcn.load(trained.folder)
    small = mcn.Model({"modalities": ["video", "audio"], "embedding_dim": 8}, clustering={"kind": "none"})
    small.inputs = model.inputs
    with pytest.raises(mcn.InputError, match="expected a model with an embedding of text, found video, audio"):
        small.embed_text("a")


def test_the_command_prints_a_table_json_or_csv(made, capsys):
    index = mcn.Index.open(made)
    text, expected = text_of(index, 0), index.search(text_of(index, 0), k=3)
    words = ["search", made, text, "--k", 3]
    run(*words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "video", "start", "end", "text", "id"] and len(lines) == 4
    assert [line.split()[-1] for line in lines[1:]] == expected["id"].tolist()
    run(*words, "--format", "json")
    found = json.loads(capsys.readouterr().out)
    assert [each["id"] for each in found] == expected["id"].tolist() and found[0]["media"] is None
    run(*words, "--format", "csv")
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table["score"], expected["score"])
    for words in ((made, "--k", 3, text), ("--k=3", made, "--modality", "va", text), ("--merge", "false", made, text)):
        run("search", *words, "--format", "json")  # the sentence may follow options
        assert [each["id"] for each in json.loads(capsys.readouterr().out)][:3] == expected["id"].tolist()
    run("search", made, text, "--where", "start < 0")
    assert capsys.readouterr().out == "no clip found\n"


def test_a_caption_does_not_control_the_terminal(capsys):
    print_answers(pd.DataFrame({"score": [0.5], "text": ["a\x1b[2J dog\r\nruns"]}), "table")
    assert capsys.readouterr().out.splitlines()[1] == "0.500  a [2J dog runs"


def test_unknown_words_are_named(made, capsys):
    word = text_of(mcn.Index.open(made), 0).split()[0]
    run("search", made, f"{word} qwx")
    assert "note: words that the model does not know are left out: qwx" in capsys.readouterr().err
    assert refusal(capsys, "search", made, "qwx").startswith("error: expected a sentence with a known word")


def test_suggestions_begin_as_what_was_typed(index):
    text = text_of(index, 0)
    word = text.split()[0]
    assert text in index.clips.suggestions(f"{text.split()[1]} {word[:-2]}", limit=100)
    assert index.clips.suggestions("") == [] and index.clips.suggestions('" OR') == []
