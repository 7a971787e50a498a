"""Imports run one way, and only the rooms that may import Lightning do."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "mcn_lightning"
GROUND = {"errors", "files", "distributed", "signals", "memory", "batch", "options", "devices", "compiling"}
TENSORS = {"models", "losses", "clustering", "metrics"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "distributed": {"errors"},
    "signals": set(),
    "memory": {"errors"},
    "batch": {"errors", "memory"},
    "options": {"errors"},
    "devices": {"errors", "signals"},
    "compiling": {"errors"},
    **{room: {"options", "distributed", "compiling", "errors"} for room in TENSORS},
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


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def imports(path: Path) -> list[str]:
    names = []
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
    return names


def late_imports(path: Path) -> list[tuple[tuple[str, str], str]]:
    """Return the imports inside of functions that ``LATE`` names, with file and function."""
    found = []
    for node in nodes(path):
        place = (str(path.relative_to(ROOT)), getattr(node, "name", ""))
        if isinstance(node, ast.FunctionDef) and place in LATE:
            inner = (each for each in ast.walk(node) if isinstance(each, ast.ImportFrom))
            found += [(place, each.module or "") for each in inner]
    return found


def wrong_imports(path: Path) -> list[str]:
    """Return what a file imports against the order."""
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    late = [name for place, name in late_imports(path) if LATE[place] == name]
    names = imports(path)
    for name in late:  # once, and in that function: a second import of it anywhere in the file stays refused
        names.remove(name)
    if room in TOP:
        return []
    assert room in ALLOWED, f"{room}: name in ALLOWED what it may import"
    targets = [name.removeprefix("mcn_lightning.") for name in names if name.startswith("mcn_lightning.")]
    allowed = (room, *ALLOWED[room])
    return [name for name in targets if not any(f"{name}.".startswith(f"{each}.") for each in allowed)]


def test_imports_run_one_way():
    wrong = {str(path.relative_to(ROOT)): names for path in FILES if (names := wrong_imports(path))}
    assert not wrong, f"files that import what they may not: {wrong}"


def test_a_file_is_one_thing():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    long = {name: count for name, count in lines.items() if count > MOST_LINES}
    assert len(lines) > 200 and not long, f"files that are two things, with their lines: {long}"


def test_a_folder_is_one_room():
    files = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in FOLDERS}
    full = {name: count for name, count in files.items() if count > MOST_FILES}
    assert len(files) > 20 and not full, f"folders that are two rooms, with their files: {full}"


def test_only_the_outer_rooms_import_lightning():
    inner = [path for path in FILES if not str(path.relative_to(ROOT)).startswith(LIGHTNING)]
    wrong = [path for path in inner if any(name.startswith("pytorch_lightning") for name in imports(path))]
    assert len(inner) > 100 and not wrong


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


def test_text_is_opened_in_one_place():
    calls = {path: [node for node in nodes(path) if isinstance(node, ast.Call)] for path in FILES}
    lines = {str(path.relative_to(ROOT)): [call.lineno for call in found if opens_text(call)]
             for path, found in calls.items()}  # fmt: skip
    wrong = {name: found for name, found in lines.items() if found and name != "files.py"}
    assert not wrong, f"files that read text by themselves, with the lines: {wrong}; use mcn_lightning.files"
