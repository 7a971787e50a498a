"""The recipes that come with the package: found by name, from every folder, with or without the checkout."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_text

FOLDERS = tuple(Path(__file__).parents[1] / "_recipes" / name for name in ("configs", "experiments"))
"""Links to the folders of the checkout; in a package that was built they hold the files themselves."""
ASIDE = ("sweeps",)
"""Folders whose files are for other programs."""
ENDINGS = (".yaml", ".yml", ".json")
WIDTH = 100  # letters of a summary
SHOWN = 5  # names in a message


def recipes() -> dict[str, Path]:
    """Return all recipes by name: ``demo``, ``evaluate/youcook2``, ``ablations/mms``."""
    found = {}
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name.partition("/")[0] not in ASIDE:
                found[name] = path
    return found


def find_recipe(word: str, option: str = "--config") -> Path:
    """Return the file that a user means: one that exists, else the recipe of this name.

    Args:
        word: a path, or the name of a recipe; of ``ablations/mms``, ``mms`` is enough where no other recipe ends so.
        option: where it was given, for the message.

    Raises:
        InputError: naming recipes with similar names.
    """
    if Path(word).is_file():
        return Path(word)
    every, name = recipes(), _name(word)
    ends = [name] if name in every else [each for each in every if each.rpartition("/")[2] == name]
    if len(ends) == 1:
        return every[ends[0]]
    near = ends or _near(name, every)
    advice = f"did you mean {' or '.join(near[:SHOWN])}? " if near else ""
    kind = "a folder" if Path(word).is_dir() else "neither"
    raise InputError(
        f"{option} {word}: expected a file or a recipe, found {kind}; {advice}`lightning recipes` lists all of them"
    )


def ablation_folder(word: str) -> Path:
    """Return a folder of ablation files: one that exists, else the one of this name that comes with the package."""
    if Path(word).is_dir():
        return Path(word)
    inner = Path(word.removeprefix("experiments/"))
    packaged = FOLDERS[1] / inner
    return packaged if not inner.is_absolute() and packaged.is_dir() else Path(word)


def summary(path: Path) -> str:
    """Return what a recipe is for: its first line, a comment, without the command that may follow."""
    line = read_text(path, "a recipe").partition("\n")[0].removeprefix("#").strip()
    text = line.partition("  lightning ")[0].rstrip(":; ")
    return text if len(text) <= WIDTH else text[: WIDTH - 3].rpartition(" ")[0] + " ..."


def print_recipes(name: str | None = None) -> None:
    """List the recipes with one line each, or print one of them, to be changed and used as a file.

    Args:
        name: the recipe to print, for instance demo; all are listed when none is given.

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


def _name(word: str) -> str:
    """Return the name of the recipe that a path into the checkout stands for; names stay as they are."""
    path = Path(word)
    name = path.with_suffix("").as_posix() if path.suffix in ENDINGS else path.as_posix()
    return name.removeprefix("./").removeprefix("configs/").removeprefix("experiments/")


def _near(name: str, names: Iterable[str]) -> list[str]:
    last = {each: each.rpartition("/")[2] for each in names}
    found = difflib.get_close_matches(name, last, n=SHOWN)
    similar = difflib.get_close_matches(name.rpartition("/")[2], last.values(), n=SHOWN)
    return list(dict.fromkeys([*found, *(each for each, end in last.items() if end in similar)]))
