"""The benchmarks: readers of their files, their metrics, and the tables of results."""

from mcn_lightning.benchmarks.base import Benchmark, Result
from mcn_lightning.benchmarks.embedding import embed_batches, embed_clips, embed_texts
from mcn_lightning.benchmarks.files import EvaluationData
from mcn_lightning.benchmarks.localization import CrossTask, LocalizationBenchmark, MiningYouTube
from mcn_lightning.benchmarks.recognition import RecognitionBenchmark
from mcn_lightning.benchmarks.report import BenchmarkReport
from mcn_lightning.benchmarks.retrieval import RetrievalBenchmark

__all__ = [
    "Benchmark",
    "BenchmarkReport",
    "CrossTask",
    "EvaluationData",
    "LocalizationBenchmark",
    "MiningYouTube",
    "RecognitionBenchmark",
    "Result",
    "RetrievalBenchmark",
    "embed_batches",
    "embed_clips",
    "embed_texts",
]
