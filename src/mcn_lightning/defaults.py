"""The callbacks that a module brings to a trainer which has none of their class."""

from __future__ import annotations

from collections.abc import Sequence

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from mcn_lightning.benchmarks.base import Benchmark
from mcn_lightning.benchmarks.report import BenchmarkReport
from mcn_lightning.callbacks.centroids import CentroidUpdate, kmeans_of
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.protocols import callbacks_of
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.runs.averaging import AveragedWeights, averages, check_stochastic
from mcn_lightning.runs.resume import Resume
from mcn_lightning.runs.trainer_options import check_trainer


def ordered(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return callbacks in an order in which averaged weights are evaluated by all, and saved as of the same step.

    Lightning puts them in place when a validation begins and takes them away when it ends, in the order of the list:
    they come after whatever evaluates, and before ``Resume``, which saves.
    """
    return sorted(callbacks, key=lambda each: 1 if isinstance(each, WeightAveraging) else 2 * isinstance(each, Resume))


def default_callbacks(trainer: Trainer, module: LightningModule) -> list[Callback]:
    """Return what a run needs and the trainer lacks: those that the user gave are kept, with their options.

    k-means where the module clusters so, retrieval on the held-out clips, the state to go on from; speed where
    something logs it, the table of the benchmarks and what averaged weights need where there are any.

    Args:
        trainer: with the user's callbacks.
        module: the module that is trained or evaluated.

    Raises:
        InputError: if the trainer has an option or a callback that cannot be honoured.
    """
    check_trainer(trainer)
    check_stochastic(trainer, module)
    given = callbacks_of(trainer)
    given[:] = ordered(given)
    needed: dict[type[Callback], bool] = {
        CentroidUpdate: kmeans_of(module) is not None,
        RetrievalEvaluation: True,
        AveragedWeights: averages(trainer),
        Resume: True,
        Throughput: bool(trainer.loggers),
        BenchmarkReport: any(isinstance(callback, Benchmark) for callback in given),
    }
    missing = (kind for kind, wanted in needed.items() if wanted and not any(isinstance(each, kind) for each in given))
    return [kind() for kind in missing]
