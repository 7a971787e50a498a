"""A check before training: the metrics that callbacks monitor must be among those that the run logs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from mcn_lightning.callbacks.protocols import EmbeddingModule
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.errors import InputError
from mcn_lightning.metrics import retrieval_metrics
from mcn_lightning.metrics.clustering import CLUSTER_METRICS
from mcn_lightning.runs.lightning import callbacks_of, validates_by_time

OWN_PACKAGES = ("mcn_lightning.", "pytorch_lightning.")
"""Packages of classes whose metrics are all known here."""
MAX_SHOWN = 8  # metrics named in a message


@runtime_checkable
class NamesMetrics(Protocol):
    """A callback that names its metrics before the run, as every benchmark does."""

    name: str

    def metric_names(self) -> list[str] | None:
        """Return the names of the metrics without ``val/`` and the callback's name; ``None`` if they are not known."""
        ...


def batches_until(trainer: Trainer) -> tuple[float, float]:
    """Return the number of training batches before the first validation, and before the end of the run.

    Infinity stands for an unknown number: the data have no length, a time limit ends the run, or there is no limit.
    """
    batches, every, within = trainer.num_training_batches, trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not 0 < batches < math.inf or validates_by_time(trainer) or within is None:
        return 0.0, math.inf
    # without check_val_every_n_epoch, val_check_interval counts batches over the whole run
    first = within if every is None else (every - 1) * batches + min(within, batches)
    epochs = trainer.max_epochs or -1
    end = math.inf if epochs < 0 else float(epochs * batches)
    if trainer.max_steps >= 0:
        # max_steps counts optimiser steps, and each takes several batches
        end = min(end, trainer.max_steps * trainer.accumulate_grad_batches)
    return first, end


def check_monitors(trainer: Trainer, module: EmbeddingModule, directions: Sequence[str], topics: bool) -> None:
    """Warn if the run has no validation, and refuse callbacks that monitor a metric which is never logged.

    Args:
        trainer: of the run, at the start of training.
        module: that is trained.
        directions: of retrieval on the held-out clips.
        topics: whether the held-out clips have known topics.

    Raises:
        InputError: naming the callback's option, its metric and the metrics of the run.
    """
    first, end = batches_until(trainer)
    validates = trainer.enable_validation and first <= end
    if trainer.enable_validation and not validates:
        rank_zero_warn(
            f"nothing is evaluated in this run: it ends after {end:,.0f} batches, and the first validation would come "
            f"after {first:,.0f} (--trainer.check_val_every_n_epoch {trainer.check_val_every_n_epoch}, "
            f"--trainer.val_check_interval {trainer.val_check_interval}); lower one of them"
        )
    callbacks = callbacks_of(trainer)
    if not all(
        type(each).__module__.startswith(OWN_PACKAGES) or isinstance(each, NamesMetrics)
        for each in (module, *callbacks)
    ):
        return  # classes of others may log any metric
    held_out = validation_metrics(module, callbacks, directions, topics) if trainer.enable_validation else []
    known = [*held_out, *training_metrics(module, callbacks)]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and not _is_known(monitor, known):
            raise InputError(_refusal(callback, monitor, known, bool(held_out)))
        if isinstance(monitor, str) and best_is_highest(monitor) and getattr(callback, "mode", None) == "min":
            rank_zero_warn(
                f"{type(callback).__name__} takes the lowest {monitor} for the best, and more of it is better: set its "
                "mode to max"
            )


def validation_metrics(
    module: EmbeddingModule, callbacks: Iterable[Callback], directions: Sequence[str], topics: bool
) -> list[str]:
    """Return the metrics of every validation. A name that ends in ``/`` is a prefix of metrics."""
    ranked = retrieval_metrics(torch.ones(1))  # computed for one query, to learn the names
    names = [f"val/{direction}/{metric}" for direction in directions for metric in ranked]
    if topics:
        names += ["val/topics_nmi"]
        names += [f"val/{metric}" for metric in CLUSTER_METRICS if module.clustering is not None]
    for benchmark in (each for each in callbacks if isinstance(each, NamesMetrics)):
        names += [f"val/{benchmark.name}/{name}" for name in benchmark.metric_names() or [""]]
    return names


def training_metrics(module: EmbeddingModule, callbacks: Iterable[Callback]) -> Iterator[str]:
    """Yield the metrics of training. A name that ends in ``/`` or ``_`` is a prefix of metrics."""
    yield "train/loss"
    network, loss = module.network_config, module.loss_config
    if pairs := loss.contrastive.weighted_pairs(network.embeddings):
        yield "train/contrastive"
        yield from (f"train/{first}_{second}" for first, second in pairs)
    if network.reconstruction:
        yield from ("train/reconstruction", "train/rebuild_")
    if module.clustering is not None:
        yield from ("train/cluster", "clustering/")
    if loss.contrastive.learn_temperature:
        yield "train/temperature"
    if any(isinstance(each, Throughput) for each in callbacks):
        yield from ("train/clips_per_second", "train/data_wait_share")


def best_is_highest(metric: str) -> bool:
    """Return whether higher values of a metric are better, by its name. Losses, ranks and entropies should be low."""
    name = metric.rpartition("/")[2]
    highest = (
        "R@",
        "top",
        "recall",
        "AP",
        "IoU",
        "IoD",
        "frame accuracy",
        "mean_class",
        "nmi",
        "purity",
        "adjusted_rand",
    )
    return name.startswith(highest)


def _is_known(name: str, known: Iterable[str]) -> bool:
    return any(name == each or (each.endswith(("/", "_")) and name.startswith(each)) for each in known)


def _refusal(callback: Callback, monitor: str, known: Sequence[str], validates: bool) -> str:
    kind = type(callback).__name__
    option = "--checkpoint.monitor" if kind == "ModelCheckpoint" else f"monitor of {kind} (--trainer.callbacks)"
    why = "" if validates or not monitor.startswith("val/") else ", as nothing is evaluated in this run"
    group = [name for name in known if name.startswith(monitor.partition("/")[0] + "/")] or list(known)
    close = [name for name in group if name.rpartition("/")[2] == monitor.rpartition("/")[2]]
    beside = [name for name in group if name.rpartition("/")[0] == monitor.rpartition("/")[0]]
    shown = [name + ("..." if name.endswith(("/", "_")) else "") for name in dict.fromkeys([*close, *beside, *group])]
    more = f" and {len(shown) - MAX_SHOWN} more" if len(shown) > MAX_SHOWN else ""
    return f"{option}: expected a metric of this run ({', '.join(shown[:MAX_SHOWN])}{more}), found {monitor}{why}"
