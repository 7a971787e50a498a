"""The GPU benchmark runs on a CPU with small sizes, and a table with a fault says so."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import Popen

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(subprocess, "Popen", Popen)  # runs of the demo come from the warm server
    return importlib.import_module("gpu")


@pytest.mark.slow
def test_the_sections_run_tiny_and_all_verdicts_are_good(benchmark, tmp_path, monkeypatch):
    some = "rates,parity,step,waits,loss,kmeans,evaluation,loader,extract,fit,compile"
    words = ["--tiny", "--out", tmp_path, "--budget", 6000, "--sections", some]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, words)])
    benchmark.main()
    rows = json.loads((tmp_path / "gpu.json").read_text())
    assert list(dict.fromkeys(row["section"] for row in rows)) == some.split(",")
    assert any(str(row["case"]).startswith("compiled, ") for row in rows)
    assert not [row for row in rows if "FAILED" in row.values() or "BAD" in f"{row['value']} {row['note']}"]
    assert sum(row["note"] == "ok" for row in rows) > 40
    compared = {row["case"]: row["unit"] for row in rows if "tensors that differ" in str(row["case"])}
    assert len(compared) == 2 and "of 0" not in compared.values()
    assert len((tmp_path / "gpu.md").read_text().splitlines()) == len(rows) + 2
    assert not (tmp_path / "work").exists()


def test_a_fault_is_in_the_table_and_the_other_sections_run(benchmark, tmp_path):
    parts = importlib.import_module("gpu_parts.run")
    run = parts.Run(torch.device("cpu"), True, 1000.0, tmp_path)
    run.verdict("far", 0.5, 0.1)
    run.verdict("no number", float("nan"), 0.1)
    run.verdict("near", 0.05, 0.1)
    assert [row["note"].split(":")[0] for row in run.rows] == ["BAD", "BAD", "ok"]

    def broken(run):
        raise ValueError("this is\nbroken")

    benchmark.run_section(run, "some", broken)
    assert "ValueError: this is broken at test_gpu_benchmark.py:" in (tmp_path / "gpu.md").read_text()
    run.budget = 0.0
    benchmark.run_section(run, "late", broken)
    assert run.rows[-2] == {"section": "late", "case": "section", "value": "left out", "unit": "", "note": "no time"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "expected a GPU, found none; --tiny runs small sizes on a CPU"),
        (
            ("--tiny", "--sections", "step,stpe"),
            "--sections: expected some of rates, parity, step, .*found stpe",
        ),
    ],
)
def test_what_cannot_run_is_one_line(benchmark, tmp_path, monkeypatch, words, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), *words])
    with pytest.raises(SystemExit, match=f"^error: {expected}"):
        benchmark.main()
