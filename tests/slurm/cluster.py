"""A SLURM cluster of two nodes on this machine, from Debian's packages, with files and daemons of its own.

Jobs of partition ``high`` preempt those of ``main``, which have ten minutes to end themselves.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from processes import LIMIT, until

from slurm.forks import Forks

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "scontrol", "scancel")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
JobRequeue=1
KillWait=600
MinJobAge=3600
FirstJobId={first}
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=600 MaxTime=INFINITE State=UP
PartitionName=high Nodes=n1,n2 PriorityTier=10 MaxTime=INFINITE State=UP
"""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "OUT_OF_MEMORY")


def lacking() -> str | None:
    """Return why there can be no cluster here, or ``None``."""
    if os.geteuid() != 0:
        return "needs root for the daemons of a SLURM cluster"
    absent = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=PATH) is None]
    if absent:
        return f"needs {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    return None


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Cluster:
    """Nodes n1 and n2, up inside ``with`` and gone after it, whatever happens."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has at most 107 bytes
        self.config = self.folder / "slurm.conf"
        self.forks = Forks(self.folder)
        self.environment = {
            **os.environ, "PATH": PATH, "SLURM_CONF": str(self.config), "PYTHON": str(self.forks.python),
        }  # fmt: skip
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        (self.folder / "state").mkdir()
        munge = self.folder / "munge"
        munge.mkdir(mode=0o755)
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        self.config.write_text(
            CONFIG.format(
                host=socket.gethostname().split(".")[0],
                folder=self.folder,
                ports=free_ports(3),
                # Lightning takes the port from the number of the job: another cluster here must have other numbers
                first=random.SystemRandom().randrange(1000, 9000),  # not seeded by other tests
            )
        )
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._daemon(
            "munged", "--foreground", "--force", *(f"--{name}={munge / file}" for name, file in places.items())
        )
        until((munge / "socket").exists, "munged's socket")
        self._daemon("slurmctld", "-D", "-f", str(self.config))
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node, "-f", str(self.config))
        until(
            lambda: self("sinfo", "--noheader", "--format=%T %D", check=False).split() == ["idle", "2"],
            "two idle nodes",
        )

    def _daemon(self, *words: str) -> None:
        name = f"{words[0]}-{len(self._daemons)}.out"
        with (self.folder / name).open("wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    [shutil.which(words[0], path=PATH) or words[0], *words[1:]],
                    env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder,
                )
            )  # fmt: skip

    def __call__(self, *words: object, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on the cluster; return what it printed.

        Raises:
            AssertionError: if it failed and that is to be checked.
        """
        command = [str(word) for word in words]
        done = subprocess.run(
            command, env={**self.environment, **(environment or {})}, capture_output=True, text=True, timeout=LIMIT
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode} {done.stdout} {done.stderr}"
        return done.stdout

    def job(self, number: int | str) -> dict[str, str]:
        """Return what SLURM knows of a job; one task of an array is ``'<number>_<task>'``."""
        words = self("scontrol", "--oneliner", "show", "job", number, check=False).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, number: int | str) -> str:
        """Return the state of a job."""
        return self.job(number).get("JobState", "")

    def ended(self, number: int | str) -> bool:
        """Return whether a job has come to its end."""
        return self.state(number) in FINAL

    def stop(self) -> None:
        """End all jobs and daemons, and remove their files."""
        try:
            if len(self._daemons) > 1 and self._daemons[1].poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    self("scancel", "--signal=KILL", "--full", "--user=root", check=False)
                    self("scancel", "--user=root", check=False)
                with suppress(TimeoutError):
                    until(lambda: not self._strangers(), "the end of all jobs", 10)
        finally:
            self.forks.close()
            for daemon in reversed(self._daemons):
                daemon.terminate()
            for daemon in self._daemons:
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            for process in self._strangers():
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _strangers(self) -> list[int]:
        """Return the processes of jobs, told by the path of the configuration."""
        mark, own = f"SLURM_CONF={self.config}".encode(), {os.getpid(), *(each.pid for each in self._daemons)}
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
                helper = parent in own and parent != os.getpid()  # a daemon's own
                if int(path.parent.name) not in own and not helper and mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found
