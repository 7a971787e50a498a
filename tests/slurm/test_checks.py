"""What is said of a SLURM job that cannot work, without a cluster."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from mcn_lightning.commands.fit import MCNCLI
from mcn_lightning.errors import InputError
from mcn_lightning.runs.slurm import (
    JobRequirements,
    any_interface,
    check_job,
    first_node,
    job_problems,
    launched_by_srun,
    master_port,
    node_problems,
    port_problems,
)

JOB = {
    "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2",
    "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURMD_NODENAME": "gpu07",
    "SLURM_JOB_NODELIST": "gpu[07-08]", "MASTER_ADDR": "127.0.0.1",
}  # fmt: skip
ASKED = JobRequirements(devices=2, num_nodes=2)


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in JOB.items() if key != name}


def test_a_job_that_fits():
    assert not list(job_problems(JOB, ASKED))
    assert not list(node_problems(JOB, JobRequirements(2, 2, gpus=2), {"lo", "ib0"}))
    check_job(JOB | {"MASTER_PORT": str(free_port())}, ASKED)


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("", 0))
        return trial.getsockname()[1]


@pytest.mark.parametrize(
    ("environ", "asked", "expected"),
    [
        (
            JOB,
            JobRequirements(4, 2),
            r"--trainer.devices: expected .* --ntasks-per-node of the job, 2, found 4; make them equal",
        ),
        (JOB, JobRequirements(2, 1), r"--trainer.num_nodes: expected .* nodes, 2, found 1; give"),
        (without("SLURM_NTASKS_PER_NODE"), ASKED, r"--ntasks-per-node: .* only --ntasks 4; .* --ntasks-per-node=2"),
        (JOB | {"SLURM_NTASKS": "3"}, ASKED, r"--ntasks: expected .* 4, found 3; leave it out"),
        (without("SLURM_STEP_ID"), ASKED, r"srun: expected 4 processes .*; put srun before"),
        (JOB | {"MASTER_PORT": "ten"}, ASKED, r"MASTER_PORT: expected a number from 1 to 65535, found 'ten'"),
        (JOB | {"MASTER_PORT": "70000"}, ASKED, r"MASTER_PORT: .* found '70000'"),
    ],
)
def test_job_and_run_differ(environ, asked, expected):
    with pytest.raises(InputError, match=expected) as told:
        check_job(environ, asked)
    assert "\n" not in str(told.value)
    with pytest.raises(SystemExit) as silent:  # the first process tells
        check_job(environ | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}, asked)
    assert silent.value.code == 0


@pytest.mark.parametrize(
    ("more", "asked", "expected"),
    [
        (
            {},
            JobRequirements(2, 2, gpus=1),
            r"--ntasks-per-node: expected a GPU for each of 2 processes, found 1; .*=2",
        ),
        (
            {"SLURM_GPUS_ON_NODE": "4"},
            JobRequirements(2, 2, gpus=4),
            "--ntasks-per-node: expected a process for each of 4 GPUs, found 2",
        ),
        ({}, JobRequirements(2, 2, root=Path("/absent/data")), r"--data.root: expected .* none at /absent/data; copy"),
        (
            {},
            JobRequirements(2, 2, shards=Path("/absent/shards")),
            r"--data.shards: expected index.safetensors .*/absent/shards;",
        ),
        ({"GLOO_SOCKET_IFNAME": "ib0"}, ASKED, r"GLOO_SOCKET_IFNAME: expected an interface .*lo.*, found ib0;"),
        (
            {"NCCL_SOCKET_IFNAME": "none"},
            JobRequirements(2, 2, gpus=2),
            r"NCCL_SOCKET_IFNAME: .* found none; correct or unset",
        ),
        ({"MASTER_ADDR": "no.such.invalid"}, ASKED, r"MASTER_ADDR: .* found no.such.invalid, which .* cannot resolve"),
    ],
)
def test_a_node_lacks_something(more, asked, expected):
    with pytest.raises(InputError, match="node gpu07: " + expected) as told:
        check_job(JOB | more, asked)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match=expected):  # each node tells of itself
        check_job(JOB | more | {"SLURM_PROCID": "2"}, asked)
    with pytest.raises(SystemExit):
        check_job(JOB | more | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, asked)


def test_a_shard_is_absent_on_this_node(tiny, tmp_path):
    from mcn_lightning.commands.fit import main

    streams = "[{suffix: _2d, rate: 1.0, width: 8}, {suffix: _3d, rate: 1.5, width: 8}]"
    words = ["--data.root", tiny, "--data.streams", streams, "--data.text.source", "word_vectors.txt",
             "--data.text.dim", 8, "--pack.output", tmp_path / "shards"]  # fmt: skip
    main(["prepare", *map(str, words)])
    shards = sorted((tmp_path / "shards").glob("shard-*"))
    asked = JobRequirements(2, 2, shards=tmp_path / "shards")
    assert not list(node_problems(JOB, asked, {"lo"}))
    shards[-1].unlink()
    (told,) = node_problems(JOB, asked, {"lo"})
    assert f"expected {len(shards)} shards" in told and f"found {len(shards) - 1};" in told and shards[-1].name in told


def test_the_port_is_taken():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(InputError, match=f"node gpu07: MASTER_PORT: expected a free port, found {port}"):
            check_job(JOB | {"MASTER_PORT": port}, ASKED)
        assert not list(port_problems(JOB | {"MASTER_PORT": port, "SLURM_PROCID": "1"}))
    assert master_port({"SLURM_JOB_ID": "1234567"}) == 19567


def test_one_process_needs_no_network():
    alone = JOB | {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "MASTER_ADDR": "no.such.invalid"}
    for name in ("SLURM_NTASKS_PER_NODE", "SLURM_STEP_ID"):
        del alone[name]
    check_job(alone, JobRequirements(1, 1))
    assert not [
        *job_problems(alone, JobRequirements(1, 1)),
        *node_problems(alone, JobRequirements(1, 1), {"lo"}),
        *port_problems(alone),
    ]


def test_which_jobs_are_checked():
    assert launched_by_srun(JOB) and not launched_by_srun({}) and not launched_by_srun(JOB | {"SLURM_JOB_NAME": "bash"})


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-05,09],cpu1", "gpu03"), ("a1", "a1"), ("a1,b2", "a1"), ("rack[2]n,b", "rack2n"), ("n[1,3]", "n1")],
)
def test_the_first_node(nodes, first):
    assert first_node(nodes) == first


@pytest.mark.parametrize(
    ("wanted", "nccl", "found"),
    [
        ("eth", True, True), ("eth", False, False), ("eth0", False, True), ("=eth", True, False), ("=eth0", True, True),
        ("ib,eth1", True, False), ("^docker,lo", True, True), ("^eth,lo", True, False), ("^=eth,lo", True, True),
    ],
)  # fmt: skip
def test_names_of_interfaces(wanted, nccl, found):
    assert any_interface(wanted, {"lo", "eth0"}, nccl) is found


def test_the_command_asks_before_it_builds_anything(tiny, monkeypatch):
    from mcn_lightning.commands.fit import main

    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(MCNCLI, "instantiate_classes", lambda self: pytest.fail("built"))
    words = ["fit", "--data.root", str(tiny), "--trainer.num_nodes", "2", "--trainer.accelerator", "cpu"]
    for devices in ("4", "[0, 1, 2, 3]"):
        with pytest.raises(SystemExit) as told:
            main([*words, "--trainer.devices", devices])
        assert str(told.value.code).startswith("error: --trainer.devices: expected as many") and os.environ
    with pytest.raises(SystemExit) as told:
        main([*words, "--trainer.devices", "2", "--data.root", str(tiny / "absent")])
    assert str(told.value.code).startswith("error: node gpu07: --data.root: expected a folder on every node")
