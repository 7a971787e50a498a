"""Benchmarks of temporal action localization: CrossTask and MiningYouTube."""

from mcn_lightning.benchmarks.localization.base import LocalizationBenchmark
from mcn_lightning.benchmarks.localization.crosstask import CrossTask
from mcn_lightning.benchmarks.localization.mining_youtube import MiningYouTube

__all__ = ["CrossTask", "LocalizationBenchmark", "MiningYouTube"]
