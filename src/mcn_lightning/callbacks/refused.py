"""Options and callbacks of Lightning's trainer that this project cannot honour, each refused in one line."""

from __future__ import annotations

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.callbacks import BackboneFinetuning, BatchSizeFinder, LearningRateFinder
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from mcn_lightning.data.batch import InputError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""Weights, k-means and log-softmax are float32 in all of them."""

CALLBACKS: dict[type[Callback], str] = {
    LearningRateFinder: "it trains without clusters, and the schedule of --model.optimizer replaces what it finds; try "
    "values of --model.optimizer.lr (experiments/sweeps/learning_rate_and_batch.yaml)",
    BatchSizeFinder: "the losses compare the clips of a batch, and another size trains another model; set "
    "--data.batch_size",
    BackboneFinetuning: "the network has no backbone; start from --model.weights, and freeze parts with a callback "
    "derived from BaseFinetuning",
}


def check_trainer(trainer: Trainer) -> None:
    """Refuse what would end in a traceback, or train something else than was asked for.

    Args:
        trainer: as it was built.

    Raises:
        InputError: naming the option, and what to do instead.
    """
    if trainer.precision not in PRECISIONS:
        raise InputError(f"--trainer.precision: expected {' or '.join(PRECISIONS)}, found {trainer.precision}")
    strategy = trainer.strategy
    if not isinstance(strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise InputError(
            "--trainer.strategy: expected auto, or one of ddp, whose processes have the whole network each, found "
            f"{type(strategy).__name__}; set it to auto"
        )
    syncs = isinstance(getattr(strategy, "_layer_sync", None), LayerSync)
    if syncs and trainer.world_size > 1 and isinstance(trainer.accelerator, CPUAccelerator):
        raise InputError(
            "--trainer.sync_batchnorm: expected GPUs, found CPUs, where torch cannot do it; set it to false"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, reason in CALLBACKS.items():
            if isinstance(callback, kind):
                raise InputError(f"--trainer.callbacks: expected callbacks without {kind.__name__}, found it: {reason}")
