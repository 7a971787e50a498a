"""What happens around the steps: re-clustering, evaluation, files, stopping and going on."""

from mcn_lightning.callbacks.benchmark import Benchmark, Figure
from mcn_lightning.callbacks.centroids import CentroidUpdate
from mcn_lightning.callbacks.checkpoints import WholeCheckpoints, best_checkpoint, last_checkpoint
from mcn_lightning.callbacks.embeddings import EmbeddingWriter, without_loggers
from mcn_lightning.callbacks.evaluation import RetrievalEvaluation
from mcn_lightning.callbacks.files import SaveConfig, run_folder
from mcn_lightning.callbacks.localization import LocalizationBenchmark
from mcn_lightning.callbacks.other_runs import refuse_other_runs
from mcn_lightning.callbacks.progress import ParameterSummary, Progress, with_displays
from mcn_lightning.callbacks.recognition import RecognitionBenchmark
from mcn_lightning.callbacks.record import RunRecord, provenance
from mcn_lightning.callbacks.report import BenchmarkReport
from mcn_lightning.callbacks.resume import Resume, Stopped
from mcn_lightning.callbacks.retrieval import RetrievalBenchmark
from mcn_lightning.callbacks.throughput import Throughput
from mcn_lightning.callbacks.tracking import (
    add_csv_logger,
    claim_folder,
    keep_metrics,
    read_wandb_id,
    release_folders,
    start_wandb,
)
from mcn_lightning.callbacks.trainer_options import bare, check_trainer, without_checkpoints

__all__ = [
    "Benchmark",
    "BenchmarkReport",
    "CentroidUpdate",
    "EmbeddingWriter",
    "Figure",
    "LocalizationBenchmark",
    "ParameterSummary",
    "Progress",
    "RecognitionBenchmark",
    "Resume",
    "RetrievalBenchmark",
    "RetrievalEvaluation",
    "RunRecord",
    "SaveConfig",
    "Stopped",
    "Throughput",
    "WholeCheckpoints",
    "add_csv_logger",
    "bare",
    "best_checkpoint",
    "check_trainer",
    "claim_folder",
    "keep_metrics",
    "last_checkpoint",
    "provenance",
    "read_wandb_id",
    "refuse_other_runs",
    "release_folders",
    "run_folder",
    "start_wandb",
    "with_displays",
    "without_checkpoints",
    "without_loggers",
]
