"""The default callbacks that a module adds to its trainer."""

from __future__ import annotations

from collections.abc import Sequence

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging

from mcn_lightning.benchmarks.base import Benchmark
from mcn_lightning.benchmarks.report import BenchmarkReport
from mcn_lightning.callbacks.centroids import CentroidUpdate, kmeans_clustering
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.late_logs import LateLogs
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.runs.averaging import AveragedWeights, averages_weights, check_stochastic
from mcn_lightning.runs.lightning import callbacks_of, set_ddp_defaults
from mcn_lightning.runs.resume import Resume
from mcn_lightning.runs.trainer_options import check_trainer


def ordered(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return callbacks in the order that averaged weights need: evaluation first, then averaging, then ``Resume``.

    Lightning swaps the averaged weights in when a validation begins and out when it ends, in the order of the list.
    Callbacks that evaluate must come before the swap out, and ``Resume`` must save the weights after it.
    """
    return sorted(
        callbacks, key=lambda callback: 1 if isinstance(callback, WeightAveraging) else 2 * isinstance(callback, Resume)
    )


def default_callbacks(trainer: Trainer, module: LightningModule) -> list[Callback]:
    """Return the callbacks that a run needs and that the user did not give.

    They are k-means for a module that clusters by it, retrieval on the held-out clips, and the state for resuming.
    Throughput and late logs need a logger. The table of benchmarks and the averaging of weights come only where they
    are used.

    Args:
        trainer: whose callbacks are the user's.
        module: the module that is trained or evaluated.

    Raises:
        InputError: if the trainer has an option or a callback that cannot be honoured.
    """
    check_trainer(trainer)
    check_stochastic(trainer, module)
    set_ddp_defaults(trainer)
    given = callbacks_of(trainer)
    # in place, as the trainer holds this list
    given[:] = ordered(given)
    needed: dict[type[Callback], bool] = {
        CentroidUpdate: kmeans_clustering(module) is not None,
        RetrievalEvaluation: True,
        AveragedWeights: averages_weights(trainer),
        Resume: True,
        Throughput: bool(trainer.loggers),
        LateLogs: bool(trainer.loggers),
        BenchmarkReport: any(isinstance(callback, Benchmark) for callback in given),
    }
    missing = (
        kind for kind, wanted in needed.items() if wanted and not any(isinstance(callback, kind) for callback in given)
    )
    return [kind() for kind in missing]
