"""What is wrong with a class of one's own is one line, whichever option names it."""

from __future__ import annotations

import sys

import pytest
from launch import run

MINE = """
from mcn_lightning.benchmarks import Benchmark
from mcn_lightning.data.sources.video_source import VideoSource

class Half(VideoSource):
    def ids(self, split): ...

class Animals(Benchmark):
    def __init__(self, name: str, path: str): ...
    def open(self, data, module): ...
    def evaluate(self, trainer, module): ...

class Other: ...
"""
WANTED = "expected a class of your own, as in my_file.MyClass"
CALLBACKS = "--trainer.callbacks"
SAID = {
    "--data.source mine5.Misspelt": f"--data.source: {WANTED}, found mine5.Misspelt (module 'mine5' has no",
    "--data.source no_such.Films": f"--data.source: {WANTED}, found no_such.Films (No module named 'no_such')",
    "--data.source mine5.Half": f"--data.source: {WANTED}, found mine5.Half, which lacks a method",
    "--data.source mine5.Other": f"--data.source: {WANTED}, found mine5.Other, which is no subclass of DataSource",
    "--data.source films": f"--data.source: {WANTED}, found films",
    "--data.source.kind x": f"--data.source: {WANTED}, found mcn_lightning.data.sources.base.DataSource, which lacks",
    "pth": f"{CALLBACKS}: mine5.Animals: expected an argument of this class, found pth, which it lacks",
    "no path": f"{CALLBACKS}: mine5.Animals: expected the argument path, found none; give it",
    "--model.loss.contrastive info_nce": f"--model.loss.contrastive: {WANTED}, or a "
    "file of options, found info_nce; --model.loss.contrastive.kind takes mms, mil_nce, info_nce, max_margin, none; or",
    "--model.loss.contrastive SigLIP": "found SigLIP; --model.loss.contrastive.kind takes mms, mil_nce",
    "--model.clustering sinkhorn": "found sinkhorn; --model.clustering.kind takes kmeans",
    "--model.network.audio_network Net": f"--model.network.audio_network: {WANTED}, "
    "or a file of options, found Net; check the name",
}  # fmt: skip


def refusal(*args: str) -> str:
    """Return the line with which ``fit`` ends."""
    with pytest.raises(SystemExit) as stop:
        run("fit", *args)
    return str(stop.value.code)


def test_a_base_class_is_refused_with_the_classes_to_use(tmp_path):
    """The config of an earlier version, whose ``kind`` is a class now."""
    options = "{name: crosstask, kind: crosstask, steps: b, annotations: c, features: d}"
    path = "mcn_lightning.benchmarks.LocalizationBenchmark"
    old = tmp_path / "old.yaml"
    old.write_text(f"trainer: {{callbacks: [{{class_path: {path}, init_args: {options}}}]}}")
    assert refusal("--config", str(old)) == (
        f"error: {old}: {CALLBACKS}: expected a class that can be built, found the base class {path}; use "
        "mcn_lightning.benchmarks.CrossTask or mcn_lightning.benchmarks.MiningYouTube"
    )


def test_a_kind_after_a_class_path_is_refused_even_if_it_is_the_default(tmp_path):
    recipe, more = tmp_path / "recipe.yaml", tmp_path / "more.yaml"
    recipe.write_text("model: {clustering: {class_path: mine5.Mine, kind: kmeans}}")  # as config.yaml holds both
    more.write_text("model: {clustering: {kind: kmeans}}")
    line = (
        "error: --model.clustering.kind: expected no class_path before it, found mine5.Mine; first give "
        "--model.clustering.class_path null --model.clustering.init_args null"
    )
    given = ("--config", str(recipe))
    assert refusal(*given, "--model.clustering.kind", "kmeans") == line
    assert refusal(*given, "--config", str(more)) == line
    assert refusal("--model.clustering", "mine5.Mine", "--config", str(more)) == line
    assert "expected a subclass of" in refusal(*given)
    off = ("--model.clustering.class_path", "null", "--model.clustering.kind", "no_such")
    assert "no_such" in refusal(*given, *off)


@pytest.mark.parametrize("words", SAID)
def test_a_wrong_class_or_argument_is_one_line_at_every_door(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine5.py").write_text(MINE)
    monkeypatch.delitem(sys.modules, "mine5", raising=False)
    args = {"pth": "{name: a, pth: x}", "no path": "{name: a}"}.get(words)
    text = f"trainer: {{callbacks: [{{class_path: mine5.Animals, init_args: {args}}}]}}"
    (tmp_path / "b.yaml").write_text(text if args else "{}")
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", "b.yaml", *([] if args else words.split()))
    line = str(stop.value.code)
    assert SAID[words] in line and "\n" not in line and "Union" not in line and "Subclass" not in line
