"""What each command imports before it answers: the time to the first line, without a clock."""

from __future__ import annotations

import subprocess
import sys

import pytest
from launch import run

from mcn_lightning.commands.main import COMMANDS
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic

HEAVY = {
    "torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "transformers", "sentence_transformers", "faiss",
    "wandb", "pandas", "matplotlib", "sklearn", "scipy", "fsspec",
}  # fmt: skip
"""Packages that take from a tenth of a second to several seconds to import."""
TRAINER = {"fit", "validate", "test", "predict", "prepare", "check", "index"}
"""Commands whose options are those of a run."""
COUNTED = """
import sys
from mcn_lightning.__main__ import main
sys.argv = ["lightning", *sys.argv[1:]]
try:
    main()
finally:
    print("modules:", *sys.modules, file=sys.stderr)
"""
STOPPED = """
import sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == "mcn_lightning.commands.fit":
            print("modules:", *sys.modules, file=sys.stderr)
            sys.exit()

sys.meta_path.insert(0, Stop())
from mcn_lightning.__main__ import main
main()
"""


def modules(code: str, *words: object) -> tuple[set[str], str]:
    """Return the modules that a command has imported at its end, and what it printed."""
    command = [sys.executable, "-c", code, *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True)
    before, found, after = done.stderr.partition("modules: ")
    assert found, done.stderr
    names, _, rest = after.partition("\n")
    return set(names.split()), done.stdout + before + rest


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["no-command"]], ids=str)
def test_what_needs_no_options_imports_the_standard_library_alone(words):
    names, _ = modules(COUNTED, *words)
    assert not packages(names) & (HEAVY | {"numpy", "jsonargparse", "yaml", "safetensors", "tqdm"})
    assert len(names) < 120


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - TRAINER - {"convert", "extract"}))
def test_the_options_of_light_commands_are_shown_without_torch(name):
    names, said = modules(COUNTED, name, "--help")
    assert f"lightning {name}" in said
    assert not packages(names) & HEAVY
    assert len(names) < 600


def test_results_and_verify_work_without_torch(tmp_path):
    mine = tmp_path / "runs" / "mine" / "version_0"
    mine.mkdir(parents=True)
    (mine / "metrics.csv").write_text("epoch,step,val/nmi\n0,1,0.5\n")
    (mine / "run.json").write_text('{"finished": true}')
    names, said = modules(COUNTED, "results", tmp_path / "runs", "--metrics", "[val/nmi]")
    assert "0.50" in said and not packages(names) & HEAVY
    root = tmp_path / "data"
    write_synthetic(root, SyntheticConfig(videos=2, held_out=1, seconds=12.0, topics=2, widths=(4, 4), word_dim=4))
    options = {
        "--data.root": root, "--data.streams": "[{suffix: _2d, rate: 1.0, width: 4}]", "--data.text.dim": 4,
        "--data.text.source": "word_vectors.txt", "--pack.output": tmp_path / "shards",
    }  # fmt: skip
    run("prepare", *(word for pair in options.items() for word in pair))
    names, said = modules(COUNTED, "verify", "--shards", tmp_path / "shards")
    assert "all as packed" in said and not packages(names) & HEAVY


@pytest.mark.parametrize("name", sorted(TRAINER))
def test_the_first_line_comes_before_anything_heavy(name):
    names, said = modules(STOPPED, name, "--config", "demo")
    assert said == "mcn-lightning 0.1.0: reading configs\n"
    assert not packages(names) & HEAVY


def test_the_first_line_stands_once_and_never_in_an_answer(monkeypatch):
    assert modules(STOPPED, "fit", "--help")[1] == modules(STOPPED, "fit", "--print_config")[1] == ""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert modules(STOPPED, "fit")[1] == ""


def test_training_imports_what_lightning_does_and_no_more():
    code = """
import sys
import pytorch_lightning.cli
before = {name.partition(".")[0] for name in sys.modules} - {"wandb"}  # only those who log to it import it
import mcn_lightning.commands.fit
print("modules:", *({name.partition(".")[0] for name in sys.modules} - before), file=sys.stderr)
"""
    names, _ = modules(code)
    assert "mcn_lightning" in names
    assert not names & (HEAVY | {"nltk", "PIL", "sympy", "rich", "requests"})
