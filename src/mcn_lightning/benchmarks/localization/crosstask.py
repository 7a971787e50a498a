"""The benchmark CrossTask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mcn_lightning.benchmarks.localization.annotations import LocalizationSet
from mcn_lightning.benchmarks.localization.base import LocalizationBenchmark
from mcn_lightning.benchmarks.localization.crosstask_files import read_crosstask
from mcn_lightning.benchmarks.localization.videos import SecondsOfVideo


class CrossTask(LocalizationBenchmark):
    """CrossTask: localization of the steps of a video's task, by similarities.

    Recall and average precision are reported for each task and as means over tasks.

    Args:
        name: of the benchmark, in tables and logs.
        videos: the list of videos, cvpr19_test.csv or videos_val.csv.
        steps: JSON {task: [step, ...]} or tasks_primary.txt.
        annotations: folder of <task>_<id>.csv or .npy.
        **options: of ``LocalizationBenchmark``.
    """

    per_task = True

    def __init__(self, name: str, videos: str, steps: str, annotations: str, **options: Any) -> None:
        super().__init__(name, steps, annotations, **options)
        self.videos = videos

    def read(self, root: Path) -> LocalizationSet:
        """Read the annotations, and the steps of the tasks that have a video."""
        found = read_crosstask(root / self.videos, root / self.steps, root / self.annotations)
        # texts of other tasks would take part in the log-softmax over all steps
        listed = {video.task for video in found.videos}
        return replace(found, tasks={task: texts for task, texts in found.tasks.items() if task in listed})

    def recall_targets(self, video: SecondsOfVideo) -> tuple[slice | Sequence[int], np.ndarray]:
        """Return the steps of the video's task."""
        return video.columns, video.truth
