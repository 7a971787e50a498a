"""The recipes of the package: config files that are found by name from any folder."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_text

FOLDERS = tuple(Path(__file__).parents[1] / "_recipes" / name for name in ("configs", "experiments"))
"""Links to the folders of the checkout. In a built package they hold the files themselves."""
NOT_RECIPES = ("sweeps",)
"""Folders whose files are no configs of this command; wandb reads them."""
ENDINGS = (".yaml", ".yml", ".json")
WIDTH = 100  # characters of a summary
MAX_SHOWN = 5  # recipes named in a message


def recipes() -> dict[str, Path]:
    """Return all recipes by name: ``demo``, ``evaluate/youcook2``, ``ablations/mms``."""
    found = {}
    for folder in FOLDERS:
        # short paths first: the recipes at the top come before those of folders
        for path in sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name.partition("/")[0] not in NOT_RECIPES:
                found[name] = path
    return found


def find_recipe(given: str, option: str = "--config", own: str = "") -> Path:
    """Return the config file of a path or a recipe name. An existing file wins.

    Args:
        given: a path, or the name of a recipe. ``mms`` is enough for ``ablations/mms`` if no other recipe ends in it.
        option: that has this value, for the message.
        own: folder of recipes that a short name means first.

    Raises:
        InputError: naming recipes with similar names.
    """
    if Path(given).is_file():
        return Path(given)
    every, name = recipes(), _name(given)
    if f"{own}/{name}" in every:
        return every[f"{own}/{name}"]
    ends = [name] if name in every else [each for each in every if each.rpartition("/")[2] == name]
    if len(ends) == 1:
        return every[ends[0]]
    near = ends or _near(name, every)
    advice = f"did you mean {' or '.join(near[:MAX_SHOWN])}? " if near else ""
    kind = "a folder" if Path(given).is_dir() else "neither"
    raise InputError(f"{option} {given}: expected a file or a recipe, found {kind}; {advice}see `lightning recipes`")


def ablation_folder(given: str) -> Path:
    """Return a folder of ablation files: the existing one, else the one of this name in the package."""
    if Path(given).is_dir():
        return Path(given)
    inner = Path(given.removeprefix("experiments/"))
    # joined with an absolute path, FOLDERS[1] would be dropped
    packaged = FOLDERS[1] / inner
    return packaged if not inner.is_absolute() and packaged.is_dir() else Path(given)


def summary(path: Path) -> str:
    """Return the summary of a recipe: the comment in its first line, without a command that may follow."""
    line = read_text(path, "a recipe").partition("\n")[0].removeprefix("#").strip()
    text = line.partition("  lightning ")[0].rstrip(":; ")
    return text if len(text) <= WIDTH else text[: WIDTH - 3].rpartition(" ")[0] + " ..."


def print_recipes(name: str | None = None) -> None:
    """List the recipes with one line each, or print one, for instance to change it.

    Args:
        name: recipe to print, for instance demo; by default all are listed.

    Raises:
        InputError: if there is no recipe of this name.
    """
    if name is not None:
        print(read_text(find_recipe(name, "lightning recipes"), "a recipe"), end="")
        return
    every = recipes()
    width = max(map(len, every)) + 2
    for each, path in every.items():
        print(f"{each:<{width}}{summary(path)}")


def _name(given: str) -> str:
    """Return the recipe name for a path in the checkout; names are returned as they are."""
    path = Path(given)
    name = path.with_suffix("").as_posix() if path.suffix in ENDINGS else path.as_posix()
    return name.removeprefix("./").removeprefix("configs/").removeprefix("experiments/")


def _near(name: str, names: Iterable[str]) -> list[str]:
    # by the last part too, as users leave out the folder
    last = {each: each.rpartition("/")[2] for each in names}
    found = difflib.get_close_matches(name, last, n=MAX_SHOWN)
    similar = difflib.get_close_matches(name.rpartition("/")[2], last.values(), n=MAX_SHOWN)
    return list(dict.fromkeys([*found, *(each for each, end in last.items() if end in similar)]))
