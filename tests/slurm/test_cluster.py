"""Two nodes of a real SLURM: preemption, cancelling, and nodes that differ."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from launch import write_overlay
from processes import LIMIT, python, until

from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from slurm.cluster import Cluster, lacking
from slurm.preemption import ENVIRONMENT, ROOT, Run, differences, options, preempt, send, submit, train

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


@pytest.fixture
def cluster():
    with Cluster() as cluster:
        yield cluster


STEPS = 24
"""Of a whole run, as demo.yaml says."""


def held(folder: Path, start: int) -> int:
    """Return how many processes or tasks wait for a signal."""
    return len(list(folder.glob(f"held-{start}-*")))


def whole(place: Path, words: list[str]) -> Run:
    """Return a run of two processes that no cluster starts and nobody disturbs."""
    done = python("-m", "mcn_lightning", "fit", *words, "--trainer.devices", 2, "--run_folder", place / "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run(place / "whole", 0.0, 0, done.stdout)
    assert len([kind for _, kind in run.rows() if kind == "train"]) == STEPS
    return run


def test_a_job_that_is_stopped_in_every_way_ends_bit_equal_to_a_run_without_a_cluster(cluster, tmp_path):
    """It is preempted while it imports, gets a signal, and is preempted without grace; both nodes generate the data."""
    starts, log = iter(range(3)), tmp_path / "run.out"
    steps = [-1, *sorted(random.Random(1).sample(range(STEPS), 2))]

    def stop(cluster: Cluster, job: int) -> None:
        start = next(starts)
        if start == 0:
            until(lambda: log.is_file() and "reading configs" in log.read_text(), "the first process")
        else:
            until(lambda: held(tmp_path, start) == 2, f"step {steps[start]}")
        if start == 1:
            send(cluster, job)
        else:
            preempt(cluster, job, grace=int(LIMIT) if start == 0 else 0)

    hold = ("--trainer.callbacks", "slurm.held.Hold", "--trainer.callbacks.folder", tmp_path)
    hold += ("--trainer.callbacks.steps", str(steps).replace(" ", ""))
    run = train(cluster, tmp_path, "run", (0.0, 0.0, 0.0), stop, hold)
    assert run.restarts == 3, run.log
    assert run.log.count("by preemption, goes back into the queue") == 1, run.log  # without grace SLURM does it itself
    assert run.log.count("by SIGUSR1, goes back into the queue") == 1, run.log
    assert differences(whole(tmp_path, [str(word) for word in options(tmp_path)]), run) == []


def test_a_cancelled_job_saves_and_stays_away(cluster, tmp_path):
    job = submit(cluster, tmp_path, "cancelled", nodes=1)
    log, folder = tmp_path / "cancelled.out", tmp_path / "cancelled" / "demo" / "version_0"
    until(lambda: (folder / "metrics.csv").is_file() or cluster.ended(job), "the first steps")
    cluster("scancel", job)
    until(lambda: cluster.ended(job), "the end of the job")
    assert "stopped by SIGTERM" in log.read_text()
    assert (folder / "checkpoints" / "newest.ckpt").is_file()
    # the batch script, which could put it back into the queue, is over when the job has ended
    assert cluster.state(job) == "CANCELLED" and cluster.job(job)["Restarts"] == "0"


def test_tasks_of_an_array_go_on_and_finished_ones_are_left_out(cluster, tmp_path, tiny):
    (tmp_path / "files").mkdir()
    for name, rate in (("fast", 0.001), ("slow", 0.0001)):
        (tmp_path / "files" / f"{name}.yaml").write_text(f"model: {{optimizer: {{lr: {rate}}}}}")
    hold = {"class_path": "slurm.held.Hold", "init_args": {"folder": str(tmp_path), "steps": [2]}}
    few = {"logger": "pytorch_lightning.loggers.CSVLogger", "max_steps": 6, "limit_val_batches": 0}
    small = write_overlay(tmp_path / "small.yaml", tiny, tmp_path, callbacks=[hold], **few)
    environment = {**ENVIRONMENT, "FOLDER": str(tmp_path / "files"), "SEEDS": "[0]"}
    words = ("--parsable", "--cpus-per-task=1", "--time=60", f"--chdir={ROOT}")

    def submitted(name: str, *numbers: int) -> list[str]:
        output = f"--output={tmp_path}/{name}_%a.out"
        script = ROOT / "experiments" / "slurm" / "ablations.sbatch"
        array = f"--array={','.join(map(str, numbers))}"
        given = (*words, array, output, script, "--config", small)
        number = cluster("sbatch", *given, environment=environment).strip()
        return [f"{number}_{task}" for task in numbers]

    def logs(name: str) -> list[str]:
        until(lambda: all(cluster.ended(task) for task in tasks), "the end of all tasks")
        return [(tmp_path / f"{name}_{task.split('_')[1]}.out").read_text() for task in tasks]

    tasks = submitted("first", 0, 1)
    until(lambda: held(tmp_path, 0) == 2, "both tasks in their third step")
    cluster("scancel", "--signal=USR1", tasks[0])
    preempt(cluster, tasks[1], nodes=cluster.job(tasks[1])["NodeList"])
    for task, log, reason in zip(tasks, logs("first"), ("SIGUSR1", "preemption"), strict=True):
        assert (cluster.state(task), cluster.job(task)["Restarts"]) == ("COMPLETED", "1"), log
        assert f"job {task}: stopped by {reason}, goes back into the queue" in log, log
        assert "--ckpt_path last: goes on from" in log and log.splitlines()[-1].startswith("1 of 1 runs done in "), log
    tasks = submitted("second", 1)
    (log,) = logs("second")
    left = f"slow, seed 0: finished already in {tmp_path}/slow/version_0, left out"
    assert log.splitlines()[1:] == [left, "nothing left to run"], log


def fails(cluster: Cluster, *options: object) -> str:
    """Start the command on two nodes without the batch script; return what it said, which must be one line."""
    configs = ("--config", ROOT / "configs" / "demo.yaml", "--config", ROOT / "tests" / "slurm" / "demo.yaml")
    command = " ".join(str(word) for word in (cluster.forks.python, "-m mcn_lightning fit", *configs, *options))
    words = ("--nodes=2", "--ntasks-per-node=1", "--wait=1", "--job-name=mcn")
    said = cluster(
        "srun",
        *words,
        "sh",
        "-c",
        f"exec {command} 2>&1",
        check=False,
        environment={"PYTHONPATH": str(ROOT / "src"), "MASTER_ADDR": "127.0.0.1"},
    )
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_options_that_contradict_the_job_are_refused(cluster, tmp_path):
    job = submit(cluster, tmp_path, "contrary", "--trainer.num_nodes", 1)
    until(lambda: cluster.ended(job), "the end of the job")
    log = (tmp_path / "contrary.out").read_text()
    assert cluster.state(job) == "FAILED" and "error: --trainer.num_nodes: expected as many as --nodes of" in log
    assert "the job, 2, found 1; leave it out" in log


def test_one_node_lacks_the_data(cluster, tmp_path):
    config = SyntheticConfig(videos=2, held_out=1, seconds=10.0)
    write_synthetic(tmp_path / "disk-n1", config)  # as if each node had a disk of its own
    root = f"--data.root {tmp_path}/disk-$SLURMD_NODENAME --data.synthetic null"
    line = fails(cluster, "--trainer.num_nodes 2 --trainer.devices 1", root)
    assert "node n2: --data.root: expected a folder on every node" in line and "disk-n2" in line
