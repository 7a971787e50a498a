"""A benchmark in a file of one's own: the example of docs/extending/benchmark.md, run as the page says."""

from __future__ import annotations

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from launch import environment, run
from processes import python
from pytorch_lightning import Trainer
from torch.nn import functional as F

from benchmarks.benchmark_files import STREAMS
from mcn_lightning.batch import ClipBatch
from mcn_lightning.errors import InputError
from mcn_lightning.inference import load
from mcn_lightning.module import MCNModule

PAGE = (Path(__file__).parents[2] / "docs" / "extending" / "benchmark.md").read_text()
TEXT = {"source": "word_vectors.txt", "dim": 8, "max_words": 8}
ANIMALS = ["topic0word0 topic0word1", "topic1word0", "topic2word3"]
RUN = "runs/run/version_0"
SMALL = {"modalities": ("video", "text"), "embedding_dim": 16, "reconstruction": False}
CLASSES = [0, 2, 1, 0, 1, 2, 2]


def block(language: str) -> str:
    """Return the only block of the page in a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A folder with the page's files, clips of three animals, weights, and options that make a run tiny."""
    (tmp_path / "animals.py").write_text(block("python"))
    (tmp_path / "mine.yaml").write_text(block("yaml"))
    root = tmp_path / "DATA"
    root.mkdir()
    for path in tiny.iterdir():
        (root / path.name).symlink_to(path)
    rng = np.random.default_rng(0)
    clips = [{"animal": ANIMALS[label], "video": rng.uniform(0, 2, 16).round(3).tolist()} for label in CLASSES]
    (root / "animals.json").write_text(json.dumps({"animals": ANIMALS, "clips": clips}))
    options = {
        "data": {"streams": STREAMS, "text": TEXT, "modalities": ["video", "text"], "num_workers": 0, "batch_size": 2},
        "model": {"network": {"embedding_dim": 16, "reconstruction": False}, "clustering": {"kind": "none"}},
        "trainer": {
            "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "max_epochs": 1,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path / "runs"), "name": "run"}},
        },
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(options))
    return tmp_path


@pytest.fixture
def trained(folder) -> Path:
    """The folder, with a trained run in it."""
    done = lightning(folder, "lightning fit --config tiny.yaml --data.root DATA")
    assert done.returncode == 0, done.stderr
    return folder


