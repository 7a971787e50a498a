"""A folder of ablation files over seeds: what there is to run, what is already finished, and one run after another."""

from __future__ import annotations

import pickle
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch

from mcn_lightning.callbacks.checkpoints import differences
from mcn_lightning.data.batch import InputError
from mcn_lightning.results.rows import flat_options
from mcn_lightning.results.runs import read_options, read_record

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
Options = Mapping[str, Any]
OptionsOf = Callable[[Sequence[str]], Options]


@dataclass(frozen=True)
class Task:
    """One file with one seed.

    Args:
        number: its place in the list.
        base: recipe that the file is layered over.
        file: options that are different.
        seed: the run's.
        more: further words of the command.
    """

    number: int
    base: Path
    file: Path
    seed: int
    more: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The run, for the user."""
        return f"{self.file.stem}, seed {self.seed}"

    @property
    def words(self) -> list[str]:
        """Words after ``fit``, without the checkpoint."""
        words = ["--config", str(self.base), "--config", str(self.file), "--seed_everything", str(self.seed)]
        return [*words, *self.more, "--trainer.logger.init_args.name", self.file.stem]

    def command(self, last: bool = True) -> list[str]:
        """Return the command of the run, which goes on from where it was stopped unless ``last`` is false."""
        words = [sys.executable, "-m", "mcn_lightning", "fit", *self.words]
        return [*words, "--ckpt_path", "last"] if last else words


def plan(base: Path, folder: Path, seeds: Sequence[int], files: Sequence[str], more: Sequence[str]) -> list[Task]:
    """Return what there is to run, file by file.

    Args:
        base: recipe; ablation files whose name begins with that of another recipe beside it are left out.
        folder: the ablation files.
        seeds: for each file.
        files: names to take of these, without ending; all when empty.
        more: further words for every run.

    Raises:
        InputError: if there is nothing to run, or a name is not in the folder.
    """
    if not base.is_file():
        raise InputError(f"--base: expected a recipe, found no file at {base}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds: expected different numbers, found {list(seeds)}")
    found = {path.stem: path for path in sorted(folder.glob("*.yaml")) if belongs(path, base)}
    if not found:
        raise InputError(f"--folder: expected ablation files for {base} in {folder}, found none")
    if absent := [name for name in files if name not in found]:
        raise InputError(f"--files: expected some of {', '.join(found)}, found {absent[0]}")
    pairs = [(path, seed) for name, path in found.items() if not files or name in files for seed in seeds]
    return [Task(number, base, path, seed, tuple(more)) for number, (path, seed) in enumerate(pairs)]


def belongs(path: Path, base: Path) -> bool:
    """Return whether an ablation file is for a recipe: its name begins with the recipe's, or with that of none."""
    recipes = [recipe.stem for recipe in base.parent.glob("*.yaml") if path.stem.startswith(f"{recipe.stem}_")]
    return not recipes or max(recipes, key=len) == base.stem


