"""All code that depends on Lightning's internals: resuming of its loops, and settings of its loggers.

Only this file uses names of Lightning that begin with ``_``; ``tests/runs/test_lightning.py`` checks that they exist.
Lightning resumes differently with and without ``max_steps``. It also skips hooks that were due between a step and the
end of its epoch. With this code a resumed run does the same as an uninterrupted one, under any limit.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    Callback,
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
    WeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from mcn_lightning.distributed import HostCopy, sum_all, world_size
from mcn_lightning.errors import InputError

CheckpointContents = dict[str, Any]
"""The contents of a checkpoint file, by Lightning's keys. ``torch.load`` does not know their types."""


@dataclass
class CheckpointPosition:
    """The position in training at which a checkpoint was saved.

    Args:
        inside: the end of its epoch, with its hooks, is still to come.
        over: the epoch has no more batches.
        validated: the validation that was due after its last batch has run.
        stepped: steps that were logged.
        limit: ``max_steps`` of the trainer.
        evaluated: counters of the validation loop.
    """

    inside: bool
    over: bool
    validated: bool
    stepped: int
    limit: int
    evaluated: dict[str, object]


def check_limits(trainer: Trainer, checkpoint: CheckpointContents) -> None:
    """Refuse a checkpoint beyond the limits of the run.

    Raises:
        InputError: with both numbers.
    """
    progress = checkpoint["loops"]["fit_loop"]
    begun = progress["epoch_loop.batch_progress"]["current"]["ready"] > 0  # an unfinished epoch counts as well
    epochs = progress["epoch_progress"]["current"]["started" if begun else "processed"]
    for name, most, found, what in (
        ("max_epochs", trainer.max_epochs, epochs, "epochs"),
        ("max_steps", trainer.max_steps, checkpoint["global_step"], "steps"),
    ):
        if most is not None and most != -1 and found > most:
            wanted = f"at least the {found} {what} of the checkpoint"
            raise InputError(f"--trainer.{name}: expected {wanted}, found {most}; raise it, or take an earlier file")


def normalize_counters(trainer: Trainer, checkpoint: CheckpointContents, validated: bool) -> CheckpointPosition:
    """Change the counters of a checkpoint to a position between two steps or two epochs, and return the position.

    Args:
        trainer: of the resumed run.
        checkpoint: its counters are changed in place.
        validated: whether the validation after its last batch has run.
    """
    progress = checkpoint["loops"]["fit_loop"]
    epoch, batch, loop = progress["epoch_progress"], progress["epoch_loop.batch_progress"], "epoch_loop.state_dict"
    over, ended = batch["is_last_batch"], epoch["total"]["processed"] == epoch["total"]["started"]
    evaluated = copy.deepcopy(progress["epoch_loop.val_loop.batch_progress"])
    stepped = progress[loop]["_batches_that_stepped"]
    position = CheckpointPosition(not (over and ended), over, validated, stepped, trainer.max_steps, evaluated)
    # an accumulated step that lacks batches was not counted
    waiting = batch["current"]["ready"] % trainer.accumulate_grad_batches and not over
    # Lightning counts a step after its last hook, in which this checkpoint was saved
    if not ended and not waiting and batch["current"]["ready"]:
        position.stepped += 1
    for scope in ("total", "current"):
        batch[scope]["completed"] = batch[scope]["processed"]
        if position.inside:
            epoch[scope]["processed"] = min(epoch[scope]["processed"], epoch[scope]["started"] - 1)
        epoch[scope]["completed"] = epoch[scope]["processed"]
    if position.inside and not validated:  # as for a validation that has started and done no batch
        begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        progress["epoch_loop.val_loop.batch_progress"].update(total=dict(begun), current=dict(begun))
    if position.inside and trainer.max_steps == checkpoint["global_step"]:
        # otherwise Lightning would not enter the loop, and the last epoch would never end; restore_position undoes it
        trainer.fit_loop.epoch_loop.max_steps += 1
    return position


