"""Finding of earlier runs, and whether they finished."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mcn_lightning.commands.ablate.tasks import Task
from mcn_lightning.errors import InputError
from mcn_lightning.runs.saved import (
    CONFIG,
    Options,
    comparable_options,
    differences,
    logged_name,
    read_options,
    read_record,
)

ResolveOptions = Callable[[Sequence[str]], Options]


class PastRuns:
    """The earlier runs in the folders of tasks, each read once.

    Args:
        resolve_options: returns all options for given arguments of ``fit``, or raises an ``InputError``.
    """

    def __init__(self, resolve_options: ResolveOptions) -> None:
        self.resolve_options = resolve_options
        self._options: dict[tuple[Path, Sequence[str]], Options] = {}
        self._found: dict[Path, list[tuple[Path, Options]]] = {}

    def options(self, task: Task) -> Options:
        """Return the options of a task's run.

        Raises:
            InputError: if ``fit`` would refuse them.
        """
        # without the seed, which is set below: parsing takes a second
        key = task.file, tuple(task.more)
        if key not in self._options:
            try:
                self._options[key] = self.resolve_options(task.args)
            except InputError as error:
                raise InputError(str(error) if str(task.file) in str(error) else f"{task.file}: {error}") from None
        return {**self._options[key], "seed_everything": task.seed}

    def log_folder(self, task: Task) -> Path:
        """Return the folder in which the runs of a task are logged."""
        options = self.options(task)
        logger = options["trainer"].get("logger")
        named = logger.get("init_args") or {} if isinstance(logger, dict) else {}
        return Path(named.get("save_dir") or options["trainer"].get("default_root_dir") or ".")

    def _runs(self, task: Task) -> list[tuple[Path, Options]]:
        folder = self.log_folder(task)
        if folder not in self._found:
            # read once: hundreds of configs take long, and all tasks share the folder
            self._found[folder] = []
            for path in sorted(folder.rglob(CONFIG)):
                try:
                    self._found[folder].append((path.parent, read_options(path)))
                except InputError as error:
                    print(f"warning: {error}; it counts as no run", file=sys.stderr)
        return [(run, one) for run, one in self._found[folder] if logged_name(one) == task.file.stem]

    def finished(self, task: Task) -> Path | None:
        """Return the folder of a finished run with the same options, if there is one."""
        wanted = self.options(task)
        runs = (folder for folder, one in self._runs(task) if _same(one, wanted))
        return next((folder for folder in runs if read_record(folder).get("finished")), None)

    def can_resume(self, task: Task) -> bool:
        """Return whether ``--ckpt_path last`` is safe.

        It compares only data, model and seed. So it could resume a run of this name with, for instance, fewer epochs.
        """
        wanted = self.options(task)
        return all(_same(one, wanted) or differences(one, wanted) for _, one in self._runs(task))


def _same(one: Options, other: Options) -> bool:
    """Return whether two runs have the same seed and options, and so the same result."""
    return one.get("seed_everything") == other.get("seed_everything") and comparable_options(one) == comparable_options(
        other
    )
