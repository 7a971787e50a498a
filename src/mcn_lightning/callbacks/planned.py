"""What a run will evaluate, and whether that is what its callbacks wait for: known before it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from mcn_lightning.callbacks.protocols import EmbeddingModule, callbacks_of
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.errors import InputError

OURS = ("mcn_lightning.", "pytorch_lightning.")
"""Packages whose classes log nothing but what is known here."""
RANKS = ("R@1", "R@5", "R@10", "R@50", "median_rank", "mean_rank")
CLUSTERS = ("nmi", "adjusted_rand_index", "purity", "mean_entropy")
TOLD = 8


@runtime_checkable
class Measures(Protocol):
    """A callback that says before a run which metrics it logs, as every benchmark does."""

    name: str

    def expected(self) -> list[str] | None:
        """Return the names of the metrics, without ``val/`` and the name of the callback; ``None`` where unknown."""
        ...


def batches_until(trainer: Trainer) -> tuple[float, float]:
    """Return how many training batches come before the first validation, and before the end of the run.

    Infinity stands for what is not known before: the data have no length, the clock decides, or there is no limit.
    """
    batches, every, within = trainer.num_training_batches, trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not 0 < batches < math.inf or getattr(trainer, "_val_check_time_interval", None) is not None or within is None:
        return 0.0, math.inf
    first = within if every is None else (every - 1) * batches + min(within, batches)
    end = math.inf if (trainer.max_epochs or -1) < 0 else float(trainer.max_epochs * batches)  # type: ignore[operator]
    if trainer.max_steps >= 0:
        end = min(end, trainer.max_steps * trainer.accumulate_grad_batches)
    return first, end


def check_plan(trainer: Trainer, module: EmbeddingModule, directions: Sequence[str], topics: bool) -> None:
    """Warn where nothing will be evaluated, and refuse callbacks that wait for a metric which will not be there.

    Args:
        trainer: set up, about to train.
        module: that it trains.
        directions: of retrieval on the held-out clips.
        topics: whether the held-out clips have known topics.

    Raises:
        InputError: naming the callback's option, its metric and the metrics that there are.
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
    if not all(type(each).__module__.startswith(OURS) or isinstance(each, Measures) for each in (module, *callbacks)):
        return  # what others log is not known
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
    """Return the metrics of every validation; a name that ends in ``/`` stands for all that begin so."""
    names = [f"val/{direction}/{metric}" for direction in directions for metric in RANKS]
    if topics:
        names += ["val/topics_nmi"]
        names += [f"val/{metric}" for metric in CLUSTERS if module.clustering is not None]
    for benchmark in (each for each in callbacks if isinstance(each, Measures)):
        names += [f"val/{benchmark.name}/{name}" for name in benchmark.expected() or [""]]
    return names


def training_metrics(module: EmbeddingModule, callbacks: Iterable[Callback]) -> Iterator[str]:
    """Give the metrics of training."""
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
    """Tell whether more of a metric is better, by its name: losses, ranks and entropies are better when low."""
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
    more = f" and {len(shown) - TOLD} more" if len(shown) > TOLD else ""
    return f"{option}: expected a metric of this run ({', '.join(shown[:TOLD])}{more}), found {monitor}{why}"
