"""Imports run one way, and only the rooms that may import Lightning do."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "mcn_lightning"
LEVEL_1 = {"models", "losses", "clustering", "metrics"}
ALLOWED = {
    "distributed": set(),
    "signals": set(),
    "data": {"signals"},
    **{room: {"distributed"} for room in LEVEL_1},
    "module": LEVEL_1 | {"data.batch", "distributed"},
    "options": {"data.batch"},
    "callbacks": {"metrics", "clustering", "data.batch", "distributed", "signals", "options"},
    "slurm": {"data.batch", "data.shard_files"},
    "results": {"data.batch", "options"},
    "ablations": {"results", "data.batch", "options", "signals"},
    "experiments": {"results", "ablations", "checks", "data.batch"},
    "checks": {"slurm", "data.batch"},
}
LIGHTNING = {"data/datamodule.py", "module.py", "cli.py", "convert.py"}
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        if not name.startswith("mcn_lightning."):
            continue
        target = name.removeprefix("mcn_lightning.")
        own = target.split(".")[0] == room
        allowed = (
            room not in ALLOWED
            or own
            or any(target == permitted or target.startswith(permitted + ".") for permitted in ALLOWED[room])
        )
        assert allowed, f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_outer_rooms_import_lightning(path):
    relative = str(path.relative_to(ROOT))
    if relative in LIGHTNING or relative.startswith("callbacks/"):
        return
    assert not any(name.startswith("pytorch_lightning") for name in imports(path)), relative