def restore_position(trainer: Trainer, position: CheckpointPosition) -> None:
    """Set the loops to the position of the checkpoint, after Lightning has restored them and before they start.

    Raises:
        InputError: if the epoch now has fewer batches than the checkpoint has done.
    """
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    loop.max_steps = position.limit
    loop._batches_that_stepped = position.stepped
    loop.val_loop.batch_progress.load_state_dict(position.evaluated)
    if not position.inside:  # with max_steps Lightning would treat the next epoch as an unfinished one
        for each in (fit, loop, loop.val_loop):
            each._restarting = False
        return
    done, batches = loop.batch_progress.current.completed, trainer.num_training_batches
    if done > batches and not position.over:
        wanted = f"at least the {done} batches that the checkpoint has done of its epoch"
        raise InputError(f"--trainer.limit_train_batches: expected {wanted}, found {batches}; give it as it was")
    loop.batch_progress.is_last_batch = position.over or done == batches
    due = loop._should_check_val_fx(fit._data_fetcher)  # type: ignore[arg-type]
    if loop._is_training_done and not (due and not position.validated):
        loop.val_loop._has_run = True  # the epoch ends at once, without another validation
    elif due and not loop._should_accumulate():
        loop._batches_that_stepped -= 1  # Lightning counts the step again after the validation
    if due and not position.validated:
        loop.val_loop.batch_progress.current.reset()


