"""Options of Lightning's trainer: adjustments of the command's defaults, and refusal of unsupported ones."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Literal

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateFinder,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
)
from pytorch_lightning.plugins.environments import ClusterEnvironment, SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import rank_zero_info

from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.runs import slurm
from mcn_lightning.runs.checkpoints import AtomicCheckpointIO
from mcn_lightning.runs.lightning import callbacks_of, reads_cpu, syncs_batchnorm
from mcn_lightning.runs.resume import Resume
from mcn_lightning.runs.saved import Options

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Supported precisions. Weights, k-means and log-softmax are float32 in all of them."""

MatmulPrecision = Literal["highest", "high", "medium"]
"""Names of torch: float32, TensorFloat-32, and bfloat16 where it is faster."""

REFUSED_CALLBACKS: dict[type[Callback], str] = {
    LearningRateFinder: "it trains without clusters, and the schedule of --model.optimizer replaces what it finds; try "
    "values of --model.optimizer.lr (experiments/sweeps/learning_rate_and_batch.yaml)",
    BatchSizeFinder: "the losses compare the clips of a batch, and another size trains another model; set "
    "--data.batch_size",
    BackboneFinetuning: "the network has no backbone; start from --model.weights, and freeze parts with a callback "
    "derived from BaseFinetuning",
}


BAREBONES_OPTIONS = ("logger", "enable_checkpointing", "enable_progress_bar", "log_every_n_steps",
        "enable_model_summary", "num_sanity_val_steps")  # fmt: skip
"""Options that ``--trainer.barebones`` forbids, and that the command sets by default."""


def apply_barebones(options: Options, callbacks: list[Callback]) -> tuple[Options, list[Callback]]:
    """Remove the defaults that ``--trainer.barebones`` forbids: logger, checkpoints, progress bar and summary.

    Args:
        options: of the trainer.
        callbacks: of the command.
    """
    if not options.get("barebones"):
        return options, callbacks
    shown = (ProgressBar, ModelSummary, Checkpoint)
    return {**options, **dict.fromkeys(BAREBONES_OPTIONS)}, [each for each in callbacks if not isinstance(each, shown)]


def remove_checkpoints(options: Options, callbacks: list[Callback]) -> tuple[Options, list[Callback]]:
    """Remove the command's checkpoint callback if ``--trainer.enable_checkpointing`` is false.

    Args:
        options: of the trainer.
        callbacks: of the command.

    Raises:
        InputError: if ``--resume.every_n_steps`` contradicts it.
    """
    if options.get("enable_checkpointing") is not False:
        return options, callbacks
    for callback in callbacks:
        if isinstance(callback, Resume) and callback.every_n_steps:
            other = f"--resume.every_n_steps {callback.every_n_steps}"
            advice = "set it to true, or the other to 0"
            raise InputError(f"--trainer.enable_checkpointing: expected true with {other}, found false; {advice}")
    return options, [each for each in callbacks if not isinstance(each, ModelCheckpoint)]


def add_plugins(plugins: object) -> list[object]:
    """Add this project's plugins: atomic checkpoints, and a SLURM environment without requeueing.

    A plugin of the user is kept. ``Resume`` handles the preemption of a SLURM job at the end of a step. Lightning's own
    handler would save at once, while processes may be at different steps.

    Args:
        plugins: of the user: one, a list, or none.
    """
    found = list(plugins) if isinstance(plugins, list) else [plugins] if plugins else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in found):
        found.append(AtomicCheckpointIO())
    # torchrun inside of a SLURM job starts the processes itself
    chosen = any(isinstance(plugin, ClusterEnvironment) for plugin in found)
    if not chosen and slurm.launched_by_srun(os.environ) and not TorchElasticEnvironment.detect():
        found.append(SLURMEnvironment(auto_requeue=False))
    return found


def set_matmul_precision(asked: MatmulPrecision | None, trainer: Trainer) -> None:
    """Set the precision of float32 matrix products for this process, and print it.

    Args:
        asked: by the user. If it is ``None``, CUDA gets ``high`` unless other code has set a precision. On CPUs nothing
            is set.
        trainer: whose accelerator counts.
    """
    on_cuda = isinstance(trainer.accelerator, CUDAAccelerator)
    if asked is not None:
        torch.set_float32_matmul_precision(asked)
    elif on_cuda and torch.get_float32_matmul_precision() == "highest":
        torch.set_float32_matmul_precision("high")
    if asked is not None or on_cuda:
        found = torch.get_float32_matmul_precision()
        other = "" if found == "highest" else "; highest computes them in full"
        rank_zero_info(f"--trainer.float32_matmul_precision {found}: float32 products, as in k-means{other}")


def check_trainer(trainer: Trainer) -> None:
    """Refuse options that would end in a traceback, or silently train another model.

    Args:
        trainer: after it was built.

    Raises:
        InputError: naming the option, and what to do instead.
    """
    strategy, callbacks = trainer.strategy, callbacks_of(trainer)
    check_rules(
        (
            trainer.precision not in PRECISIONS,
            f"--trainer.precision: expected {' or '.join(PRECISIONS)}, found {trainer.precision}",
        ),
        (
            not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)),
            "--trainer.strategy: expected auto, or one of ddp, whose processes have the whole network each, found "
            f"{type(strategy).__name__}; set it to auto",
        ),
    )
    # only now: other strategies do not know the number of their processes yet
    several_cpus = trainer.world_size > 1 and isinstance(trainer.accelerator, CPUAccelerator)
    psutil = find_spec("psutil") is not None
    check_rules(
        (
            syncs_batchnorm(trainer) and several_cpus,
            "--trainer.sync_batchnorm: expected GPUs, found CPUs, where torch cannot do it; set it to false",
        ),
        (
            not psutil and any(isinstance(each, DeviceStatsMonitor) and reads_cpu(each) for each in callbacks),
            "--trainer.callbacks: expected the package psutil for DeviceStatsMonitor, found none; "
            "pip install psutil, or set its cpu_stats to false",
        ),
        *(
            (
                any(isinstance(each, kind) for each in callbacks),
                f"--trainer.callbacks: expected callbacks without {kind.__name__}, found it: {reason}",
            )
            for kind, reason in REFUSED_CALLBACKS.items()
        ),
    )
