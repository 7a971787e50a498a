"""Conditions of the user: they read the table of clips, and do nothing else."""

from __future__ import annotations

import shutil
import sqlite3

import pytest
from launch import refusal

import mcn_lightning as mcn
from mcn_lightning.search import clips as table


@pytest.mark.parametrize(
    ("condition", "test"),
    [
        ("video like '%00001'", lambda clip: clip["video"].endswith("00001")),
        ("start > 10 and end < 20", lambda clip: clip["start"] > 10 and clip["end"] < 20),
        ("cluster in (0, 1) or topic = 2", lambda clip: clip["cluster"] in (0, 1) or clip["topic"] == 2),
        ("length(text) > 60 -- long", lambda clip: len(clip["text"]) > 60),
        ("media is null", lambda clip: True),
        ("start > (select avg(start) from clips)", None),
    ],
)
def test_conditions_choose_clips(condition, test, index):
    clips = index.clips.take(range(len(index)))
    mean = sum(clip["start"] for clip in clips) / len(clips)
    test = test or (lambda clip: clip["start"] > mean)
    assert index.clips.where(condition).tolist() == [clip["row"] for clip in clips if test(clip)]


def test_a_condition_is_tested_on_some_rows_in_their_order(index, monkeypatch):
    monkeypatch.setattr(table, "TESTED", 4)
    rows = [39, 2, 4, 31, 0, 6, 8, 1]
    assert index.clips.holding("row % 2 = 0 -- even", rows, 3) == [2, 4, 0]
    assert index.clips.holding("row % 2 = 0", rows, 9) == [2, 4, 0, 6, 8]
    monkeypatch.setattr(table, "TESTABLE", 7)
    assert index.clips.holding("row % 2 = 0", rows, 4) == [2, 4, 0, 6]
    assert index.clips.holding("row = 1", rows, 1) is None  # the first four promise none
    words = index.clips.take([7])[0]["text"]
    found = index.search(words=words, where="row % 2 = 0", k=40)["id"].tolist()
    assert found == [name for name in index.search(words=words, k=40)["id"] if index.clips.row_of(name) % 2 == 0]


@pytest.mark.parametrize(
    "condition",
    [
        "1) ; DROP TABLE clips; --",
        "1); DELETE FROM clips; SELECT (1",
        "row in (SELECT rowid FROM sqlite_master)",
        "exists (SELECT * FROM pragma_table_info('clips'))",
        "exists (SELECT 1 FROM words)",
        "load_extension('x')",
        "row = (SELECT writefile('/tmp/x', 'y'))",
        "row in (SELECT 1 FROM clips) ATTACH DATABASE 'x' AS y",
        "1) UNION SELECT 1 FROM sqlite_master WHERE (1",
        "length(zeroblob(900000000)) > 1",
        "nonsense = 1",
        "video like",
        "start > \x00",
        "fts5(1)",
        "replace(text, 'a', 'aaaa') = 'b'",
        "1) limit (3",
        "1) group by (video",
        "x'",
    ],
)
def test_what_is_no_condition_is_one_line(condition, made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "index")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    index = mcn.Index.open(folder)
    with pytest.raises(mcn.InputError, match="--where: expected a condition on the columns row, id, video") as refused:
        index.search(words="a", where=condition)
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert index.clips.count == 40 and len(index.clips.take([0, 39])) == 2


def test_a_condition_that_takes_too_long_is_stopped(index, monkeypatch):
    monkeypatch.setattr(table, "SECONDS", 0.05)
    slow = "(SELECT count(*) FROM clips a, clips b, clips c, clips d, clips e, clips f WHERE a.text < b.text) > 0"
    with pytest.raises(mcn.InputError, match=r"found .*: one that takes more than 0\.05 s"):
        index.clips.where(slow)
    endless = "(WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n) > 0"
    with pytest.raises(mcn.InputError, match="one that asks for more than them"):
        index.clips.where(endless)


def test_the_command_says_it_in_one_line(made, capsys):
    said = refusal(capsys, "search", made, "--words", "a", "--where", "nonsense = 1")
    assert said.startswith("error: --where: expected a condition on the columns") and "no such column: nonsense" in said


def test_the_table_cannot_be_written_through_an_index(index):
    for statement in ("DELETE FROM clips", "CREATE TABLE x (y)", "PRAGMA user_version = 3"):
        with pytest.raises(sqlite3.OperationalError, match=r"readonly|read-only"):
            index.clips._table.execute(statement)
