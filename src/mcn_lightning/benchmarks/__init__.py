"""The benchmarks: their files on disk, what they measure, and the tables of what came out."""

from mcn_lightning.benchmarks.base import Benchmark, Figure
from mcn_lightning.benchmarks.localization import LocalizationBenchmark
from mcn_lightning.benchmarks.recognition import RecognitionBenchmark
from mcn_lightning.benchmarks.report import BenchmarkReport
from mcn_lightning.benchmarks.retrieval import RetrievalBenchmark

__all__ = [
    "Benchmark",
    "BenchmarkReport",
    "Figure",
    "LocalizationBenchmark",
    "RecognitionBenchmark",
    "RetrievalBenchmark",
]