class Past:
    """Runs that there are already, each read once.

    Args:
        options_of: gives the options that words after ``fit`` come to; refused ones end in ``SystemExit``.
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
            except SystemExit as stop:
                raise InputError(f"{task.file}: {str(stop.code).removeprefix('error: ')}") from None
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
            folders = sorted(path.parent for path in place.rglob("config.yaml"))
            self._found[place] = [(folder, read_options(folder)) for folder in folders]
        return [(folder, one) for folder, one in self._found[place] if _name(one) == task.file.stem]

    def finished(self, task: Task) -> Path | None:
        """Return the folder of a finished run with the same options, if there is one."""
        wanted = self.wanted(task)
        return next((folder for folder, one in self._runs(task) if _same(one, wanted) and _finished(folder, one)), None)

    def can_go_on(self, task: Task) -> bool:
        """Return whether ``--ckpt_path last`` is safe.

        It looks at data, model and seed alone, and would take up a run of this name that was, for instance, shorter.
        """
        wanted = self.wanted(task)
        return all(_same(one, wanted) or differences(one, wanted) for _, one in self._runs(task))


def _name(options: Options) -> str | None:
    logger = (options.get("trainer") or {}).get("logger")
    return (logger.get("init_args") or {}).get("name") if isinstance(logger, dict) else None


def _same(one: Options, other: Options) -> bool:
    """Return whether two runs must reach the same."""
    return one.get("seed_everything") == other.get("seed_everything") and flat_options(one) == flat_options(other)


def _finished(folder: Path, options: Options) -> bool:
    """Return whether a run went on to its end, by its record, or by a checkpoint where there is no record."""
    if "finished" in (record := read_record(folder)):
        return bool(record["finished"])
    epochs, steps = (options["trainer"].get(name) or -1 for name in ("max_epochs", "max_steps"))
    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            done = saved["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            reached = saved["global_step"]
        except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
            continue  # what cannot be read does not tell that the run is finished
        if 0 < epochs <= done or 0 < steps <= reached:
            return True
    return False


class Runner:
    """Runs tasks one after another, each in a process of its own.

    Ctrl-C, SIGTERM and SIGUSR1 stop after the run in hand has saved itself; the same tasks then go on from there.

    Args:
        past: what is finished already.
    """

    def __init__(self, past: Past) -> None:
        self.past = past
        self._received = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._spent: list[float] = []  # seconds

    def run(self, tasks: Sequence[Task]) -> int:
        """Run what is not finished; return the exit status: 1 if a run failed, 128 + signal if it was stopped."""
        todo, refused = [], []
        for task in tasks:
            try:
                folder = self.past.finished(task)
            except InputError as error:
                refused.append(task)
                print(f"failed: {task.title}: {error}", file=sys.stderr)
                continue
            if folder is None:
                todo.append(task)
            else:
                print(f"{task.title}: finished already in {folder}, left out")
        former = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            return self._each(todo, refused, alone=len(tasks) == 1)
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _each(self, todo: Sequence[Task], refused: Sequence[Task], alone: bool) -> int:
        failed = list(refused)
        for count, task in enumerate(todo):
            print(f"[{count + 1}/{len(todo)}] {task.title}{self._left(len(todo) - count)}", flush=True)
            log = None if alone else self.past.place(task) / task.file.stem / f"seed_{task.seed}.log"
            begin = time.monotonic()
            status = self._one(task.command(self.past.can_go_on(task)), log)
            self._spent.append(time.monotonic() - begin)
            if self._received:
                name = signal.Signals(self._received).name
                print(f"stopped by {name} in {task.title}; the same command goes on from here", file=sys.stderr)
                return 128 + self._received
            if status:
                failed.append(task)
                print(f"failed: {task.title}, exit status {status}{_last_line(log)}", file=sys.stderr)
        done = len(todo) + len(refused) - len(failed)
        print(f"{done} of {len(todo)} runs done in {_time(sum(self._spent))}" if todo else "nothing left to run")
        if failed:
            print("failed: " + "; ".join(task.title for task in failed), file=sys.stderr)
        return 1 if failed else 0

    def _one(self, command: Sequence[str], log: Path | None) -> int:
        if log is None:
            return self._wait(command, None)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"$ {shlex.join(command)}\n".encode())
            file.flush()
            return self._wait(command, file)

    def _wait(self, command: Sequence[str], output: IO[bytes] | None) -> int:
        self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT if output else None)
        try:
            return self._process.wait()
        finally:
            self._process = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if self._process is not None and number != signal.SIGINT:  # Ctrl-C reaches the run by itself
            self._process.send_signal(number)

    def _left(self, runs: int) -> str:
        return f"; about {_time(sum(self._spent) / len(self._spent) * runs)} left" if self._spent else ""


def _last_line(log: Path | None) -> str:
    if log is None:
        return ""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f" ({lines[-1]}); all of it in {log}"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
