"""Recipes by name, and a package that was built and is used far from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from launch import DATA, NETWORK

from mcn_lightning.commands.configs import resolve_configs
from mcn_lightning.commands.main import main
from mcn_lightning.commands.recipes import ablation_folder, find_recipe, recipes, summary
from mcn_lightning.errors import InputError

ROOT = Path(__file__).parents[2]
FILES = {
    "demo": "configs/demo.yaml",
    "configs/grid.yaml": "configs/grid.yaml",
    "evaluate/youcook2": "configs/evaluate/youcook2.yaml",
    "crosstask": "configs/evaluate/crosstask.yaml",
    "ablations/mms": "experiments/ablations/mms.yaml",
    "mms": "experiments/ablations/mms.yaml",
    "experiments/finetune/msrvtt.yaml": "experiments/finetune/msrvtt.yaml",
}


@pytest.fixture
def away(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_of_the_checkout_has_a_name_and_a_line():
    files = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "experiments").rglob("*.yaml")]
    expected = {path.resolve() for path in files if path.parent.name != "sweeps"}
    assert {path.resolve() for path in recipes().values()} == expected and len(recipes()) == len(expected)
    for name, path in recipes().items():
        assert path.read_text().startswith("# ") and len(summary(path)) >= 8, name


@pytest.mark.parametrize(("word", "file"), FILES.items())
def test_a_name_is_found_from_every_folder(word, file, away):
    assert find_recipe(word).read_bytes() == (ROOT / file).read_bytes()
    (path,) = resolve_configs([f"--config={word}"])
    assert Path(path.removeprefix("--config=")).samefile(ROOT / file)


def test_a_short_name_means_a_recipe_of_the_command_first(away):
    assert find_recipe("howto100m").samefile(ROOT / "configs/howto100m.yaml")
    for word in ("howto100m", "extract/howto100m", "configs/extract/howto100m.yaml"):
        assert find_recipe(word, own="extract").samefile(ROOT / "configs/extract/howto100m.yaml")
    assert find_recipe("ablations/mms", own="extract").samefile(ROOT / "experiments/ablations/mms.yaml")


def test_extract_takes_its_own_recipe_and_fit_the_other(away, tmp_path):
    (tmp_path / "films").mkdir()
    with pytest.raises(SystemExit, match=r"--videos .*films: expected videos"):  # the options are those of extract
        main(["extract", "--config", "howto100m", "--videos", str(tmp_path / "films"), "--output", str(tmp_path)])
    (path,) = resolve_configs(["--config=howto100m"])
    assert "streams:" in Path(path.removeprefix("--config=")).read_text().partition("data:")[2]


def test_a_file_of_the_user_goes_before_a_recipe(away):
    Path("demo").write_text("data: {batch_size: 2}\n")
    assert find_recipe("demo") == Path("demo")
    Path("demo").unlink()
    Path("configs").mkdir()
    Path("configs/demo.yaml").write_text("data: {batch_size: 2}\n")
    assert find_recipe("configs/demo.yaml") == Path("configs/demo.yaml")


@pytest.mark.parametrize(("word", "near"), [
    ("dmo", "did you mean demo?"),
    ("youcook2", "did you mean evaluate/youcook2 or finetune/youcook2?"),
    ("evaluate/youcok2", "did you mean evaluate/youcook2 or"),
    ("clusters_32", "clusters_"),
    ("/nowhere/mine.yaml", "found neither"),
])  # fmt: skip
def test_an_unknown_name_is_told_what_is_near(word, near, away):
    with pytest.raises(InputError) as told:
        find_recipe(word)
    line = str(told.value)
    assert line.startswith(f"--config {word}: expected a file or a recipe, found neither; ") and near in line
    assert line.endswith("see `lightning recipes`")


def test_the_list_and_one_recipe_are_printed(away, capsys):
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipes())
    assert "evaluate/youcook2" in recipes() and "Generated videos with 16 known topics" in lines[0]
    main(["recipes", "mms"])
    assert capsys.readouterr().out == (ROOT / FILES["mms"]).read_text()


def test_ablations_are_found_from_every_folder(away, capsys):
    main(["ablate", "--base", "demo", "--files", "[mms, mil_nce]", "--list"])
    first, second = capsys.readouterr().out.splitlines()
    assert "ablations/mil_nce.yaml" in first and "ablations/mms.yaml" in second
    Path("experiments/ablations").mkdir(parents=True)
    assert ablation_folder("experiments/ablations") == Path("experiments/ablations")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what the package is built from, links as links."""
    folder = tmp_path_factory.mktemp("source")
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "configs", "experiments"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=unwanted)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def install(source: Path, target: Path) -> None:
    words = ["install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--target", target, source]
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def command(target: Path, folder: Path, *words: object) -> str:
    """Run the installed command in a folder of its own."""
    kept = {**os.environ, "PYTHONPATH": str(target)}
    call = [sys.executable, "-m", "mcn_lightning", *map(str, words)]
    done = subprocess.run(call, cwd=folder, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_has_the_recipes_and_trains_from_them(source, tiny, tmp_path):
    target, folder = tmp_path / "site", tmp_path / "elsewhere"
    install(source, target)
    folder.mkdir()
    names = [line.split()[0] for line in command(target, folder, "recipes").splitlines()]
    assert names == list(recipes())
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    options = {
        "data": {name: value for name, value in DATA.items() if name != "modalities"} | {"root": str(tiny)},
        "model": {"network": NETWORK, "clustering": {"num_clusters": 4, "queue_rows": 16}},
        "trainer": {"max_steps": 1, "limit_val_batches": 0, "accelerator": "cpu", "enable_progress_bar": False},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(options))
    command(target, folder, "fit", "--config", "demo", "--config", "mms", "--config", "tiny.yaml")
    (record,) = folder.rglob("run.json")
    told = json.loads(record.read_text())
    assert (told["version"], told["commit"], told["changed"]) == ("0.1.0", "unknown", None)


def test_a_source_distribution_has_the_recipes_as_files(source, tmp_path):
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    install(path.with_name(path.name.removesuffix(".tar.gz")), tmp_path / "site")
    found = tmp_path / "site" / "mcn_lightning" / "_recipes"
    for name, file in recipes().items():
        kind = "configs" if file.is_relative_to(file.parents[len(Path(name).parts)] / "configs") else "experiments"
        assert (found / kind / f"{name}.yaml").read_bytes() == file.read_bytes()
