"""A run that is stopped loses nothing: random states in every checkpoint, and a checkpoint before the end."""

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

from mcn_lightning.distributed import Later, rank, world
from mcn_lightning.errors import InputError
from mcn_lightning.runs.averaging import check_average
from mcn_lightning.runs.checkpoints import without_folders
from mcn_lightning.runs.lightning import (
    Place,
    adapt_stops,
    begin_anew,
    check_limits,
    go_on,
    gradients,
    keep_paths,
    log_step_now,
    requeues_itself,
    set_gradients,
    set_rates,
    set_told_metrics,
    settle,
    told_metrics,
    waits_for_batches,
)
from mcn_lightning.runs.tracking import drop_metrics
from mcn_lightning.signals import early, heard, let_terminal_go, stop_now, tell

KEY, REST = "random_states", "resume"
NEWEST = "newest.ckpt"


class Stopped(Exception):
    """The run was told to end and has saved its state; every process raises it.

    Args:
        number: the signal.
        text: one line for the user.
    """

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.status = 128 + number


def random_states() -> dict[str, Any]:
    """Return the states of this process's random generators as plain data."""
    _, keys, *rest = np.random.get_state(legacy=True)
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": (torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Go on from what ``random_states`` gave."""
    torch.set_rng_state(states["torch"])
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["python"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def draw_random_states(seed: int, step: int) -> None:
    """Set fresh states that are a function of seed, step and number of this process."""
    words = np.random.SeedSequence((seed, step, rank())).generate_state(3).tolist()
    torch.manual_seed(words[0])
    np.random.seed(words[1])
    random.seed(words[2])


class Resume(Callback):
    """What a run needs to go on with ``--ckpt_path last`` as if it had not been stopped.

    Every checkpoint holds the random states of every process. SIGTERM, SIGHUP (a closed terminal), SIGUSR1 (unless
    Lightning requeues SLURM jobs itself) and the first Ctrl-C only set a flag. At the end of a step, when one process
    has it, all save ``newest.ckpt`` beside the other checkpoints and end with exit status 128 + signal. A second Ctrl-C
    ends the run at once.

    Args:
        every_n_steps: steps between two times that ``newest.ckpt`` is saved; 0 saves it only before stopping.
    """

    def __init__(self, every_n_steps: int = 0) -> None:
        if every_n_steps < 0:
            raise InputError(f"--resume.every_n_steps: expected 0 or more, found {every_n_steps}; 0 turns it off")
        self.every_n_steps = every_n_steps
        self._received = 0
        self._trainer: Trainer | None = None
        self._asked: Later | None = None
        self._saved: list[dict[str, Any]] | None = None
        self._place: Place | None = None
        self._waiting: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._stopped = False
        self._validated = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make names of checkpoints safe, and see that all processes go on from one.

        Raises:
            InputError: if they found different ones.
        """
        self._received, self._asked, self._saved = 0, None, None
        self._place, self._waiting, self._metrics, self._stopped, self._validated = None, {}, {}, False, -1
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                without_folders(callback)
        if world() > 1 and trainer.ckpt_path is not None:
            paths: list[Any] = [None] * world()
            dist.all_gather_object(paths, str(trainer.ckpt_path))
            if len(set(paths)) > 1:
                raise InputError(f"--ckpt_path: expected one checkpoint for all processes, found {sorted(set(paths))}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random states of all processes, and what else the next step needs."""
        states: list[Any] = [random_states()]
        if world() > 1:
            own, states = states[0], [None] * world()
            dist.all_gather_object(states, own)
        checkpoint[KEY] = states
        checkpoint[REST] = {
            "validated": self._validated == trainer.fit_loop.total_batch_idx,
            "gradients": gradients(trainer, pl_module),
            "metrics": told_metrics(trainer),
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what belongs to the first step until training begins: what is set up until then changes it too.

        Raises:
            InputError: if the run should end before the checkpoint, or had averaged weights and this one has no
                callback for them.
        """
        check_average(trainer, checkpoint)
        if trainer.state.fn != TrainerFn.FITTING:
            return  # an evaluation goes on with nothing
        self._saved, rest = checkpoint.get(KEY, []), checkpoint.get(REST, {})
        check_limits(trainer, checkpoint)
        self._place = settle(trainer, checkpoint, rest.get("validated", False))
        self._waiting, self._metrics = rest.get("gradients", {}), rest.get("metrics", {})
        self._stopped = adapt_stops(trainer, checkpoint)
        keep_paths(trainer, checkpoint)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a run that was stopped early as it is."""
        trainer.should_stop = trainer.should_stop or self._stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the validation after this batch is done."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._validated = trainer.fit_loop.total_batch_idx

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so when the checkpoint is the end of the run already."""
        place, self._place = self._place, None
        if place is not None and trainer.is_global_zero:
            reason = "it was stopped early" if self._stopped else "it has reached its limit"
            found = f"{trainer.current_epoch} epochs, {trainer.global_step} steps"
            print(f"--ckpt_path: nothing is left to train: {reason} ({found}); raise the limit to go on", flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the random states, and take the signals over from Lightning, whose handlers wait for other processes."""
        place, self._place = self._place, None
        if trainer.is_global_zero:
            drop_metrics(trainer, 0 if place is None else place.stepped)
        if place is not None:
            go_on(trainer, place)
            set_rates(trainer)
            set_gradients(pl_module, self._waiting)
            set_told_metrics(trainer, self._metrics)
            self._validated = trainer.fit_loop.total_batch_idx if place.validated else -1
            self._waiting, self._metrics = {}, {}
        saved, self._saved = self._saved, None
        if saved is not None and len(saved) == world():
            set_random_states(saved[rank()])
        elif saved is not None or world() > 1:  # equal states would drop the same units in every process
            draw_random_states(torch.initial_seed(), trainer.global_step)
        if saved is not None and len(saved) != world():
            rank_zero_info(
                f"--ckpt_path: the checkpoint has random states of {len(saved)} process(es) and there are now "
                f"{world()}: the run goes on with fresh ones"
            )
        self._take_signals(trainer)

    def _take_signals(self, trainer: Trainer) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python gives signals to the main thread alone
        requeues = requeues_itself(trainer)
        self._trainer = trainer
        for number in heard():  # Lightning puts the former handlers back at the end
            if number != signal.SIGUSR1 or not requeues:
                signal.signal(number, self._note)
        self._received = self._received or early()

    def _note(self, number: int, frame: FrameType | None) -> None:
        again = number == self._received == signal.SIGINT
        self._received = number
        if again:
            stop_now()
        elif number == signal.SIGINT:
            when = "after this step" if self._trainer is None or self._trainer.training else "after this evaluation"
            tell(f"saving {when}; press again to stop now")
        elif number == signal.SIGHUP:
            let_terminal_go()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time to, and end the run when a process was told to.

        After the last step of an epoch comes its evaluation, which no checkpoint remembers: only ``on_train_epoch_end``
        ends the run then, and what is saved now is for the case that it is too late by then.

        Raises:
            Stopped: on all processes at once.
        """
        number = self._agreed(pl_module.device)
        if waits_for_batches(trainer):  # gradients that wait for more batches are in no checkpoint
            return
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        due = self.every_n_steps > 0 and trainer.global_step % self.every_n_steps == 0 and not last
        if number or due:
            log_step_now(trainer)  # the run may be killed before Lightning would
        if number and not last:
            self._stop(trainer, number)
        if number or due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run when a process was told to; one that is over with this epoch ends as any other.

        Raises:
            Stopped: on all processes at once.
        """
        begin_anew(trainer)
        if (number := self._agreed(pl_module.device)) and not trainer.fit_loop.done:
            self._stop(trainer, number)

    def _stop(self, trainer: Trainer, number: int) -> NoReturn:
        path, name = self._save(trainer), signal.Signals(number).name
        saved = "nothing was saved" if path is None else f"saved {path}: the same command with --ckpt_path last goes on"
        raise Stopped(number, f"stopped by {name} after step {trainer.global_step}, {saved}")

    def _agreed(self, device: torch.device) -> int:
        """Return the signal that a process received, the same on all; with several, as it was one step ago.

        What the device was asked a step ago is known by now, so that nothing waits.
        """
        if world() == 1:
            return self._received
        asked = self._asked
        flag = torch.tensor(self._received, device=device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        self._asked = Later(flag)
        return 0 if asked is None else int(asked.read())

    def _save(self, trainer: Trainer) -> Path | None:
        """Save ``newest.ckpt``; return where it is, or ``None`` for a run without checkpoints."""
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
