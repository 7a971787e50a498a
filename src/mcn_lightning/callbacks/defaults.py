"""The callbacks that a module brings to a trainer which has none of their class."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.callbacks.benchmark import Benchmark
from mcn_lightning.callbacks.centroids import CentroidUpdate
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.report import BenchmarkReport
from mcn_lightning.callbacks.resume import Resume
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.clustering import CentroidClustering


def default_callbacks(trainer: Trainer, module: LightningModule) -> list[Callback]:
    """Return what a run needs and the trainer lacks: those that the user gave are kept, with their options.

    k-means where the module clusters so, retrieval on the held-out clips, the state to go on from; speed where
    something logs it, and the table of the benchmarks where there are any.

    Args:
        trainer: with the user's callbacks.
        module: the module that is trained or evaluated.
    """
    given = trainer.callbacks  # type: ignore[attr-defined]
    needed: dict[type[Callback], bool] = {
        CentroidUpdate: isinstance(getattr(module, "clustering", None), CentroidClustering),
        RetrievalEvaluation: True,
        Resume: True,
        Throughput: bool(trainer.loggers),
        BenchmarkReport: any(isinstance(callback, Benchmark) for callback in given),
    }
    missing = (kind for kind, wanted in needed.items() if wanted and not any(isinstance(each, kind) for each in given))
    return [kind() for kind in missing]
