"""Checks of a SLURM job. Mistakes are reported in one line before the processes wait for each other."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mcn_lightning.data.shards.files import ShardIndex
from mcn_lightning.data.shards.header import INDEX, shard_name
from mcn_lightning.errors import InputError

# the names that Lightning's SLURMEnvironment takes for an interactive job
INTERACTIVE = ("bash", "interactive")
"""Names of jobs in which Lightning starts the processes itself."""


@dataclass(frozen=True)
class JobRequirements:
    """Requirements of a run on its SLURM job.

    Args:
        devices: processes on each node.
        num_nodes: number of nodes.
        gpus: GPUs that this process can see; ``None`` for a run on CPUs.
        root: folder of the dataset, if it must exist on every node.
        shards: folder of shards.
    """

    devices: int
    num_nodes: int
    gpus: int | None = None
    root: Path | None = None
    shards: Path | None = None


def launched_by_srun(environ: Mapping[str, str]) -> bool:
    """Return whether Lightning expects that srun started the processes of this run."""
    return "SLURM_NTASKS" in environ and environ.get("SLURM_JOB_NAME") not in INTERACTIVE


def check_job(environ: Mapping[str, str], required: JobRequirements) -> None:
    """Check the job, then this node, then the port of the first process.

    Args:
        environ: environment variables.
        required: requirements of the run.

    Raises:
        InputError: on one process, which reports the first problem.
        SystemExit: with status 0, on the others that found the same problem.
    """
    first = environ.get("SLURM_PROCID", "0") == "0"
    first_of_node = environ.get("SLURM_LOCALID", "0") == "0"
    interfaces = {name for _, name in socket.if_nameindex()}
    node = chain(node_problems(environ, required, interfaces), port_problems(environ))
    # status 0: srun ends a job when a process fails, which could be before the reporting process has printed its line
    for teller, problems in ((first, job_problems(environ, required)), (first_of_node, node)):
        for problem in problems:
            if teller:
                raise InputError(problem)
            raise SystemExit(0)


def job_problems(environ: Mapping[str, str], required: JobRequirements) -> Iterator[str]:
    """Yield mismatches between job and run, which are the same on all processes.

    Args:
        environ: environment variables.
        required: requirements of the run.
    """
    tasks = int(environ["SLURM_NTASKS"])
    # of the step, as srun may use fewer nodes than the job has
    nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_JOB_NUM_NODES", "1"))
    per_node = environ.get("SLURM_NTASKS_PER_NODE")
    # without srun the first process would wait for others that never start
    if tasks > 1 and "SLURM_STEP_ID" not in environ:
        yield f"srun: expected {tasks} processes started by it, found one without; put srun before the command"
    if per_node is None:
        if tasks > 1:
            yield (
                f"--ntasks-per-node: expected the processes of a node, found only --ntasks {tasks}; give srun and "
                f"sbatch --ntasks-per-node={required.devices}"
            )
        per_node = str(-(-tasks // nodes))
    if int(per_node) != required.devices:
        yield (
            f"--trainer.devices: expected as many as --ntasks-per-node of the job, {per_node}, found "
            f"{required.devices}; make them equal"
        )
    if nodes != required.num_nodes:
        yield (
            f"--trainer.num_nodes: expected as many as the job has nodes, {nodes}, found {required.num_nodes}; "
            "give $SLURM_JOB_NUM_NODES"
        )
    if tasks != required.devices * required.num_nodes:
        yield (
            f"--ntasks: expected --trainer.devices times --trainer.num_nodes, {required.devices * required.num_nodes}, "
            f"found {tasks}; leave it out, --nodes and --ntasks-per-node say it"
        )
    port = environ.get("MASTER_PORT")
    if port is not None and not (port.isdecimal() and 0 < int(port) < 65536):
        yield f"MASTER_PORT: expected a number from 1 to 65535, found {port!r}; unset it to have one chosen by job id"


def node_problems(environ: Mapping[str, str], required: JobRequirements, interfaces: Collection[str]) -> Iterator[str]:
    """Yield problems of this node, which are the same on all its processes.

    Args:
        environ: environment variables.
        required: requirements of the run.
        interfaces: names of the network interfaces.
    """
    here = f"node {environ.get('SLURMD_NODENAME', socket.gethostname())}:"
    if required.gpus is not None and required.gpus < required.devices:
        yield (
            f"{here} --ntasks-per-node: expected a GPU for each of {required.devices} processes, found "
            f"{required.gpus}; give sbatch --gpus-per-node={required.devices}, and not --gpus-per-task"
        )
    allotted = environ.get("SLURM_GPUS_ON_NODE", "")
    if required.gpus is not None and allotted.isdecimal() and int(allotted) > required.devices:
        yield (
            f"{here} --ntasks-per-node: expected a process for each of {allotted} GPUs, found {required.devices}; give "
            f"sbatch --ntasks-per-node={allotted}, or --gpus-per-node={required.devices}"
        )
    if required.shards is not None:
        yield from _shard_problems(here, required.shards)
    elif required.root is not None and not required.root.is_dir():
        yield (
            f"{here} --data.root: expected a folder on every node, found none at {required.root.absolute()}; copy it "
            "there, or give one that all nodes share"
        )
    # a single process opens no connection, so interfaces and address do not matter
    if int(environ["SLURM_NTASKS"]) == 1:
        return
    # gloo serves GPUs too: it carries what the processes tell each other
    for variable in ("GLOO_SOCKET_IFNAME", *(() if required.gpus is None else ("NCCL_SOCKET_IFNAME",))):
        if (wanted := environ.get(variable)) and not any_interface(wanted, interfaces, variable.startswith("NCCL")):
            yield (
                f"{here} {variable}: expected an interface of this node ({', '.join(sorted(interfaces))}), found "
                f"{wanted}; correct or unset it"
            )
    address = environ.get("MASTER_ADDR") or first_node(environ.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    try:
        socket.getaddrinfo(address, None)
    except OSError:
        yield (
            f"{here} MASTER_ADDR: expected a name or address of the first node, found {address}, which this node "
            "cannot resolve; export the address of the first node"
        )


def _shard_problems(here: str, shards: Path) -> Iterator[str]:
    if not (shards / INDEX).is_file():
        yield (
            f"{here} --data.shards: expected {INDEX} on every node, found none in {shards.absolute()}; copy the shards "
            "there, or give a folder that all nodes share"
        )
        return
    count = len(ShardIndex(shards).shards)
    absent = [name for name in map(shard_name, range(count)) if not (shards / name).is_file()]
    if absent:
        yield (
            f"{here} --data.shards: expected {count} shards in {shards.absolute()}, found {count - len(absent)}; copy "
            f"the others there ({absent[0]} is the first)"
        )


def port_problems(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a problem of the port on which the first process waits for the others. Other processes yield none.

    Args:
        environ: environment variables.
    """
    if environ.get("SLURM_PROCID", "0") != "0" or int(environ["SLURM_NTASKS"]) == 1:
        return
    port = master_port(environ)
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch: the port of the last run may linger
        try:
            trial.bind(("", port))
        except OSError as error:
            node = environ.get("SLURMD_NODENAME", socket.gethostname())
            yield (
                f"node {node}: MASTER_PORT: expected a free port, found {port} ({error.strerror}); export another, "
                "for instance of another job that ended badly"
            )


