"""What was run already, and whether it went on to its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcn_lightning.commands.ablate.tasks import Task
from mcn_lightning.errors import InputError
from mcn_lightning.runs.saved import CONFIG, counting_options, differences, logged_name, read_options, read_record

Options = Mapping[str, Any]
OptionsOf = Callable[[Sequence[str]], Options]


class Past:
    """Runs that there are already, each read once.

    Args:
        options_of: gives the options that words after ``fit`` come to; refused ones end in an ``InputError``.
    """

    def __init__(self, options_of: OptionsOf) -> None:
        self.options_of = options_of
        self._wanted: dict[tuple[Path, Sequence[str]], Options] = {}
        self._found: dict[Path, list[tuple[Path, Options]]] = {}

    def wanted(self, task: Task) -> Options:
        """Return the options of a run.

        Raises:
            InputError: if the command would refuse them.
        """
        key = task.file, tuple(task.more)
        if key not in self._wanted:
            try:
                self._wanted[key] = self.options_of(task.words)
            except InputError as error:
                raise InputError(str(error) if str(task.file) in str(error) else f"{task.file}: {error}") from None
        return {**self._wanted[key], "seed_everything": task.seed}

    def place(self, task: Task) -> Path:
        """Return the folder in which runs of this kind are logged."""
        options = self.wanted(task)
        logger = options["trainer"].get("logger")
        named = logger.get("init_args") or {} if isinstance(logger, dict) else {}
        return Path(named.get("save_dir") or options["trainer"].get("default_root_dir") or ".")

    def _runs(self, task: Task) -> list[tuple[Path, Options]]:
        place = self.place(task)
        if place not in self._found:
            self._found[place] = []
            for path in sorted(place.rglob(CONFIG)):
                try:
                    self._found[place].append((path.parent, read_options(path)))
                except InputError as error:
                    print(f"warning: {error}; it counts as no run", file=sys.stderr)
        return [(folder, one) for folder, one in self._found[place] if logged_name(one) == task.file.stem]

    def finished(self, task: Task) -> Path | None:
        """Return the folder of a finished run with the same options, if there is one."""
        wanted = self.wanted(task)
        runs = (folder for folder, one in self._runs(task) if _same(one, wanted))
        return next((folder for folder in runs if read_record(folder).get("finished")), None)

    def can_go_on(self, task: Task) -> bool:
        """Return whether ``--ckpt_path last`` is safe.

        It looks at data, model and seed alone, and would take up a run of this name that was, for instance, shorter.
        """
        wanted = self.wanted(task)
        return all(_same(one, wanted) or differences(one, wanted) for _, one in self._runs(task))


def _same(one: Options, other: Options) -> bool:
    """Return whether two runs must reach the same."""
    return one.get("seed_everything") == other.get("seed_everything") and counting_options(one) == counting_options(
        other
    )
