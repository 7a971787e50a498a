"""Two nodes of a real SLURM: preemption, cancelling, and nodes that differ."""

from __future__ import annotations

import sys
import time

import pytest

from mcn_lightning.data.synthetic import SyntheticConfig, write_synthetic
from slurm.cluster import Cluster, lacking, until
from slurm.preemption import ROOT, Run, differences, moments, submit, train

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(lacking() is not None, reason=str(lacking())),
]


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def whole(cluster, place) -> Run:
    """A run that nobody disturbs; both nodes generate the data at once."""
    return train(cluster, place, "whole")


@pytest.mark.parametrize(("seed", "signals"), [(1, 2), (10, 1)])
def test_a_preempted_job_ends_bit_equal(seed, signals, cluster, place, whole):
    run = train(cluster, place, f"run{seed}", moments(seed, whole.seconds, signals))
    assert whole.restarts == 0 and run.restarts > 0, run.log
    assert run.log.count("goes back into the queue") == run.restarts
    assert differences(whole, run) == []
    assert len([kind for _, kind in whole.rows() if kind == "train"]) == 96


def test_a_cancelled_job_saves_and_stays_away(cluster, place, whole):
    job = submit(cluster, place, "cancelled")
    log = place / "cancelled.out"
    until(lambda: list((place / "cancelled").glob("demo/version_0/metrics.csv")), 60, "the first steps")
    cluster("scancel", job)
    until(lambda: cluster.ended(job) and "stopped by SIGTERM" in log.read_text(), 60, "the end of the job")
    assert list((place / "cancelled").glob("demo/version_0/checkpoints/newest.ckpt"))
    time.sleep(1)
    assert cluster.state(job) == "CANCELLED" and cluster.job(job)["Restarts"] == "0"


def fails(cluster: Cluster, *options: object) -> str:
    """Start the command on two nodes without the batch script; return what it said, which must be one line."""
    configs = ("--config", ROOT / "configs" / "demo.yaml", "--config", ROOT / "tests" / "slurm" / "demo.yaml")
    command = " ".join(str(word) for word in (sys.executable, "-m mcn_lightning fit", *configs, *options))
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


def test_tasks_and_devices_differ(cluster, place):
    line = fails(cluster, "--trainer.num_nodes 2 --trainer.devices 2", f"--data.root {place / 'data'}")
    assert "--trainer.devices: expected as many as --ntasks-per-node of the job, 1, found 2" in line


def test_one_node_lacks_the_data(cluster, place):
    config = SyntheticConfig(videos=2, held_out=1, seconds=10.0)
    write_synthetic(place / "disk-n1", config)  # as if each node had a disk of its own
    root = f"--data.root {place}/disk-$SLURMD_NODENAME --data.synthetic null"
    line = fails(cluster, "--trainer.num_nodes 2 --trainer.devices 1", root)
    assert "node n2: --data.root: expected a folder on every node" in line and "disk-n2" in line
