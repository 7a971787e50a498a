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
