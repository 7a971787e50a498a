"""Imports run one way, and only the rooms that may import Lightning do."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "mcn_lightning"
GROUND = {"errors", "files", "distributed", "signals", "memory", "batch", "options"}
TENSORS = {"models", "losses", "clustering", "metrics"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "distributed": set(),
    "signals": set(),
    "memory": set(),
    "batch": {"errors", "memory"},
    "options": {"errors"},
    **{room: {"options", "distributed", "errors"} for room in TENSORS},
    "data": GROUND,
    "extract": {"data"} | GROUND,
    "training": {"models", "losses", "clustering"} | GROUND,
    "module": {"training"} | TENSORS | GROUND,
    "inference": {"module", "benchmarks.embedding", "benchmarks.files", "models", "data", "extract"}
    | {"runs.checkpoints", "runs.saved"}
    | GROUND,
    "search": {"inference", "module", "metrics", "models", "data", "extract.decode"} | GROUND,
    "plots": {"search"} | GROUND,
    "app": {"search", "data.text"} | GROUND,
    "runs": {"clustering", "data.shards.files", "data.shards.header"} | GROUND,
    "callbacks": {"runs"} | TENSORS | GROUND,  # models and losses: the types that callbacks.protocols names
    "benchmarks": {"callbacks", "runs", "clustering", "metrics", "models", "data"} | GROUND,
    "defaults": {"benchmarks", "callbacks", "runs", "clustering"} | GROUND,
}
TOP = {"commands", "__main__", "__init__"}
"""What may import everything."""
LATE = {("module.py", "configure_callbacks"): "mcn_lightning.defaults"}
"""The one import against the order: the module brings its callbacks to a trainer, and asks for them only then."""
LIGHTNING = (
    "data/datamodule.py",
    "data/epoch.py",
    "module.py",
    "defaults.py",
    "runs/",
    "callbacks/",
    "benchmarks/",
    "commands/",
)
FILES = sorted(ROOT.rglob("*.py"))
FOLDERS = sorted({path.parent for path in FILES})
MOST_LINES, MOST_FILES = 400, 12


def imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
    return names


def late_imports(path: Path) -> list[tuple[tuple[str, str], str]]:
    """Return the imports inside of functions that ``LATE`` names, with file and function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        place = (str(path.relative_to(ROOT)), getattr(node, "name", ""))
        if isinstance(node, ast.FunctionDef) and place in LATE:
            inner = (each for each in ast.walk(node) if isinstance(each, ast.ImportFrom))
            found += [(place, each.module or "") for each in inner]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    late = [name for place, name in late_imports(path) if LATE[place] == name]
    names = imports(path)
    for name in late:  # once, and in that function: a second import of it anywhere in the file stays refused
        names.remove(name)
    if room in TOP:
        return
    assert room in ALLOWED, f"{room}: name in ALLOWED what it may import"
    for name in names:
        if not name.startswith("mcn_lightning."):
            continue
        target = name.removeprefix("mcn_lightning.")
        own = target.split(".")[0] == room
        allowed = any(target == permitted or target.startswith(permitted + ".") for permitted in ALLOWED[room])
        assert own or allowed, f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_thing(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, f"{path.relative_to(ROOT)} has {lines} lines: it is two things"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_one_room(folder):
    files = list(folder.glob("*.py"))
    assert len(files) <= MOST_FILES, f"{folder.relative_to(ROOT)} has {len(files)} files: it is two rooms"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_outer_rooms_import_lightning(path):
    relative = str(path.relative_to(ROOT))
    if relative.startswith(LIGHTNING):
        return
    assert not any(name.startswith("pytorch_lightning") for name in imports(path)), relative


def test_the_one_import_against_the_order_is_the_one_that_is_named():
    assert [found for path in FILES for found in late_imports(path)] == list(LATE.items())
    assert "module" not in ALLOWED["callbacks"], "or callbacks and module would import one another"


def opens_text(call: ast.Call) -> bool:
    """Tell whether a call reads text by itself: ``open`` for reading without "b", ``read_text`` or ``json.load``."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = getattr(call.func.value, "id", "") if isinstance(call.func, ast.Attribute) else ""
    if (name == "read_text" and isinstance(call.func, ast.Attribute)) or (owner, name) == ("json", "load"):
        return True
    if name in {"genfromtxt", "loadtxt", "read_csv", "read_json"} and owner in {"np", "pd"}:
        return True
    if name != "open" or owner in {"os", "safe_open", "Image", "av"}:
        return False
    mode = [*call.args[isinstance(call.func, ast.Name) or owner == "gzip" :], *(word.value for word in call.keywords)]
    modes = [node.value for node in mode if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if owner == "gzip" or (isinstance(call.func, ast.Attribute) and call.args and not modes):
        return any("t" in each for each in modes)  # in bytes unless asked; or a method of ours, such as source.open(3)
    return not any(set(each) & set("bwxa") for each in modes)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(path)", True), ("open(path, encoding='utf-8')", True), ("open(path, 'r')", True), ("path.open()", True),
        ("path.open('r')", True), ("path.read_text()", True), ("json.load(file)", True), ("gzip.open(p, 'rt')", True),
        ("io.open(path, 'r')", True), ("pd.read_csv(path)", True),
        ("open(path, 'rb')", False), ("open(path, 'w')", False), ("path.open('wb')", False), ("gzip.open(p)", False),
        ("source.open(index)", False), ("read_text(path, 'a list')", False), ("archive.open(entry)", False),
    ],
)  # fmt: skip
def test_reading_text_is_recognised(source, found):
    assert opens_text(ast.parse(source, mode="eval").body) is found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_opened_in_one_place(path):
    if path.relative_to(ROOT).as_posix() == "files.py":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if opens_text(call)]
    assert not lines, f"{path.relative_to(ROOT)}, lines {lines}: use mcn_lightning.files"