def lightning(folder: Path, command: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command as it is installed, from the folder that holds the files."""
    name, *given = shlex.split(command)
    return python(Path(sys.executable).with_name(name), *given, *words, cwd=folder, env=environment(folder))


def written(folder: Path) -> list[dict]:
    path = max(folder.rglob("benchmarks.json"), key=lambda found: found.stat().st_mtime_ns)
    return json.loads(path.read_text())


def top1(folder: Path) -> float:
    """Return the share of clips whose nearest name is that of their animal, found without the benchmark."""
    module = load(folder / RUN / "checkpoints" / "last.ckpt")
    lines = (folder / "DATA" / TEXT["source"]).read_text().splitlines()[1:]
    vectors = {line.split()[0]: [float(number) for number in line.split()[1:]] for line in lines}
    words = torch.zeros(len(ANIMALS), TEXT["max_words"], TEXT["dim"])
    for row, animal in zip(words, ANIMALS, strict=True):
        row[: len(animal.split())] = torch.tensor([vectors[word] for word in animal.split()])
    video = torch.tensor(
        [clip["video"] for clip in json.loads((folder / "DATA" / "animals.json").read_text())["clips"]]
    )
    unit = torch.cat([F.normalize(stream, dim=1) for stream in video.split((8, 8), dim=1)], dim=1)
    with torch.no_grad():
        names = module.network(words=words).text
        clips = module(ClipBatch(ids=tuple(map(str, CLASSES)), video=unit)).video
    return 100 * float(((clips @ names.T).argmax(dim=1) == torch.tensor(CLASSES)).double().mean())


def test_the_page_works_as_it_stands_on_any_number_of_processes(trained):
    folder = trained
    command = block("sh").strip().replace("RUN", RUN)
    done = lightning(folder, command)
    assert done.returncode == 0, done.stderr
    found = written(folder)
    assert {(row["setting"], row["metric"], row["kind"]) for row in found} == {
        ("t->v", "top1", "metric"), ("t->v", "mean_class", "metric"), ("", "clips", "count"),
    }  # fmt: skip
    assert found[0]["value"] == pytest.approx(top1(folder))
    assert "animals t->v" in done.stdout and "animals: 7 clips" in done.stdout
    path = max(folder.rglob("metrics.csv"), key=lambda found: found.stat().st_mtime_ns)
    (row,) = csv.DictReader(path.open())
    assert float(row["test/animals/t->v/top1"]) == pytest.approx(found[0]["value"])
    done = lightning(folder, command, "--trainer.devices", 2)
    assert done.returncode == 0, done.stderr
    assert written(folder) == found and len(list(folder.rglob("benchmarks.json"))) == 2


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    """The folder, where this process can run the command itself."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "animals", raising=False)
    return folder


def refused(*words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    return str(stop.value.code)


def test_it_is_evaluated_in_training_and_its_metrics_are_planned(here, capsys):
    words = "fit --config demo --config mine.yaml --data.root DATA --data.synthetic null --config tiny.yaml".split()
    said = refused(*words, "--checkpoint.monitor", "val/animals/t->v/top2")
    assert said.startswith("error: --checkpoint.monitor: expected a metric of this run (val/animals/t->v/top1, ")
    assert said.endswith("found val/animals/t->v/top2")
    words += ["--trainer.check_val_every_n_epoch", "1"]
    run(*words, "--checkpoint.monitor", "val/animals/t->v/top1")
    assert "animals t->v" in capsys.readouterr().out and list(here.rglob("epoch=*.ckpt"))


def test_the_file_of_the_page_has_the_form_that_the_class_reads(here):
    import animals

    (here / "page.json").write_text(block("json"))
    streams = (SimpleNamespace(width=2), SimpleNamespace(width=2))
    benchmark = animals.Animals("zoo", "page.json")
    module = MCNModule(SMALL, clustering={"kind": "none"})
    benchmark.open(SimpleNamespace(root=here, layout=SimpleNamespace(streams=streams), text=list), module)
    assert benchmark.labels.tolist() == [0, 1] and benchmark.video.shape == (2, 4)
    assert benchmark.text == ["cow", "white horse"]


def test_bad_files_end_in_one_line(trained, here):
    path = here / "DATA" / "animals.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"clips": [{"animal": ANIMALS[0], "video": [1.0]}]}))
    said = refused(*shlex.split(block("sh").replace("RUN", RUN))[1:])
    assert said == (
        "error: benchmark animals: animals.json: expected 16 numbers a clip, found 1; give the options of the trained "
        "run (--config RUN/config.yaml), or other features"
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"beasts": [], "animals": None}, "KeyError: 'animals'"),
        ({"clips": [{"animal": "cow", "video": [1.0] * 16}]}, "ValueError: 'cow' is not in list"),
        ({"clips": [{"animal": ANIMALS[0], "video": [1.0] * n} for n in (16, 3)]}, "ValueError: expected sequence of "),
    ],
)
def test_a_file_with_other_contents_is_one_line(folder, change, found, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "animals", raising=False)
    import animals

    path = folder / "DATA" / "animals.json"
    table = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in table.items() if value is not None}))
    benchmark = animals.Animals("zoo", path.name)
    data = SimpleNamespace(root=folder / "DATA", layout=SimpleNamespace(streams=()), text=list)
    monkeypatch.setattr("mcn_lightning.benchmarks.base.evaluation_data", lambda trainer: data)
    module = MCNModule(SMALL, clustering={"kind": "none"})
    with pytest.raises(InputError) as error:
        benchmark.setup(Trainer(logger=False, accelerator="cpu", callbacks=[benchmark]), module, "test")
    said = str(error.value)
    assert (
        said.startswith(f"benchmark zoo: expected files that Animals.open can use, found {found}") and "\n" not in said
    )


def test_a_class_without_metrics_is_refused_before_it_is_made(here):
    lines = ["from mcn_lightning.benchmarks import Benchmark", "class Half(Benchmark):", "    def open(*args): ..."]
    (here / "half.py").write_text("\n".join(lines) + "\n")
    (here / "half.yaml").write_text("trainer: {callbacks: [{class_path: half.Half, init_args: {name: it}}]}\n")
    assert refused("test", "--config", "half.yaml", "--config", "tiny.yaml").endswith(
        "--trainer.callbacks: expected Half to have the method evaluate, found none; write it"
    )
