"""Support for averaged weights (``EMAWeightAveraging`` and others), without averaging queue, centroids and counters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import Module
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from mcn_lightning.clustering import Clustering
from mcn_lightning.errors import InputError
from mcn_lightning.runs.lightning import averaged_model, callbacks_of, has_pending_schedule

CURRENT = "current_model_state"
"""Key of the current weights in a checkpoint of Lightning whose ``state_dict`` holds the averaged ones."""


def averages_weights(trainer: Trainer) -> bool:
    """Return whether a callback averages weights."""
    return any(isinstance(each, (WeightAveraging, StochasticWeightAveraging)) for each in callbacks_of(trainer))


def _same(mean: Tensor, current: Tensor) -> bool:
    """Return whether a tensor is not averaged: it is shared with the trained model, or it is an integer counter."""
    return not mean.is_floating_point() or mean.data_ptr() == current.data_ptr()


def average_only_weights(average: AveragedModel) -> None:
    """Make an averaged model copy counters, and skip tensors that it shares with the trained model."""
    # torch averages by one function for each tensor, or by one for all, whichever is set
    average_one: Callable[..., Tensor] = average.avg_fn or get_swa_avg_fn()
    average_all: Callable[..., None] | None = average.multi_avg_fn

    def one(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return current if _same(mean, current) else average_one(mean, current, count)

    def several(means: Sequence[Tensor], currents: Sequence[Tensor], count: Tensor | int) -> None:
        kept = [pair for pair in zip(means, currents, strict=True) if not _same(*pair)]
        # integer counters have no mean, so they are copied
        for mean, current in zip(means, currents, strict=True):
            if not mean.is_floating_point():
                mean.copy_(current)
        if kept and average_all is not None:
            average_all([mean for mean, _ in kept], [current for _, current in kept], count)

    if average_all is None:
        average.avg_fn = one
    else:
        average.multi_avg_fn = several


class AveragedWeights(Callback):
    """Adapts Lightning's averaging callbacks to this module, which adds it if there is one of them.

    The weights and, with ``use_buffers``, the batch-norm statistics are averaged. Queue, centroids and counters are
    shared with the trained model, which saves memory. Word vectors, which come from the data, are shared as well.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share the parts that are not averaged, once all parts exist and a checkpoint is loaded."""
        for callback in callbacks_of(trainer):
            if not isinstance(callback, WeightAveraging) or (average := averaged_model(callback)) is None:
                continue
            clustering = getattr(pl_module, "clustering", None)
            # learned prototypes are weights, which are averaged; centroids of k-means are not
            if isinstance(clustering, Clustering) and next(clustering.parameters(), None) is None:
                average.module.clustering = clustering
            if (embedder := getattr(_text(pl_module), "embedder", None)) is not None:
                _text(average.module).set_embedder(embedder)
            average_only_weights(average)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore SWA's schedule in a run that resumes in mid-epoch, where Lightning skips ``on_train_epoch_start``."""
        for callback in callbacks_of(trainer):
            if isinstance(callback, StochasticWeightAveraging) and has_pending_schedule(callback):
                callback.on_train_epoch_start(trainer, pl_module)


def _text(module: Module) -> Any:
    """Return the text branch of a module's network, which has the word vectors; ``None`` for other modules."""
    return getattr(getattr(module, "network", None), "text", None)


def check_stochastic(trainer: Trainer, module: LightningModule) -> None:
    """Refuse SWA if Lightning would average after the last checkpoint, which would hold other weights.

    Raises:
        InputError: if the network has no batch norm, or the number of epochs is not known.
    """
    stochastic = any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks_of(trainer))
    if trainer.state.fn != TrainerFn.FITTING or not stochastic:
        return
    advice = "take EMAWeightAveraging or WeightAveraging in place of StochasticWeightAveraging"
    if not StochasticWeightAveraging.pl_module_contains_batch_norm(module):
        raise InputError(f"--trainer.callbacks: expected a network with batch norm (audio), found none; {advice}")
    # SWA begins at a share of the epochs
    if trainer.max_epochs == -1:
        raise InputError(f"--trainer.max_epochs: expected a number for SWA, found -1; set it, or {advice}")


def check_average(trainer: Trainer, checkpoint: Mapping[str, object]) -> None:
    """Refuse to resume without the averaging callback. Training would continue from the averaged weights.

    Raises:
        InputError: if the checkpoint has averaged weights, and no callback of this run averages weights.
    """
    if CURRENT in checkpoint and trainer.state.fn == TrainerFn.FITTING and not averages_weights(trainer):
        wanted = "--trainer.callbacks with the callback that averaged weights in this run"
        raise InputError(f"--ckpt_path: expected {wanted}, found none; add it, or give the weights to --model.weights")
