"""Extraction by a job array, on two nodes of a real SLURM and without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import until

from slurm.cluster import Cluster, lacking
from slurm.preemption import ENVIRONMENT, ROOT, preempt

SCRIPT = ROOT / "experiments" / "slurm" / "extract.sbatch"
CONFIG = """
streams: [{name: colour, encoder: extract.making.Held, rate: 4.0}]
device: cpu
workers: 1
batch_size: 4
val_share: 0
test_share: 0
"""


def run_script(folder: Path, more: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run the script where the commands of SLURM are those of a folder."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    env = known | {"PATH": f"{folder}:{os.environ['PATH']}"} | more
    return subprocess.run(["bash", str(SCRIPT), *words], env=env, cwd=folder, capture_output=True, text=True)


def stand_in(folder: Path, **commands: str) -> None:
    for name, text in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def test_the_script_submits_an_array_and_a_job_that_merges(tmp_path):
    stand_in(tmp_path, sbatch='for each; do echo "$each"; done >> given; echo >> given; echo "12;here"')
    given = {"JOBS": "3", "SBATCH_OPTIONS": "--mem=1G"}
    done = run_script(tmp_path, given, "--videos", "a b", "--output", "data")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("job 12: 3 tasks\n")
    first, second, _ = (tmp_path / "given").read_text().split("\n\n")
    more = [str(SCRIPT), "--videos", "a b", "--output", "data"]
    assert first.split("\n") == ["--parsable", "--mem=1G", "--array=1-3", *more]
    merge = ["--output=slurm-%j.out", "--mem=1G", "--dependency=afterany:12", *more, "--merge", "true"]
    assert second.split("\n") == merge
    done = run_script(tmp_path, {"SLURM_JOB_ID": "1"}, "--videos", "films")
    assert done.returncode == 2 and done.stderr.startswith("error: sbatch: expected --array, found none; bash ")


@pytest.mark.parametrize(
    ("status", "known", "reason"),
    [
        (138, "JobState=COMPLETING PreemptTime=None", "SIGUSR1"),
        (143, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=2026-11-24T20:29:07", "preemption"),
        (143, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=None", None),
        (1, "JobState=RUNNING PreemptEligibleTime=2026 PreemptTime=2026-11-24T20:29:07", None),
    ],
)
def test_a_task_has_its_share_and_goes_back_into_the_queue(tmp_path, status, known, reason):
    control = f'case "$*" in *show*) echo "JobId=12 {known} Power=" ;; *) echo "$@" > requeued ;; esac'
    stand_in(tmp_path, srun=f'printf "%s\\n" "$@"; exit {status}', scontrol=control)
    slurm = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_NODELIST": "n1"}
    done = run_script(tmp_path, slurm | {"JOBS": "3"}, "--videos", "a b")
    assert (done.returncode, done.stderr) == (status, "")
    first, _, *shown = done.stdout.splitlines()
    assert first == "job 12_2, start 1 on n1"
    assert shown[:7] == ["-m", "mcn_lightning", "extract", "--videos", "a b", "--share", "2/3"]
    assert (tmp_path / "requeued").exists() == (reason is not None)
    assert shown[7:] == ([f"job 12_2: stopped by {reason}, goes back into the queue"] if reason else [])


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
def test_a_signalled_and_a_preempted_task_end_in_the_same_bytes_and_the_last_job_merges(tmp_path):
    pytest.importorskip("av", reason="the extra `extract` is not installed")
    from extract.making import write_captions, write_video
    from extract.test_job import bytes_of

    from mcn_lightning.extract.job import extract
    from mcn_lightning.extract.options import EncodedStream, ExtractConfig

    films, out, words = tmp_path / "films", tmp_path / "out", tmp_path / "words.txt"
    for number in range(3):
        write_video(films / f"film_{number}.mp4", seed=number)
        write_captions(films / f"film_{number}.srt", (0.0, 1.0, "one"), (1.0, 3.0, "two"))
    words.write_text("one 1 0 0\ntwo 0 1 0\n")
    (tmp_path / "c.yaml").write_text(f"{CONFIG}text: {words}\n")
    streams = (EncodedStream("colour", "extract.making.Held", 4.0),)
    options = {"batch_size": 4, "val_share": 0.0, "test_share": 0.0, "text": str(words)}
    extract(ExtractConfig(str(films), str(tmp_path / "whole"), streams, **options))

    path = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], str(ROOT / "tests"), *filter(None, sys.path)])
    environment = {
        **ENVIRONMENT, "PYTHONPATH": path, "JOBS": "2", "READY": str(tmp_path / "ready"), "GO": str(tmp_path / "go"),
        "SBATCH_OPTIONS": f"--cpus-per-task=1 --time=60 --chdir={tmp_path}",
    }  # fmt: skip
    command = ("bash", SCRIPT, "--config", tmp_path / "c.yaml", "--videos", films, "--output", out)

    with Cluster() as cluster:
        first, second = cluster(*command, environment=environment).splitlines()
        array, last = first.split()[1].rstrip(":"), second.split()[-1]
        assert first == f"job {array}: 2 tasks"
        tasks = [f"{array}_{task}" for task in (1, 2)]
        until(lambda: len(list(tmp_path.glob("ready-*"))) == 2, "both tasks in the middle of a film")
        assert cluster.state(last) == "PENDING"
        cluster("scancel", "--signal=USR1", tasks[0])
        preempt(cluster, tasks[1], nodes=cluster.job(tasks[1])["NodeList"])
        (tmp_path / "go").touch()
        until(lambda: cluster.ended(last), "the end of the last job")
        logs = [(tmp_path / f"slurm-{job}.out").read_text() for job in (*tasks, last)]
        assert [cluster.state(job) for job in (*tasks, last)] == ["COMPLETED"] * 3, logs
        for task, log, name, signal in zip(
            tasks, logs, ("SIGUSR1", "preemption"), ("SIGUSR1", "SIGTERM"), strict=False
        ):
            assert cluster.job(task)["Restarts"] == "1" and "Traceback" not in log, log
            assert f"stopped by {signal}; the same command goes on from here" in log, log
            assert f"job {task}: stopped by {name}, goes back into the queue" in log, log
        assert "3 train, 0 val, 0 test, 0 failed" in logs[2] and "training can start" in logs[2], logs[2]
        assert bytes_of(out) == bytes_of(tmp_path / "whole")
