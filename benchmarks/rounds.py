"""Versions side by side: they take turns in rounds, and a ratio comes with its range over the rounds."""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Measured = dict[str, float]
"""What one run of one version gave, such as seconds and bytes, by name."""
PROCESS = Path("/proc/self")


def parse(parser: argparse.ArgumentParser, rounds: int = 5, **tiny: object) -> argparse.Namespace:
    """Parse the options of a script, with those that all scripts have.

    Args:
        parser: has the script's own options.
        rounds: default of ``--rounds``.
        tiny: values of the script's options with ``--tiny``, unless they are given.
    """
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of every version; ratios have their range")
    parser.add_argument("--tiny", action="store_true", help="small sizes, in this process alone: does the script run")
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    if parser.parse_known_args()[0].tiny:
        parser.set_defaults(**{"rounds": 2} | tiny)
    return parser.parse_args()


def in_own_process(script: str, case: Sequence[str], environment: Mapping[str, str] | None = None) -> Measured:
    """Run a script again, with the options of this call and ``--case``, and return the JSON that it prints.

    NaN stands for every number if it fails, such as for want of memory; standard error says why.
    """
    words = [sys.executable, script, *sys.argv[1:], "--case", *case]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **(environment or {})})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        print(f"{' '.join(case)}: {reason}", file=sys.stderr)
        return defaultdict(lambda: float("nan"))
    return json.loads(done.stdout)


def take_turns(versions: Sequence[str], rounds: int, run: Callable[[str], Measured]) -> dict[str, list[Measured]]:
    """Run each version once a round, and begin each round with another one: caches keep traces of the one before."""
    found: dict[str, list[Measured]] = {version: [] for version in versions}
    for turn in range(rounds):
        first = turn % len(versions)
        for version in (*versions[first:], *versions[:first]):
            found[version].append(run(version))
    return found


def median(runs: Sequence[Measured], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def ratio(first: Sequence[Measured], second: Sequence[Measured], key: str, digits: int = 2) -> str:
    """Return the median ratio of two runs of one round, with the smallest and the largest."""
    every = sorted(a[key] / b[key] for a, b in zip(first, second, strict=True))
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(every), every[0], every[-1]))
    return f"**{middle}** ({least} to {most})"


def peak_memory() -> int:
    """Return the largest memory of this process so far, in bytes."""
    if PROCESS.exists():  # the account of resources includes the program that started this one
        return 1024 * int((PROCESS / "status").read_text().split("VmHWM:")[1].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def begin_memory() -> int:
    """Return the memory of now, in bytes, above which ``peak_memory`` grows; the largest so far where it stays."""
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")
    return peak_memory()
