"""What is wrong with a class of one's own is one line, whichever option names it."""

from __future__ import annotations

import sys

import pytest
from launch import run

MINE = """
from mcn_lightning.benchmarks import Benchmark
from mcn_lightning.clustering import Clustering
from mcn_lightning.data.sources.video_source import VideoSource
from mcn_lightning.losses import ContrastiveLoss
from mcn_lightning.models import AudioNetwork
import torch
from torch import nn

class Half(VideoSource):
    def ids(self, split): ...

class Animals(Benchmark):
    def __init__(self, name: str, path: str): ...
    def open(self, data, module): ...
    def evaluate(self, trainer, module): ...

class Other: ...

class Refusing:
    def __init__(self, *args, k: int = 1, **rest):
        raise ValueError("k: expected at least 2,\\n  found 1")

class Films(Refusing, VideoSource):
    def ids(self, split): ...
    def read(self, video, split): ...

class Zoo(Refusing, Benchmark):
    def open(self, data, module): ...
    def evaluate(self, trainer, module): ...

class Loss(Refusing, ContrastiveLoss):
    def of_similarity(self, similarity): ...

class Bare:
    def __init__(self, *args, **rest): ...

class BareLoss(Bare, ContrastiveLoss):
    def of_similarity(self, similarity): ...

class WeightedLoss(ContrastiveLoss):
    def __init__(self, config):
        self.bias = nn.Parameter(torch.zeros(()))
    def of_similarity(self, similarity): ...

class BareClusters(Bare, Clustering):
    def assignments(self, features): ...
    def targets(self, features): ...

class BareNet(Bare, AudioNetwork):
    def forward(self, spectrogram): ...

class BareZoo(Bare, Benchmark):
    def open(self, data, module): ...
    def evaluate(self, trainer, module): ...
"""
WANTED = "expected a class of your own, as in my_file.MyClass"
CALLBACKS = "--trainer.callbacks"
BARE = "expected {}.__init__ to call super().__init__({}) first, found no such call; add it"
CLASSES = {"refused zoo": "Zoo", "bare zoo": "BareZoo"}
SAID = {
    "--data.source mine5.Misspelt": f"--data.source: {WANTED}, found mine5.Misspelt (module 'mine5' has no",
    "--data.source no_such.Films": f"--data.source: {WANTED}, found no_such.Films (No module named 'no_such'); its "
    "file must lie in the folder where the command runs, or on PYTHONPATH",
    "--data.source mine5.Half": "--data.source: expected Half to have the method read, found none; write it",
    "--data.source mine5.Other": f"--data.source: {WANTED}, found mine5.Other, which is no subclass of DataSource; "
    "derive the class from it",
    "--data.source films": f"--data.source: {WANTED}, found films",
    "--data.source.kind x": f"--data.source: {WANTED}, found the base class "
    "mcn_lightning.data.sources.base.DataSource; derive a class from it, see docs/extending",
    "pth": f"{CALLBACKS}: mine5.Animals: expected an argument of this class, found pth, which it lacks",
    "no path": f"{CALLBACKS}: mine5.Animals: expected the argument path, found none; give it",
    "--model.loss.contrastive info_nce": f"--model.loss.contrastive: {WANTED}, or a "
    "file of options, found info_nce; --model.loss.contrastive.kind takes mms, mil_nce, info_nce, max_margin, none; or",
    "--model.loss.contrastive SigLIP": "found SigLIP; --model.loss.contrastive.kind takes mms, mil_nce",
    "--data.source mine5.Films": "--data.source: mine5.Films: k: expected at least 2, found 1",
    "refused zoo": f"{CALLBACKS}: mine5.Zoo: k: expected at least 2, found 1",
    "--model.loss.contrastive mine5.Loss": "--model.loss.contrastive: mine5.Loss: k: expected at least 2, found 1",
    "--model.loss.contrastive mine5.BareLoss": "--model.loss.contrastive: " + BARE.format("BareLoss", "config"),
    "--model.loss.contrastive mine5.WeightedLoss": BARE.format("WeightedLoss", "config"),
    "--model.clustering mine5.BareClusters": BARE.format("BareClusters", "config, dim, names"),
    "--model.network.audio_network mine5.BareNet": "audio_network: " + BARE.format("BareNet", "bands"),
    "bare zoo": f"{CALLBACKS}: " + BARE.format("BareZoo", "name"),
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
    args = {"pth": "{name: a, pth: x}", "no path": "{name: a}"}.get(words, "{}" if words in CLASSES else None)
    kind = CLASSES.get(words, "Animals")
    text = f"trainer: {{callbacks: [{{class_path: mine5.{kind}, init_args: {args}}}]}}"
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", "demo", *(["--config", "b.yaml"] if args else words.split()))
    line = str(stop.value.code)
    assert SAID[words] in line and "\n" not in line and "Union" not in line and "Subclass" not in line
