"""Stopping and resuming of a run without losing work: states in every checkpoint, and a checkpoint before the end."""

from __future__ import annotations

import random
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info

from mcn_lightning.distributed import HostCopy, gather_objects, rank, world_size
from mcn_lightning.errors import InputError
from mcn_lightning.options.ranges import NonNegativeInt, checked
from mcn_lightning.runs.averaging import check_average
from mcn_lightning.runs.checkpoints import flatten_filename
from mcn_lightning.runs.lightning import (
    CheckpointContents,
    CheckpointPosition,
    accumulates_gradients,
    adapt_stopping,
    check_limits,
    clear_restart_flags,
    gradients,
    log_step_now,
    monitored_metrics,
    normalize_counters,
    relocate_checkpoints,
    requeues_itself,
    restore_position,
    set_gradients,
    set_learning_rates,
    set_monitored_metrics,
)
from mcn_lightning.runs.tracking import drop_later_metrics
from mcn_lightning.signals import drop_closed_terminal, handled_signals, stop_now, take_early_signal, write_line

RANDOM_STATES, RESUME_STATE = "random_states", "resume"
NEWEST = "newest.ckpt"

RandomStates = dict[str, Any]
"""State of each random generator by name, as plain data."""


class Stopped(Exception):
    """A signal ended the run, and its state is saved. Every process raises this.

    Args:
        number: the signal.
        text: one line for the user.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.status = 128 + number


def random_states() -> RandomStates:
    """Return the states of this process's random generators as plain data."""
    _, keys, *rest = np.random.get_state(legacy=True)
    states: RandomStates = {
        "torch": torch.get_rng_state(),
        # as a tensor of int64: weights_only=True loads no NumPy arrays, and torch had no uint32
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: RandomStates) -> None:
    """Restore the result of ``random_states``."""
    torch.set_rng_state(states["torch"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def seed_random_states(seed: int, step: int) -> None:
    """Seed all random generators by the seed, the step and the rank of this process."""
    # step and rank too: a resumed run must not repeat numbers, nor processes share them
    seeds = np.random.SeedSequence((seed, step, rank())).generate_state(3).tolist()
    torch.manual_seed(seeds[0])
    np.random.seed(seeds[1])
    random.seed(seeds[2])


class Resume(Callback):
    """Save and restore all states, so that a run resumed by ``--ckpt_path last`` equals an uninterrupted one.

    Every checkpoint holds the random states of every process. Some signals only set a flag: SIGTERM, SIGHUP (a closed
    terminal), SIGUSR1 (unless Lightning requeues SLURM jobs itself) and the first Ctrl-C. If any process has the flag
    at the end of a step, all processes save ``newest.ckpt`` beside the other checkpoints. They exit with status 128 +
    signal. A second Ctrl-C ends the run at once.

    Args:
        every_n_steps: steps between two savings of ``newest.ckpt``; 0 saves it only before stopping.
    """

    def __init__(self, every_n_steps: NonNegativeInt = 0) -> None:
        self.every_n_steps = checked(NonNegativeInt, every_n_steps, "--resume.every_n_steps")
        self._received = 0
        self._trainer: Trainer | None = None
        self._pending_signal: HostCopy | None = None
        self._saved: list[RandomStates] | None = None
        self._position: CheckpointPosition | None = None
        self._gradients: dict[str, torch.Tensor] = {}
        self._metrics: dict[str, float] = {}
        self._stopped = False
        self._validated = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the file names of checkpoints safe, and check that all processes resume from the same checkpoint.

        Raises:
            InputError: if they found different ones.
        """
        self._received, self._pending_signal, self._saved = 0, None, None
        self._position, self._gradients, self._metrics, self._stopped, self._validated = None, {}, {}, False, -1
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                flatten_filename(callback)
        if world_size() > 1 and trainer.ckpt_path is not None:
            # each process searches for itself, and a disk may show a new file to one node first
            paths = set(gather_objects(str(trainer.ckpt_path)))
            if len(paths) > 1:
                raise InputError(f"--ckpt_path: expected one checkpoint for all processes, found {sorted(paths)}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Add the random states of all processes, accumulated gradients and monitored metrics."""
        # on every process, as Lightning lets all of them save and gathering needs all
        checkpoint[RANDOM_STATES] = gather_objects(random_states())
        checkpoint[RESUME_STATE] = {
            "validated": self._validated == trainer.fit_loop.total_batch_idx,
            "gradients": gradients(trainer, pl_module),
            "metrics": monitored_metrics(trainer),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Keep the states of the first step until training begins, as setting up would change them.

        Raises:
            InputError: if the checkpoint is beyond the limits of the run, or has averaged weights without a callback
                for them.
        """
        check_average(trainer, checkpoint)
        if trainer.state.fn != TrainerFn.FITTING:
            return  # an evaluation needs only the weights
        self._saved, rest = checkpoint.get(RANDOM_STATES, []), checkpoint.get(RESUME_STATE, {})
        check_limits(trainer, checkpoint)
        self._position = normalize_counters(trainer, checkpoint, rest.get("validated", False))
        self._gradients, self._metrics = rest.get("gradients", {}), rest.get("metrics", {})
        self._stopped = adapt_stopping(trainer, checkpoint)
        relocate_checkpoints(trainer, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not train a run further that was stopped early."""
        trainer.should_stop = trainer.should_stop or self._stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the validation after this batch is done."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = trainer.fit_loop.total_batch_idx

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print a message if the checkpoint is already at the end of the run."""
        position, self._position = self._position, None
        if position is not None and trainer.is_global_zero:
            reason = "it was stopped early" if self._stopped else "it has reached its limit"
            found = f"{trainer.current_epoch} epochs, {trainer.global_step} steps"
            print(f"--ckpt_path: nothing is left to train: {reason} ({found}); raise the limit to go on", flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore position and states. Replace Lightning's signal handlers, which would wait for other processes."""
        position, self._position = self._position, None
        if trainer.is_global_zero:
            drop_later_metrics(trainer, 0 if position is None else position.stepped)
        if position is not None:
            restore_position(trainer, position)
            set_learning_rates(trainer)
            set_gradients(pl_module, self._gradients)
            set_monitored_metrics(trainer, self._metrics)
            self._validated = trainer.fit_loop.total_batch_idx if position.validated else -1
            self._gradients, self._metrics = {}, {}
        saved, self._saved = self._saved, None
        if saved is not None and len(saved) == world_size():
            set_random_states(saved[rank()])
        elif saved is not None or world_size() > 1:  # with equal states all processes would use the same dropout mask
            seed_random_states(torch.initial_seed(), trainer.global_step)
        if saved is not None and len(saved) != world_size():
            rank_zero_info(
                f"--ckpt_path: the checkpoint has random states of {len(saved)} process(es) and there are now "
                f"{world_size()}: the run goes on with fresh ones"
            )
        self._install_handlers(trainer)

    def _install_handlers(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows signal handlers in the main thread only
        requeues = requeues_itself(trainer)
        self._trainer = trainer
        for number in handled_signals():  # Lightning restores the former handlers at the end
            if number != signal.SIGUSR1 or not requeues:
                signal.signal(number, self._handle_signal)
        self._received = self._received or take_early_signal()

    def _handle_signal(self, number: int, frame: FrameType | None) -> None:
        again = number == self._received == signal.SIGINT
        self._received = number
        # no saving on the second Ctrl-C: the user does not want to wait
        if again:
            self._stop_now()
        elif number == signal.SIGINT:
            when = "after this step" if self._trainer is None or self._trainer.training else "after this evaluation"
            write_line(f"saving {when}; press again to stop now")
        elif number == signal.SIGHUP:
            drop_closed_terminal()

    def _stop_now(self) -> NoReturn:
        # a process that is busy takes two signals for one, so those that this one launched are ended here
        launcher = None if self._trainer is None else self._trainer.strategy.launcher
        if launcher is not None:
            launcher.kill(signal.SIGKILL)
        stop_now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save if it is due, and end the run if a process received a signal.

        After the last step of an epoch its evaluation follows, whose results are in no checkpoint. Therefore the run
        ends only in ``on_train_epoch_end``. The checkpoint is saved now as well, in case the process is killed before.

        Raises:
            Stopped: on all processes at once.
        """
        number = self._any_signal(pl_module.device)
        if accumulates_gradients(trainer):  # gradients that wait for more batches are in no checkpoint
            return
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        due = self.every_n_steps > 0 and trainer.global_step % self.every_n_steps == 0 and not last
        if number or due:
            log_step_now(trainer)  # the process may end before Lightning logs this step
        if number and not last:
            self._stop(trainer, number)
        if number or due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run if a process received a signal. After its last epoch it ends normally.

        Raises:
            Stopped: on all processes at once.
        """
        clear_restart_flags(trainer)
        if (number := self._any_signal(pl_module.device)) and not trainer.fit_loop.done:
            self._stop(trainer, number)

    def _stop(self, trainer: Trainer, number: int) -> NoReturn:
        path, name = self._save(trainer), signal.Signals(number).name
        saved = "nothing was saved" if path is None else f"saved {path}: the same command with --ckpt_path last goes on"
        raise Stopped(number, f"stopped by {name} after step {trainer.global_step}, {saved}")

    def _any_signal(self, device: torch.device) -> int:
        """Return a signal that any process received, the same on all. With several processes it is one step late.

        The result of the previous step is on the CPU by now, so that reading it does not wait for the device.
        """
        if world_size() == 1:
            return self._received
        asked = self._pending_signal
        # written by the device: to copy a number there would wait for all work that is queued
        flag = torch.full((), self._received, device=device)
        # MAX: any signal number is above 0, and all processes get the same one
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        self._pending_signal = HostCopy(flag)
        return 0 if asked is None else int(asked.read())

    def _save(self, trainer: Trainer) -> Path | None:
        """Save ``newest.ckpt`` and return its path; ``None`` for a run without checkpoints."""
        callback = trainer.checkpoint_callback
        if (
            not isinstance(callback, ModelCheckpoint)
            or callback.dirpath is None
            or getattr(trainer, "fast_dev_run", False)
        ):
            return None
        path = Path(callback.dirpath) / NEWEST
        trainer.save_checkpoint(path, weights_only=False)
        return path
