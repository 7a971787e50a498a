"""The command with benchmarks on tiny files, and what it wrote or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch import CONFIGS, NETWORK, run, tiny_options
from pytorch_lightning import Trainer

from benchmarks.benchmark_files import STREAMS
from mcn_lightning import benchmarks
from mcn_lightning.benchmarks import Benchmark
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError
from mcn_lightning.module import MCNModule


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


OWN = {"name": "it", "path": "msrvtt_jsfusion_test.pkl", "audio_frames": 100, "without_audio": "miss"}


def own(folder: Path, **options: Any) -> Path:
    """Write a configuration with one retrieval benchmark, as a user writes one."""
    callbacks = [{"class_path": "RetrievalBenchmark", "init_args": OWN | options}]
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


def said_of(benchmark: Callable[[], Benchmark], root: Path) -> str:
    """Return what is said of a benchmark that cannot be built, opened or evaluated, without a command."""
    streams = [VisualStream(**stream) for stream in STREAMS]
    text = TextConfig(source="word_vectors.txt", dim=8, max_words=8)
    network = NETWORK | {"modalities": ("video", "audio", "text"), "video_dim": 16, "text_dim": 8}
    module = MCNModule(network, clustering={"kind": "none"}).eval()
    with pytest.raises(InputError) as error:
        built = benchmark()
        trainer = Trainer(logger=False, accelerator="cpu", callbacks=[built], enable_progress_bar=False)
        trainer.datamodule = NarratedVideos(str(root), streams=streams, text=text, num_workers=0)
        built.setup(trainer, module, "test")
        built.on_test_epoch_end(trainer, module)
    line = str(error.value)
    assert "\n" not in line
    return line


def of_recipe(name: str) -> Benchmark:
    """Build the benchmark of a recipe."""
    (block,) = yaml.safe_load((CONFIGS / "evaluate" / f"{name}.yaml").read_text())["trainer"]["callbacks"]
    return getattr(benchmarks, block["class_path"].rpartition(".")[2])(**block["init_args"])
