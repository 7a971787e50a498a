"""The command with benchmarks on tiny files, and what it wrote or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch import CONFIGS, run, tiny_options

from benchmarks.benchmark_files import STREAMS


def overlay(folder: Path, root: Path) -> Path:
    """Write the file that makes every recipe tiny."""
    options = tiny_options(root, folder / "runs", max_epochs=1)
    del options["model"]["clustering"], options["trainer"]["check_val_every_n_epoch"]
    text = {"source": "word_vectors.txt", "dim": 8, "max_words": 8}
    options["data"] = {"root": str(root), "streams": STREAMS, "num_workers": 0, "batch_size": 8, "text": text}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(options))
    return path


def written(folder: Path) -> dict[str, float]:
    """Return the results that the newest run wrote, by ``benchmark/setting/metric``."""
    path = max(folder.rglob("benchmarks.json"), key=lambda found: found.stat().st_mtime_ns)
    rows = json.loads(path.read_text())
    return {"/".join(filter(None, (row["benchmark"], row["setting"], row["metric"]))): row["value"] for row in rows}


def own(folder: Path, **options: Any) -> Path:
    """Write a configuration with one retrieval benchmark, as a user writes one."""
    base = {"name": "it", "path": "msrvtt_jsfusion_test.pkl", "audio_frames": 100, "without_audio": "miss"} | options
    callbacks = [{"class_path": "RetrievalBenchmark", "init_args": base}]
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump({"data": {"val_csv": None}, "trainer": {"callbacks": callbacks}}))
    return path


def evaluate(root: Path, folder: Path, **options: Any) -> dict[str, float]:
    """Evaluate one retrieval benchmark."""
    run("test", "--config", own(folder, **options), "--config", overlay(folder, root))
    return written(folder)


def refuse(root: Path, folder: Path, capsys: Any, recipe: str | Path, *words: object) -> str:
    """Return the one line that a benchmark ends with."""
    recipe = recipe if isinstance(recipe, Path) else CONFIGS / "evaluate" / f"{recipe}.yaml"
    given = ["--config", recipe, "--config", overlay(folder, root)]
    with pytest.raises(SystemExit) as stop:
        run("test", *given, *words)
    line = str(stop.value.code)
    assert line.startswith("error: ") and "\n" not in line
    return line