def master_port(environ: Mapping[str, str]) -> int:
    """Return the port that Lightning will use, by its own formula."""
    # the last four digits of the job id: a formula that all nodes can compute without talking
    return int(environ.get("MASTER_PORT") or 15000 + int(environ.get("SLURM_JOB_ID", "0")[-4:]))


def first_node(nodes: str) -> str:
    """Return the first node of a SLURM node list: ``gpu[03-05,09],cpu1`` gives ``gpu03``."""
    # a name, perhaps a range in brackets of which only the first number counts, and a suffix
    found = re.match(r"([^\[,\s]*)(?:\[(\w+)[^\]]*\]([^,\s\[]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def any_interface(wanted: str, interfaces: Collection[str], nccl: bool) -> bool:
    """Return whether a setting of interfaces matches any interface of this node.

    Args:
        wanted: names separated by commas. NCCL takes them as prefixes; after ``=`` as whole names; after ``^`` it uses
            all other interfaces.
        interfaces: names of this node's interfaces.
        nccl: whether NCCL reads the setting; Gloo takes whole names.
    """
    others = nccl and wanted.startswith("^")
    names = wanted.removeprefix("^") if others else wanted
    whole = not nccl or names.startswith("=")
    listed = [name.strip() for name in names.removeprefix("=").split(",") if name.strip()]
    hits = {each for each in interfaces if any(each == name if whole else each.startswith(name) for name in listed)}
    return bool(set(interfaces) - hits if others else hits)
