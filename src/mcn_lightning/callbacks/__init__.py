"""What happens around the steps: re-clustering, evaluation, files, stopping and going on."""

from mcn_lightning.callbacks.benchmark import Benchmark, Figure
from mcn_lightning.callbacks.centroids import CentroidUpdate
from mcn_lightning.callbacks.checkpoints import WholeCheckpoints, last_checkpoint
from mcn_lightning.callbacks.clips import RecognitionBenchmark, RetrievalBenchmark
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.files import EmbeddingWriter, SaveConfig
from mcn_lightning.callbacks.localization import LocalizationBenchmark
from mcn_lightning.callbacks.other_runs import refuse_other_runs
from mcn_lightning.callbacks.report import BenchmarkReport
from mcn_lightning.callbacks.resume import Resume, Stopped

__all__ = [
    "Benchmark",
    "BenchmarkReport",
    "CentroidUpdate",
    "EmbeddingWriter",
    "Figure",
    "LocalizationBenchmark",
    "RecognitionBenchmark",
    "Resume",
    "RetrievalBenchmark",
    "RetrievalEvaluation",
    "SaveConfig",
    "Stopped",
    "WholeCheckpoints",
    "last_checkpoint",
    "refuse_other_runs",
]
