"""Preempt a two-node job at random moments and compare what it ends with; by hand, from the folder tests:

OMP_NUM_THREADS=1 python -m slurm.preemption --times 10
"""

from __future__ import annotations

import argparse
import csv
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from processes import LIMIT, until
from torch.utils._pytree import tree_flatten

from slurm.cluster import Cluster
from slurm.forks import COLD

ROOT = Path(__file__).parents[2]
SBATCH = ROOT / "experiments" / "slurm" / "train.sbatch"
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
STATE = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "NarratedVideos", "random_states")
CLOCKS = ("clustering/seconds", "train/clips_per_second", "train/data_wait_share")


@dataclass
class Run:
    """A job that ran to its end.

    Args:
        folder: of the run.
        seconds: from its first start to its end.
        restarts: how often it was requeued.
        log: what it printed.
    """

    folder: Path
    seconds: float
    restarts: int
    log: str

    def rows(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return what was logged, by step and kind, of all starts."""
        found: dict[tuple[str, str], dict[str, str]] = {}
        for path in sorted(self.folder.glob("*/version_*/metrics.csv")):
            for row in csv.DictReader(path.open()):
                told = {name: value for name, value in row.items() if value and name not in CLOCKS}
                for kind in {name.split("/")[0] for name in told if "/" in name}:
                    part = {name: value for name, value in told.items() if name.startswith(kind + "/")}
                    known = found.setdefault((row["step"], kind), part)
                    assert known == part, f"step {row['step']} twice, and not the same: {known}, {part}"
        return found

    def last(self) -> dict[str, Any]:
        """Return the newest last.ckpt."""
        path = max(self.folder.glob("*/version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
        return torch.load(path, weights_only=True)


def differences(one: Run, other: Run) -> list[str]:
    """Return in what two runs differ, bit for bit: what was logged at every step, and the last checkpoint."""
    told = one.rows(), other.rows()
    found = [f"logged {kind} of step {step}" for step, kind in sorted(told[0].keys() ^ told[1].keys())]
    both = sorted(told[0].keys() & told[1].keys())
    found += [f"{kind} of step {step}" for step, kind in both if told[0][step, kind] != told[1][step, kind]]
    saved = one.last(), other.last()
    for part in STATE:
        (first, shape), (second, other_shape) = tree_flatten(saved[0][part]), tree_flatten(saved[1][part])
        same = shape == other_shape and all(
            torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True)
        )
        found += [] if same else [part]
    return found


def options(place: Path) -> tuple[object, ...]:
    """Return the options of a run whose data lie in a folder."""
    configs = ("--config", ROOT / "configs" / "demo.yaml", "--config", ROOT / "tests" / "slurm" / "demo.yaml")
    return (*configs, "--data.root", place / "data")


def submit(cluster: Cluster, place: Path, name: str, *more: object, nodes: int = 2, cold: str = "") -> int:
    """Submit the batch script, with the first start no fork if ``cold``; return the number of the job."""
    words = ("--parsable", f"--nodes={nodes}", "--time=60", f"--chdir={ROOT}", f"--output={place / name}.out", SBATCH)
    environment = {**ENVIRONMENT, COLD: cold, "RUN_FOLDER": str(place / name), "SLURM_WAIT": str(int(LIMIT))}
    return int(cluster("sbatch", *words, *options(place), *more, environment=environment))


def running(cluster: Cluster, job: int, restarts: int) -> bool:
    """Return whether a job has been started again as often."""
    known = cluster.job(job)
    return known.get("JobState") == "RUNNING" and int(known.get("Restarts", 0)) >= restarts


def send(cluster: Cluster, job: int) -> None:
    """Send SIGUSR1, as SLURM does before the time limit."""
    with suppress(AssertionError):  # it may just have ended
        cluster("scancel", "--signal=USR1", job)


def preempt(cluster: Cluster, job: int | str, grace: int = int(LIMIT), nodes: str = "n1,n2") -> None:
    """Let a job of a second take the nodes away.

    Args:
        cluster: the cluster.
        job: which must be running.
        grace: seconds that SLURM gives it to end itself.
        nodes: which.
    """
    cluster("scontrol", "update", "PartitionName=main", f"GraceTime={grace}")
    words = ("--parsable", "--partition=high", f"--nodelist={nodes}", "--output=/dev/null", "--wrap=sleep 1")
    other = int(cluster("sbatch", *words))
    until(lambda: cluster.ended(other), f"end of job {other}, which preempts job {job}")


def train(
    cluster: Cluster,
    place: Path,
    name: str,
    moments: tuple[float, ...] = (),
    stop: Callable[[Cluster, int], None] = send,
    more: tuple[object, ...] = (),
) -> Run:
    """Run a job to its end, and stop it once a start as long as there are moments.

    Args:
        cluster: the cluster.
        place: folder for runs and data.
        name: of the run.
        moments: seconds after the job has started, one for each start.
        stop: how.
        more: options of the run.

    Raises:
        AssertionError: if the job does not end as completed.
    """
    job = submit(cluster, place, name, *more, cold="yes")
    begin = 0.0
    for start, moment in enumerate((*moments, None)):
        until(lambda start=start: running(cluster, job, start) or cluster.ended(job), f"start {start} of job {job}")
        begin = begin or time.monotonic()
        if moment is None or cluster.ended(job):
            break
        time.sleep(moment)
        stop(cluster, job)
        count = start + 1
        until(
            lambda count=count: int(cluster.job(job).get("Restarts", 0)) >= count or cluster.ended(job),
            f"requeue {count} of job {job}",
        )
    until(lambda: cluster.ended(job), f"end of job {job}")
    known, log = cluster.job(job), (place / f"{name}.out").read_text()
    assert known["JobState"] == "COMPLETED", f"job {job} is {known['JobState']}:\n{log[-5000:]}"
    return Run(place / name, time.monotonic() - begin, int(known["Restarts"]), log)


def moments(seed: int, seconds: float, signals: int = 2) -> tuple[float, ...]:
    """Draw when a job is signalled: anywhere from its start until shortly before a run of ``seconds`` would end."""
    draw = random.Random(seed)
    return tuple(draw.uniform(0.05, 0.85) * seconds for _ in range(signals))


def main() -> None:
    """Preempt as many runs, and say how many end bit-equal to one that nobody disturbed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10, help="runs")
    parser.add_argument("--signals", type=int, default=3, help="signals a run")
    parser.add_argument("--by", choices=("signal", "job"), default="signal", help="SIGUSR1, or a job that preempts")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    asked = parser.parse_args()
    stop = send if asked.by == "signal" else preempt
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which takes the cluster down
    equal = restarts = 0
    with tempfile.TemporaryDirectory() as name, Cluster() as cluster:
        place = Path(name)
        whole = train(cluster, place, "whole")
        print(f"undisturbed: {whole.seconds:.1f} s, {len(whole.rows())} rows", flush=True)
        for number in range(asked.times):
            drawn = moments(asked.seed + number, whole.seconds, asked.signals)
            run = train(cluster, place, f"run{number}", drawn, stop)
            wrong = differences(whole, run)
            equal, restarts = equal + (not wrong), restarts + run.restarts
            at = [line.split(",")[0] for line in run.log.splitlines() if line.startswith("stopped by")]
            print(
                f"run {number}: signals after {', '.join(f'{each:.1f}' for each in drawn)} s, {run.restarts} restarts "
                f"({'; '.join(at)}), {'bit-equal' if not wrong else wrong}", flush=True,
            )  # fmt: skip
    print(f"{equal} of {asked.times} bit-equal, {restarts} restarts")
    sys.exit(equal != asked.times)


if __name__ == "__main__":
    main()
