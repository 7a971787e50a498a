"""Averaged weights (``EMAWeightAveraging`` and others) beside queue, centroids and counters, which have no average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn

from mcn_lightning.clustering import Clustering
from mcn_lightning.errors import InputError
from mcn_lightning.runs.lightning import keeps_schedule

CURRENT = "current_model_state"
"""Where Lightning keeps the weights of training in a checkpoint whose ``state_dict`` holds the averaged ones."""


def averages(trainer: Trainer) -> bool:
    """Tell whether a callback averages weights."""
    given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(each, (WeightAveraging, StochasticWeightAveraging)) for each in given)


def _same(mean: Tensor, current: Tensor) -> bool:
    """Tell whether a tensor has no average: it is shared with the model in training, or it counts."""
    return not mean.is_floating_point() or mean.data_ptr() == current.data_ptr()


def only_weights(average: AveragedModel) -> None:
    """Let an averaged model take over counters, and what it shares with the model in training, as they are."""
    each: Callable[..., Tensor] = average.avg_fn or get_swa_avg_fn()
    every: Callable[..., None] | None = average.multi_avg_fn

    def one(mean: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        return current if _same(mean, current) else each(mean, current, count)

    def several(means: Any, currents: Any, count: Tensor | int) -> None:
        kept = [pair for pair in zip(means, currents, strict=True) if not _same(*pair)]
        for mean, current in zip(means, currents, strict=True):
            if not mean.is_floating_point():
                mean.copy_(current)
        if kept and every is not None:
            every([mean for mean, _ in kept], [current for _, current in kept], count)

    if every is None:
        average.avg_fn = one
    else:
        average.multi_avg_fn = several


class AveragedWeights(Callback):
    """Make Lightning's averaging callbacks right for this module; the module brings it where there is one of them.

    Averaged are the weights and, with ``use_buffers``, the statistics of batch norm. Queue, centroids and counters are
    those of training, held once and not twice. Word vectors, which come from the data, are shared as well.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share what has no average, now that every part is there and a checkpoint was loaded."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            average = getattr(callback, "_average_model", None)
            if not isinstance(callback, WeightAveraging) or average is None:
                continue
            clustering = getattr(pl_module, "clustering", None)
            if isinstance(clustering, Clustering) and next(clustering.parameters(), None) is None:
                average.module.clustering = clustering
            text: Any = getattr(getattr(pl_module, "network", None), "text", None)
            if text is not None and text.embedder is not None:
                average.module.network.text.set_embedder(text.embedder)
            only_weights(average)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SWA take up its schedule when a run goes on in mid-epoch, whose beginning Lightning leaves out."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StochasticWeightAveraging) and keeps_schedule(callback):
                callback.on_train_epoch_start(trainer, pl_module)


def check_stochastic(trainer: Trainer, module: LightningModule) -> None:
    """Refuse SWA where Lightning would average after the last checkpoint, which then has other weights.

    Raises:
        InputError: if the network has no batch norm, or the number of epochs is not known.
    """
    given: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if trainer.state.fn != TrainerFn.FITTING or not any(isinstance(e, StochasticWeightAveraging) for e in given):
        return
    advice = "take EMAWeightAveraging or WeightAveraging in place of StochasticWeightAveraging"
    if not StochasticWeightAveraging.pl_module_contains_batch_norm(module):
        raise InputError(
            f"--trainer.callbacks: expected a network with batch norm (audio) for SWA, found none; {advice}"
        )
    if trainer.max_epochs == -1:
        raise InputError(f"--trainer.max_epochs: expected a number for SWA, found -1; set it, or {advice}")


def check_average(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Refuse to go on without the callback that averaged: the averaged weights would be trained, with other moments.

    Raises:
        InputError: if the checkpoint has averaged weights, and no callback of this run averages.
    """
    if CURRENT in checkpoint and trainer.state.fn == TrainerFn.FITTING and not averages(trainer):
        raise InputError(
            "--ckpt_path: expected --trainer.callbacks with the callback that averaged weights in this run, found "
            "none; add it, or start from the averaged weights with --model.weights"
        )
