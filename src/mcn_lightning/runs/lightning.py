"""All that reaches into Lightning: where a checkpoint was saved, how its loops go on, where its loggers write.

What begins with ``_`` in Lightning is touched here alone; ``tests/runs/test_lightning.py`` says what it must be.
Lightning goes on in one way when a run has ``max_steps`` and in another when it has none, and leaves out what was due
between a step and the end of its epoch. Here a run goes on as if it had not been stopped, under any limit.
"""

from __future__ import annotations

import copy
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    DeviceStatsMonitor,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.loggers import CSVLogger, WandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch.optim.lr_scheduler import LambdaLR

from mcn_lightning.distributed import world
from mcn_lightning.errors import InputError


@dataclass
class Place:
    """Where a checkpoint was saved.

    Args:
        inside: the end of its epoch is still to come, with what belongs to it.
        over: the epoch has no more batches.
        validated: the validation that was due after its last batch has run.
        stepped: steps that loggers have been told of.
        limit: ``max_steps`` of the trainer.
        evaluated: counters of the loop of validations.
    """

    inside: bool
    over: bool
    validated: bool
    stepped: int
    limit: int
    evaluated: dict[str, Any]


def check_limits(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse a checkpoint that is further than the run should go.

    Raises:
        InputError: with both numbers.
    """
    progress = checkpoint["loops"]["fit_loop"]
    begun = progress["epoch_loop.batch_progress"]["current"]["ready"] > 0  # the last epoch may be half done
    epochs = progress["epoch_progress"]["current"]["started" if begun else "processed"]
    for name, most, found, what in (
        ("max_epochs", trainer.max_epochs, epochs, "epochs"),
        ("max_steps", trainer.max_steps, checkpoint["global_step"], "steps"),
    ):
        if most is not None and most != -1 and found > most:
            raise InputError(
                f"--trainer.{name}: expected at least the {found} {what} of the checkpoint, found {most}; "
                "raise it, or give an earlier checkpoint"
            )


def settle(trainer: Trainer, checkpoint: dict[str, Any], validated: bool) -> Place:
    """Write the counters of a checkpoint as those of a run that stands between two steps, or between two epochs.

    Args:
        trainer: that goes on.
        checkpoint: what was saved; its counters are changed in place.
        validated: whether the validation after its last batch has run.
    """
    progress = checkpoint["loops"]["fit_loop"]
    epoch, batch, loop = progress["epoch_progress"], progress["epoch_loop.batch_progress"], "epoch_loop.state_dict"
    over, ended = batch["is_last_batch"], epoch["total"]["processed"] == epoch["total"]["started"]
    evaluated = copy.deepcopy(progress["epoch_loop.val_loop.batch_progress"])
    stepped = progress[loop]["_batches_that_stepped"]
    place = Place(not (over and ended), over, validated, stepped, trainer.max_steps, evaluated)
    waiting = batch["current"]["ready"] % trainer.accumulate_grad_batches and not over
    if not ended and not waiting and batch["current"]["ready"]:  # Lightning counts the step after the last hook of it
        place.stepped += 1
    for scope in ("total", "current"):
        batch[scope]["completed"] = batch[scope]["processed"]
        if place.inside:
            epoch[scope]["processed"] = min(epoch[scope]["processed"], epoch[scope]["started"] - 1)
        epoch[scope]["completed"] = epoch[scope]["processed"]
    if place.inside and not validated:  # as an evaluation of which no batch was done
        begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        progress["epoch_loop.val_loop.batch_progress"].update(total=dict(begun), current=dict(begun))
    if place.inside and trainer.max_steps == checkpoint["global_step"]:
        trainer.fit_loop.epoch_loop.max_steps += 1  # the last epoch has not ended yet; until training begins
    return place


def go_on(trainer: Trainer, place: Place) -> None:
    """Set the loops to where the checkpoint was saved, when Lightning has restored them and not begun yet.

    Raises:
        InputError: if the epoch has fewer batches now than were done.
    """
    fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    loop.max_steps = place.limit
    loop._batches_that_stepped = place.stepped
    loop.val_loop.batch_progress.load_state_dict(place.evaluated)
    if not place.inside:  # with max_steps Lightning would take the next epoch for one that was begun
        for each in (fit, loop, loop.val_loop):
            each._restarting = False
        return
    done, batches = loop.batch_progress.current.completed, trainer.num_training_batches
    if done > batches and not place.over:
        raise InputError(
            f"--trainer.limit_train_batches: expected at least the {done} batches that the checkpoint has done of its "
            f"epoch, found {batches}; give it as it was, or go on from the end of an epoch"
        )
    loop.batch_progress.is_last_batch = place.over or done == batches
    due = loop._should_check_val_fx(fit._data_fetcher)  # type: ignore[arg-type]
    if loop._is_training_done and not (due and not place.validated):
        loop.val_loop._has_run = True  # the epoch ends at once
    elif due and not loop._should_accumulate():
        loop._batches_that_stepped -= 1  # counted again after the validation
    if due and not place.validated:
        loop.val_loop.batch_progress.current.reset()


def begin_anew(trainer: Trainer) -> None:
    """Let the next epoch begin as any other: one that ended at once has left its loops as restored."""
    for each in (trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop):
        each._restarting = each._loaded_from_state_dict = each._resuming_from_checkpoint = False
        each.reset_restart_stage()


def set_rates(trainer: Trainer) -> None:
    """Give the next step its learning rate: that of the checkpoint is a function of another total length."""
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if isinstance(schedule, LambdaLR):
            groups = schedule.optimizer.param_groups
            if [group["lr"] for group in groups] != schedule._last_lr:
                continue  # another schedule has taken over, as that of averaged weights
            for group, base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["lr"] = base * factor(schedule.last_epoch)
            schedule._last_lr = [group["lr"] for group in groups]


def gradients(trainer: Trainer, module: LightningModule) -> dict[str, torch.Tensor]:
    """Return the gradients that wait for more batches of their step, by weight; the mean of all processes."""
    if not waits_for_batches(trainer):
        return {}
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    if world() > 1:
        found = {name: gradient / world() for name, gradient in found.items()}
        for gradient in found.values():
            dist.all_reduce(gradient)
    return found


def set_gradients(module: LightningModule, found: dict[str, torch.Tensor]) -> None:
    """Give the weights the gradients that waited."""
    for name, weight in module.named_parameters():
        if name in found:
            weight.grad = found[name].to(weight.device, weight.dtype, copy=True)


def adapt_stops(trainer: Trainer, checkpoint: dict[str, Any]) -> bool:
    """Let early stopping and ``max_time`` go by today's options and what the run has used; tell if it has stopped.

    Args:
        trainer: that goes on.
        checkpoint: what was saved; the states of its callbacks are changed in place.
    """
    states, stopped = checkpoint.get("callbacks", {}), False
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = states.get(callback.state_key)
        if isinstance(callback, Timer) and state is None:  # until now nobody has counted for it
            seconds = 3600 * states.get("RunRecord", {}).get("hours", 0.0)
            states[callback.state_key] = {"time_elapsed": {"train": seconds}}
        elif isinstance(callback, EarlyStopping) and state is not None:
            now = max(callback.patience, 1)
            stops = state["wait_count"] >= now or (
                state.get("stopping_reason_message") is not None and callback.patience <= state["patience"]
            )
            again = {} if stops else {"stopped_epoch": 0, "stopping_reason_message": None}
            states[callback.state_key] = state | {"patience": callback.patience} | again
            stopped = stopped or stops
    return stopped


def told_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that callbacks may monitor, as plain numbers."""
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def set_told_metrics(trainer: Trainer, found: dict[str, float]) -> None:
    """Give callbacks the metrics that they may monitor."""
    trainer._logger_connector._callback_metrics.update({name: torch.tensor(value) for name, value in found.items()})


def waits_for_batches(trainer: Trainer) -> bool:
    """Tell whether the gradients of this batch wait for more batches of their step."""
    return trainer.fit_loop._should_accumulate()


def log_step_now(trainer: Trainer) -> None:
    """Log a step in ``on_train_batch_end``, and not after that hook, when Lightning would do it."""
    connector = trainer._logger_connector
    connector.update_train_step_metrics()
    setattr(connector, "update_train_step_metrics", lambda: delattr(connector, "update_train_step_metrics"))  # noqa: B010


def logs_this_step(trainer: Trainer) -> bool:
    """Tell whether loggers are told of this step."""
    return trainer._logger_connector.should_update_logs


def requeues_itself(trainer: Trainer) -> bool:
    """Tell whether Lightning requeues SLURM jobs, and takes SIGUSR1 for it."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue


def keep_paths(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let ``ModelCheckpoint`` go on with its files in a folder that was moved, or that it has written to since.

    Lightning forgets them where the folder has another name, and would write ``last-v1.ckpt``.

    Args:
        trainer: that goes on.
        checkpoint: what was saved; the states of its callbacks are changed in place.
    """
    states, start = checkpoint.get("callbacks", {}), Path(str(trainer.ckpt_path))
    for callback in trainer.checkpoint_callbacks:
        state = states.get(callback.state_key)
        if not isinstance(callback, ModelCheckpoint) or not state or not callback.dirpath:
            continue
        here, last = Path(callback.dirpath), f"{callback.CHECKPOINT_NAME_LAST}{callback.FILE_EXTENSION}"
        if here.resolve() != start.parent.resolve():
            continue

        def moved(path: str, old: str = str(state["dirpath"]), here: Path = here) -> str:
            return str(here / os.path.relpath(path, old)) if path else path

        states[callback.state_key] = state | {
            "dirpath": callback.dirpath,
            "best_model_path": moved(state["best_model_path"]),
            "kth_best_model_path": moved(state["kth_best_model_path"]),
            "last_model_path": moved(state["last_model_path"]) or (str(here / last) if (here / last).is_file() else ""),
            "best_k_models": {moved(path): score for path, score in state["best_k_models"].items()},
        }


def csv_logger(trainer: Trainer) -> CSVLogger | None:
    """Return the logger that writes ``metrics.csv``; the command puts one before all others."""
    return next((logger for logger in trainer.loggers if isinstance(logger, CSVLogger)), None)


def chosen_version(logger: CSVLogger) -> int | str | None:
    """Return the version that a logger was given, or ``None`` while it is to count them itself."""
    return logger._version


def next_version(logger: CSVLogger) -> int:
    """Return the first number above those of all versions there are."""
    return logger._get_next_version()


def log_into(trainer: Trainer, folder: Path) -> None:
    """Let the loggers that count versions write into one folder, or into one of its name."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            logger._save_dir, logger._name, logger._version = str(folder.parent), "", folder.name
        elif getattr(logger, "_version", folder.name) is None:
            logger._version = folder.name  # type: ignore[attr-defined]


def write_with(logger: CSVLogger, writer: ExperimentWriter) -> None:
    """Let a logger write with another writer."""
    logger._experiment = writer


def wandb_name(logger: WandbLogger) -> str | None:
    """Return the name that a run was given, else that of its project."""
    return logger._name or logger.name


def wandb_mode(logger: WandbLogger) -> str | None:
    """Return the mode that a logger was given, or ``None`` where wandb's settings decide."""
    return "offline" if logger._offline else logger._wandb_init.get("mode")


def set_wandb_offline(logger: WandbLogger) -> None:
    """Let a logger that has not begun log offline."""
    logger._wandb_init["mode"] = "offline"


def set_wandb_id(logger: WandbLogger, run_id: str) -> None:
    """Let a logger that has not begun go on with a run of wandb."""
    logger._wandb_init["id"] = logger._id = run_id


def keeps_schedule(callback: StochasticWeightAveraging) -> bool:
    """Tell whether averaging has a schedule from a checkpoint that it has not taken up yet."""
    return callback._scheduler_state is not None


def reads_cpu(callback: DeviceStatsMonitor) -> bool:
    """Tell whether a monitor reads the processors, for which it needs psutil."""
    return callback._cpu_stats is not False


def syncs_batchnorm(trainer: Trainer) -> bool:
    """Tell whether the processes share the statistics of batch norm."""
    return isinstance(getattr(trainer.strategy, "_layer_sync", None), LayerSync)
