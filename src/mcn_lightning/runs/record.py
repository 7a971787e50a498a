"""The record of a run, ``run.json``: commit, command, hardware, hours and memory."""

from __future__ import annotations

import json
import platform
import resource
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytorch_lightning
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

import mcn_lightning
from mcn_lightning.distributed import usable_cores
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_lines, replacing
from mcn_lightning.runs.folder import run_folder
from mcn_lightning.runs.lightning import CheckpointContents
from mcn_lightning.runs.saved import RECORD, Record, read_record, starts_of
from mcn_lightning.runs.tracking import update_wandb_summary, write_wandb_id

UNKNOWN = "unknown"


def git_state(folder: Path) -> tuple[str, bool | None]:
    """Return the commit of the checkout that a folder belongs to, and whether tracked files have changed since.

    Args:
        folder: with an ``__init__.py`` that git must track. Otherwise an environment inside the checkout of another
            project would report the commit of that project.

    Returns:
        The commit and whether it was changed; ``unknown`` and ``None`` without a checkout or without git.
    """

    def git(*args: str) -> str:
        command = ["git", "-C", str(folder), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        # fails where the file is not tracked
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", ":/"))
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN, None


def command_line() -> str:
    """Return the command line of this process, quoted for a shell."""
    program = Path(sys.argv[0])
    # `python -m` leaves the path of __main__.py in sys.argv[0], which is no command
    command = ["python", "-m", "mcn_lightning"] if program.name == "__main__.py" else [program.name]
    return shlex.join([*command, *sys.argv[1:]])


def provenance() -> Record:
    """Return the origin of this process's results: ``commit``, whether it was ``changed``, and ``command``."""
    commit, changed = git_state(Path(mcn_lightning.__file__).parent)
    return {"commit": commit, "changed": changed, "command": command_line()}


def hardware(trainer: Trainer) -> str:
    """Return the hardware of a run: the number of GPUs on all nodes and their model, or the cores of the CPU."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    return f"CPU, {usable_cores()} cores: {_cpu_model()}"


def _cpu_model() -> str:
    try:
        lines = read_lines(Path("/proc/cpuinfo"), "the processors")
    except InputError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process in GB: of its GPU, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e9  # macOS counts bytes, Linux kilobytes


class RunRecord(Callback):
    """Write ``run.json`` into the run's folder when training begins, with every checkpoint, and at the end.

    Its fields are:

    - ``commit`` (``unknown`` without a checkout), whether it was ``changed`` (then ``null``), and ``command``;
    - ``version`` of this package, ``versions`` of others, ``hardware`` and ``processes``;
    - ``started``: time of the first start in UTC;
    - ``hours`` of training and evaluation over all starts, without work that was lost between checkpoints;
    - ``memory_gb``: peak of the first process, on its GPU or else resident;
    - ``finished``: false for a run that was stopped, killed or still goes on;
    - ``starts``: the same fields for each start. Its hours include lost work.

    The summary of the wandb run is updated at the same times.
    """

    def __init__(self) -> None:
        self._before: Record = {}
        self._since: float | None = None
        self._memory = 0.0
        self._device = torch.device("cpu")
        self._fixed: Record = {}
        self._starts: list[Record] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record the commit now, as the code may change during a long run."""
        self._before, self._since, self._fixed, self._device = {}, None, {}, trainer.strategy.root_device
        if stage == "fit" and trainer.is_global_zero:
            self._fixed = provenance() | {
                "version": mcn_lightning.__version__,
                "hardware": hardware(trainer),
                "processes": trainer.world_size,
                "started": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "pytorch_lightning": pytorch_lightning.__version__,
                    "mcn_lightning": mcn_lightning.__version__,
                },
            }

    def load_state_dict(self, state_dict: Record) -> None:
        """Take over the hours and memory of earlier starts."""
        self._before = state_dict

    def state_dict(self) -> Record:
        """Return the hours and memory of the run so far, for the checkpoint."""
        self._memory = max(self._memory, peak_memory(self._device))
        return {
            # the first start of the run, which the checkpoint passes on
            "started": self._before.get("started", self._fixed.get("started")),
            "hours": self._before.get("hours", 0.0) + self._hours(),
            "memory_gb": max(self._before.get("memory_gb", 0.0), self._memory),
        }

    def _hours(self) -> float:
        return 0.0 if self._since is None else (time.monotonic() - self._since) / 3600

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, and beside it the id of the wandb run, so that a later start can continue it."""
        # monotonic, as the clock of a machine may be set during a run
        self._since = time.monotonic()
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._starts = starts_of(read_record(run_folder(trainer)))
            write_wandb_id(trainer, run_folder(trainer))
        self._write(trainer, finished=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Write the file again, as the run may be killed later."""
        self._write(trainer, finished=False)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the file of a run that ends early."""
        self._write(trainer, finished=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a finished run."""
        self._write(trainer, finished=True)
        self._since = None

    def _write(self, trainer: Trainer, finished: bool) -> None:
        if self._since is None or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        used = self.state_dict()
        used |= {"hours": round(used["hours"], 5), "memory_gb": round(used["memory_gb"], 3)}
        # this start alone, with work that a later resume repeats
        start = self._fixed | {"hours": round(self._hours(), 5), "memory_gb": round(self._memory, 3)}
        record = self._fixed | used | {"finished": finished, "starts": [*self._starts, start]}
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RECORD) as partial:
            partial.write_text(json.dumps(record, indent=2) + "\n")
        update_wandb_summary(trainer, self._fixed | used)