def clear_restart_flags(trainer: Trainer) -> None:
    """Clear the flags of resuming, which an epoch that ends at once keeps. The next epoch then starts normally."""
    for each in (trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
        each._restarting = each._loaded_from_state_dict = each._resuming_from_checkpoint = False
        each.reset_restart_stage()


def set_learning_rates(trainer: Trainer) -> None:
    """Recompute the learning rate of the next step. That of the checkpoint may be for a run of another length."""
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if isinstance(schedule, LambdaLR):
            groups = schedule.optimizer.param_groups
            if [group["lr"] for group in groups] != schedule._last_lr:
                continue  # another schedule has changed the rates, such as that of averaged weights
            for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = base * factor(schedule.last_epoch)
            schedule._last_lr = [group["lr"] for group in groups]


def gradients(trainer: Trainer, module: LightningModule) -> dict[str, torch.Tensor]:
    """Return the accumulated gradients of an unfinished step by name of the weight, averaged over the processes."""
    if not accumulates_gradients(trainer):
        return {}
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    # each process resumes with the mean: DDP then averages to the same gradient
    return {name: sum_all(gradient / world_size()) for name, gradient in found.items()}


def set_gradients(module: LightningModule, found: dict[str, torch.Tensor]) -> None:
    """Restore the accumulated gradients of an unfinished step."""
    for name, weight in module.named_parameters():
        if name in found:
            weight.grad = found[name].to(weight.device, weight.dtype, copy=True)


def adapt_stopping(trainer: Trainer, checkpoint: CheckpointContents) -> bool:
    """Apply the current options of early stopping and ``max_time``, and return whether the run has stopped early.

    Args:
        trainer: of the resumed run.
        checkpoint: the states of its callbacks are changed in place.
    """
    states, stopped = checkpoint.get("callbacks", {}), False
    for callback in callbacks_of(trainer):
        state = states.get(callback.state_key)
        if isinstance(callback, Timer) and state is None:  # max_time is new in this start: earlier hours count too
            seconds = 3600 * states.get("RunRecord", {}).get("hours", 0.0)
            states[callback.state_key] = {"time_elapsed": {"train": seconds}}
        elif isinstance(callback, EarlyStopping) and state is not None:
            # patience 0 stops at the first check without improvement, as 1 does
            now = max(callback.patience, 1)
            stops = state["wait_count"] >= now or (
                state.get("stopping_reason_message") is not None and callback.patience <= state["patience"]
            )
            again = {} if stops else {"stopped_epoch": 0, "stopping_reason_message": None}
            states[callback.state_key] = state | {"patience": callback.patience} | again
            stopped = stopped or stops
    return stopped


def monitored_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that callbacks can monitor, as plain numbers."""
    found = dict(trainer.callback_metrics)
    names, copy = copied_numbers(found)
    # read together, as each number that is read alone makes the host wait for the device
    numbers = found | dict(zip(names, copy.read().tolist() if copy else (), strict=True))
    return {name: value for name in found if math.isfinite(value := float(numbers[name]))}


def copied_numbers(values: dict[str, Any]) -> tuple[list[str], HostCopy | None]:
    """Begin to copy the tensors of a device to the CPU, and return their names; ``None`` if all numbers are there."""
    there = {name: value for name, value in values.items() if isinstance(value, torch.Tensor) and not value.is_cpu}
    if not there:
        return [], None
    return list(there), HostCopy(torch.stack([value.detach().float() for value in there.values()]))


def set_monitored_metrics(trainer: Trainer, found: dict[str, float]) -> None:
    """Restore the metrics that callbacks can monitor."""
    trainer._logger_connector._callback_metrics.update({name: torch.tensor(value) for name, value in found.items()})


def accumulates_gradients(trainer: Trainer) -> bool:
    """Return whether the step of this batch needs more batches (gradient accumulation)."""
    return trainer.fit_loop._should_accumulate()


def log_step_now(trainer: Trainer) -> None:
    """Log a step in ``on_train_batch_end``. Lightning would do it after that hook."""
    connector = trainer._logger_connector
    connector.update_train_step_metrics()
    # Lightning's call after the hook must not log the step twice: it only removes this replacement
    setattr(connector, "update_train_step_metrics", lambda: delattr(connector, "update_train_step_metrics"))  # noqa: B010


def set_logging(trainer: Trainer, log: Callable[[dict[str, Any], int | None], None] | None) -> None:
    """Let a function take what Lightning logs, or ``None``: Lightning itself again."""
    vars(trainer._logger_connector).pop("log_metrics", None)
    if log is not None:
        setattr(trainer._logger_connector, "log_metrics", log)  # noqa: B010


def log_now(trainer: Trainer, values: dict[str, Any], step: int | None) -> None:
    """Log as Lightning does, whatever ``set_logging`` has set."""
    connector = trainer._logger_connector
    type(connector).log_metrics(connector, values, step)


def log_at(trainer: Trainer, values: dict[str, Any], step: int) -> None:
    """Give values to the loggers for a step, whether or not Lightning logs that step."""
    trainer._logger_connector.log_metrics(values, step)


def logged_step(trainer: Trainer) -> int:
    """Return the number under which Lightning logs this step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def logs_this_step(trainer: Trainer) -> bool:
    """Return whether this step is logged."""
    return trainer._logger_connector.should_update_logs


def requeues_itself(trainer: Trainer) -> bool:
    """Return whether Lightning itself requeues SLURM jobs on SIGUSR1."""
    found = trainer._accelerator_connector.cluster_environment
    return isinstance(found, SLURMEnvironment) and found.auto_requeue


def relocate_checkpoints(trainer: Trainer, checkpoint: CheckpointContents) -> None:
    """Update the file paths of ``ModelCheckpoint`` for a folder that was moved, or that has newer files.

    Lightning would forget the files of a moved folder, and write ``last-v1.ckpt``.

    Args:
        trainer: of the resumed run.
        checkpoint: the states of its callbacks are changed in place.
    """
    states, start = checkpoint.get("callbacks", {}), Path(str(trainer.ckpt_path))
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not isinstance(callback, ModelCheckpoint) or not state or not callback.dirpath:
            continue
        here, last = Path(callback.dirpath), f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        if here.resolve() != start.parent.resolve():
            continue

        def relocated(path: str, old: str = str(state["dirpath"]), here: Path = here) -> str:
            return str(here / os.path.relpath(path, old)) if path else path

        states[callback.state_key] = state | {
            "dirpath": callback.dirpath,
            "best_model_path": relocated(state["best_model_path"]),
            "kth_best_model_path": relocated(state["kth_best_model_path"]),
            "last_model_path": relocated(state["last_model_path"])
            or (str(here / last) if (here / last).is_file() else ""),
            "best_k_models": {relocated(path): score for path, score in state["best_k_models"].items()},
        }


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the trainer's list of callbacks, which is not annotated in Lightning."""
    return getattr(trainer, "callbacks", [])


def validates_by_time(trainer: Trainer) -> bool:
    """Return whether validations are due by time (``val_check_interval`` as a duration), not by batches."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def open_bars(callback: TQDMProgressBar) -> list[tqdm]:
    """Return the bars that a progress callback has made so far."""
    # the bars of evaluations lie below that of training, and are closed first
    names = (f"_{stage}_progress_bar" for stage in ("predict", "test", "val", "train"))
    return [bar for name in names if (bar := getattr(callback, name)) is not None]


def averaged_model(callback: WeightAveraging) -> AveragedModel | None:
    """Return the averaged model of a callback, or ``None`` before training begins."""
    return callback._average_model


def csv_logger(trainer: Trainer) -> CSVLogger | None:
    """Return the logger that writes ``metrics.csv``. The command adds one before all others."""
    return next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)


def fixed_version(logger: CSVLogger) -> int | str | None:
    """Return the version that a logger was given, or ``None`` if it will choose the next number."""
    return logger._version


def next_version(logger: CSVLogger) -> int:
    """Return the next free version number."""
    return logger._get_next_version()


def set_log_folder(trainer: Trainer, folder: Path) -> None:
    """Make the CSV logger write into a folder, and other loggers with versions into one of the same name."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger._save_dir, logger._name, logger._version = str(folder.parent), "", folder.name
        # loggers without versions have no such attribute, and keep their names
        elif getattr(logger, "_version", folder.name) is None:
            logger._version = folder.name  # type: ignore[attr-defined]


def set_writer(logger: CSVLogger, writer: ExperimentWriter) -> None:
    """Replace the writer of a logger."""
    logger._experiment = writer


def wandb_name(logger: WandbLogger) -> str | None:
    """Return the name of a wandb run, else that of its project."""
    return logger._name or logger.name


def wandb_mode(logger: WandbLogger) -> str | None:
    """Return the mode that a logger was given, or ``None`` if wandb's settings decide."""
    return "offline" if logger._offline else logger._wandb_init.get("mode")


def set_wandb_option(logger: WandbLogger, name: str, value: str) -> None:
    """Give a logger that has not started an option of ``wandb.init``: the mode, or the id of a run to continue."""
    logger._wandb_init[name] = value
    logger._id = logger._wandb_init.get("id")


def has_pending_schedule(callback: StochasticWeightAveraging) -> bool:
    """Return whether SWA has a schedule from a checkpoint that it has not restored yet."""
    return callback._scheduler_state is not None


def reads_cpu(callback: DeviceStatsMonitor) -> bool:
    """Return whether a monitor reads CPU statistics, which needs psutil."""
    return callback._cpu_stats is not False


def syncs_batchnorm(trainer: Trainer) -> bool:
    """Return whether the processes share batch-norm statistics."""
    return isinstance(getattr(trainer.strategy, "_layer_sync", None), LayerSync)


def set_ddp_defaults(trainer: Trainer) -> None:
    """Make gradients views of DDP's buckets, which saves a copy of them, unless the user gave a strategy object."""
    # no static_graph: with it, a gradient that is None on one device, whose clips lack a modality, would stay so
    if isinstance(trainer.strategy, DDPStrategy) and isinstance(trainer._accelerator_connector._strategy_flag, str):
        trainer.strategy._ddp_kwargs.setdefault("gradient_as_bucket_view", True)
