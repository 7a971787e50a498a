"""Captions from JSON, pickles and frames; what bad ones get."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pandas as pd
import pytest

from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import Captions, describe_dropped, parse_captions, read_captions
from mcn_lightning.errors import InputError

GOOD = {"start": [0.0, 2.5], "end": [2.0, 5.0], "text": ["mix the flour", "it's ready"]}


def same(captions, topics=None):
    assert isinstance(captions, Captions)
    assert captions.start.dtype == captions.end.dtype == np.float64
    assert captions.start.tolist() == GOOD["start"] and captions.end.tolist() == GOOD["end"]
    assert captions.text == tuple(GOOD["text"])
    assert (captions.topics is None) == (topics is None)
    if topics is not None:
        assert captions.topics.dtype == np.int64 and captions.topics.tolist() == topics


@pytest.mark.parametrize("topics", [None, [3, 1]])
def test_json(tmp_path, topics):
    entry = GOOD if topics is None else {**GOOD, "topic": topics}
    (tmp_path / "captions.json").write_text(json.dumps({"a": entry, "b": {"start": "?"}}))
    read = read_captions(tmp_path / "captions.json", ["a"])
    assert list(read) == ["a"]
    same(read["a"], topics)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["lists", "arrays", "frame", "object frame", "indexed frame"])
def test_pickles(tmp_path, kind, protocol):
    frame = pd.DataFrame({**GOOD, "topic": [3, 1]})
    if kind == "object frame":
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in frame.items()})
        frame["topic"] = frame["topic"].astype(np.int64)
    entry = {
        "lists": {**GOOD, "topic": [3, 1]},
        "arrays": {name: np.array(values) for name, values in {**GOOD, "topic": [3, 1]}.items()},
        "indexed frame": frame.set_index(pd.Index(["x", "y"])),
    }.get(kind, frame)
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps({"a": entry}, protocol=protocol))
    same(read_captions(tmp_path / "captions.pickle", ["a"])["a"], [3, 1])


def bad_entries():
    return {
        "none": (None, "expected an entry for this video, found none"),
        "a number": (5, "columns start, end and text"),
        "a list": (["start", "end", "text"], "columns start, end and text"),
        "a text": ("start end text", "columns start, end and text"),
        "no text": ({"start": [0], "end": [1]}, "found no text"),
        "no times": ({"text": ["a"]}, "found no start and no end"),
        "text is none": ({**GOOD, "text": None}, "column text"),
        "text is one text": ({"start": [0, 1], "end": [1, 2], "text": "ab"}, "column text"),
        "lengths": ({**GOOD, "end": [1.0]}, "as many rows as texts (2) in the column end, found 1"),
        "nothing": ({"start": [], "end": [], "text": []}, "at least one caption"),
        "a table for a time": ({**GOOD, "start": [[0.0], [2.5]]}, "a list in the column start"),
        "too few topics": ({**GOOD, "topic": [1]}, "as many rows as texts (2) in the column topic, found 1"),
        "ragged topics": ({**GOOD, "topic": [[1], [1, 2]]}, "found 2 captions: 2 with a topic that is no whole number"),
        "nothing is left": (
            {"start": [1.0, 2.5, 3.0], "end": [1.0, 5.0, 4.0], "text": ["a", None, float("nan")]},
            "at least one caption that can be used, found 3 captions: 2 without text, 1 of no length",
        ),
    }


@pytest.mark.parametrize("kind", bad_entries())
def test_a_bad_entry_is_a_bad_video_that_names_the_file(tmp_path, kind):
    entry, part = bad_entries()[kind]
    with pytest.raises(InputError) as caught:
        parse_captions(entry)
    assert part in str(caught.value)
    path = tmp_path / "captions.pickle"
    path.write_bytes(pickle.dumps({"a": entry, "b": GOOD}))
    read = read_captions(path, ["a", "b", "c"])
    same(read["b"])
    assert isinstance(read["a"], BadVideo) and isinstance(read["c"], BadVideo)
    assert read["a"].video == "a" and "\n" not in read["a"].reason
    assert read["a"].reason.startswith(f"{path}: captions of a: ") and part in read["a"].reason
    assert "captions of c: expected an entry for this video, found none" in read["c"].reason


NAN = float("nan")
BAD_CAPTIONS = [
    ({"text": None}, "without text"),
    ({"text": NAN}, "without text"),
    ({"text": 7}, "without text"),
    ({"end": 7.0}, "of no length"),
    ({"end": 6.5}, "that end before they start"),
    ({"start": -1.0}, "that start before 0 s"),
    ({"end": NAN}, "with a time that is no number"),
    ({"end": float("inf")}, "with a time that is no number"),
    ({"start": None}, "with a time that is no number"),
    ({"start": "soon"}, "with a time that is no number"),
    ({"topic": NAN}, "with a topic that is no whole number"),
    ({"topic": 0.5}, "with a topic that is no whole number"),
    ({"said": None}, "without text in the column said"),
    ({"said": [NAN]}, "without text in the column said"),
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("form", ["lists", "frame"])
@pytest.mark.parametrize(("changed", "reason"), BAD_CAPTIONS)
def test_one_bad_caption_is_dropped_and_counted_by_its_reason(form, changed, reason, place):
    rows = [
        {"start": 0.0, "end": 2.0, "text": "mix the flour", "topic": 3, "said": "mix"},
        {"start": 2.5, "end": 5.0, "text": "it's ready", "topic": 1, "said": ["done", "ready"]},
    ]
    rows.insert(place, {"start": 7.0, "end": 9.0, "text": "eat", "topic": 5, "said": "eat"} | changed)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    found = parse_captions(columns if form == "lists" else pd.DataFrame(columns), "said")
    same(found, [3, 1])
    assert found.dropped == {reason: 1} and found.choices == (("mix",), ("done", "ready"))


def test_good_captions_drop_none_and_an_empty_text_stays():
    assert parse_captions({**GOOD, "text": ["", "it's ready"]}).text == ("", "it's ready")
    assert parse_captions(GOOD).dropped == {} and describe_dropped({}) == ""


def test_a_text_among_several_that_is_none_is_left_out_of_the_draw():
    found = parse_captions({**GOOD, "said": [["a", None, "b"], "c"]}, "said")
    assert found.choices == (("a", "b"), ("c",)) and found.dropped == {}


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("captions.json", None, "found no file"),
        ("captions.json", b"", "whole JSON"),
        ("captions.json", b'{"a": {"start": [0.0', "whole JSON"),
        ("captions.json", b"\xff\xfe", "UTF-16"),
        ("captions.json", b"[1, 2]", "mapping from video id to captions with start and end, found a list"),
        ("captions.pickle", None, "found no file"),
        ("captions.pickle", b"", "damaged"),
        ("captions.pickle", pickle.dumps(GOOD)[:-5], "pickle"),
        ("captions.pickle", pickle.dumps([GOOD]), "found a list"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, part):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_captions(path, ["a"])
    message = str(caught.value)
    assert message.startswith(str(path)) and part in message and "\n" not in message
