"""The scripts of benchmarks/ run with small sizes: both versions are in the table, with numbers and equal results."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
RATIO = re.compile(r"\*\*([\d.]+)\*\* \(([\d.]+) to ([\d.]+)\)")


def load(name: str) -> ModuleType:
    """Return a script as a module of another name: the tests have packages that are called extract and search."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip()[1:-1].split("|")]


@pytest.fixture
def measured(monkeypatch, capsys):
    """Return what runs a script in this process, and returns the rows of its tables by their first cell."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *options: object) -> dict[str, dict[str, str]]:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", "--tiny", *map(str, options)])
        load(name).main()
        said, errors = capsys.readouterr()
        assert not re.search(r"\bnan\b|\binf\b", said), said
        assert "in tiles" not in errors  # what the loss says where its two ways disagree
        rows, heads = {}, []
        for line, following in zip(said.splitlines(), [*said.splitlines()[1:], ""], strict=True):
            if following.startswith("|---"):
                heads = cells(line)
            elif line.startswith("| "):
                row = cells(line)
                rows[row[0]] = dict(zip(heads, row, strict=True))
        for row in rows.values():
            for middle, least, most in (map(float, found) for cell in row.values() for found in RATIO.findall(cell)):
                assert 0 <= least <= middle <= most
        return rows

    return run


def ratios(row: dict[str, str]) -> int:
    return sum(bool(RATIO.fullmatch(cell)) for cell in row.values())


def test_a_training_step_has_the_loss_and_the_gradient_of_the_plain_formulas(measured):
    rows = measured("step")
    plain, ours = rows["plain formulas"], rows["mcn-lightning"]
    for key in ("loss", "norm of the gradient"):
        assert float(ours[key]) == pytest.approx(float(plain[key]), rel=1e-5) and float(ours[key]) > 1
    assert ratios(rows["plain / ours"]) == 3


def test_the_loss_in_tiles_is_that_of_the_whole_matrix(measured):
    rows = measured("loss")
    assert len(rows) == 2 and all(row["clips"] == "96" and ratios(row) == 3 for row in rows.values())


def test_ranks_are_those_of_sorting(measured):
    row = measured("retrieval")["300"]
    assert row["same rank"] == "100.00 %" and ratios(row) == 3


def test_alignments_have_the_scores_of_plain_dynamic_programming(measured):
    rows = measured("alignment")
    assert list(rows) == ["alignment with Poisson lengths", "alignment", "one second a step"]
    assert all(abs(float(row["difference of scores"])) < 1e-9 and ratios(row) == 2 for row in rows.values())


def test_engines_of_k_means_reach_one_objective(measured):
    rows = measured("kmeans")
    assert len(rows) >= 2 and len({row["objective"] for row in rows.values()}) == 1
    assert all(ratios(row) == 2 for row in rows.values())


def test_the_index_of_shards_is_read(measured, tmp_path):
    row = measured("index", "--root", tmp_path)["2,000"]
    assert row["its words read"].startswith("100 in ") and float(row["bytes a video"]) > 100


def test_readers_of_films_see_equal_numbers_of_frames(measured):
    rows = measured("extract")
    assert "this project" in rows and {row["frames"] for row in rows.values()} == {"2"}
    assert all(ratios(row) == 2 for row in rows.values())


def test_readers_of_features_hand_on_equal_clips(measured, tmp_path):
    rows = measured("loader", "--root", tmp_path)
    ours = ["(a) plain reader", "(b) layout", "(b), cut on the CPU", "(c) shards", "(c), cut on the CPU",
            "(d) shards with all rows", "(d), cut on the CPU"]  # fmt: skip
    assert list(rows)[:7] == ours and all(ratios(row) == 2 and float(row["videos/s"]) > 0 for row in rows.values())
    peers, plain = (importlib.import_module(f"loader_parts.{name}") for name in ("peers", "plain"))
    assert list(rows)[7:] == [f"{name}, {kind}" for name in peers.installed() for kind in ("raw", "pooled")]
    records = [peers.Records(tmp_path / "layout", pooled) for pooled in (False, True)]
    path = records[0].paths[0]
    np.random.seed(0)
    expected = plain.PlainReader(tmp_path / "layout", [path])[0]
    for make in records:
        np.random.seed(0)
        clips = peers.join([peers.clips_of(make(path))])
        torch.testing.assert_close(clips["video"], expected["video"])
        assert torch.equal(clips["audio"].transpose(1, 2).float(), expected["audio"])
        assert torch.equal(clips["frames"], expected["frames"]) and expected["frames"].min() > 0
        assert torch.equal(clips["words"] != 0, expected["text"].any(2)) and expected["text"].any()


def test_searches_find_what_an_exact_search_finds(measured, tmp_path):
    rows = measured("search", "--root", tmp_path)
    found = {name: float(row["recall@10"]) for name, row in rows.items() if row.get("recall@10")}
    assert len(found) == 5 and min(found.values()) > 0.9


def test_a_version_that_fails_has_no_number_and_says_why(monkeypatch, capsys):
    rounds = load("rounds")
    monkeypatch.setattr(rounds.sys, "argv", ["step.py"])
    monkeypatch.setattr(rounds.subprocess, "run", lambda words, **given: Ended(words))
    found = rounds.take_turns(["a", "b"], 2, lambda name: rounds.in_own_process("step.py", [name]))
    assert rounds.ratio(found["a"], found["b"], "seconds") == "**nan** (nan to nan)"
    assert capsys.readouterr().err.splitlines() == ["a: no memory", "b: no memory", "b: no memory", "a: no memory"]


class Ended:
    """A process that ended with status 1."""

    returncode, stderr = 1, "Traceback\nno memory\n"

    def __init__(self, words: list[str]) -> None:
        assert words[1:3] == ["step.py", "--case"]
