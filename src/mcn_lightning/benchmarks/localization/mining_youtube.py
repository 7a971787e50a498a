"""The benchmark MiningYouTube."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mcn_lightning.benchmarks.base import check_positive
from mcn_lightning.benchmarks.localization.annotations import LocalizationSet
from mcn_lightning.benchmarks.localization.base import LocalizationBenchmark
from mcn_lightning.benchmarks.localization.class_list import read_classes, read_lengths
from mcn_lightning.benchmarks.localization.mining_youtube_files import read_mining_youtube
from mcn_lightning.benchmarks.localization.videos import SecondsOfVideo
from mcn_lightning.metrics import RecallSoftmax


class MiningYouTube(LocalizationBenchmark):
    """MiningYouTube: localization of the entries of a video's transcript, by their log-softmax as released.

    Args:
        name: of the benchmark, in tables and logs.
        steps: the list of classes.
        annotations: folder of <id>.srt or <id>.gt.
        videos: a list of ids; by default all videos of the folder.
        recall_softmax: texts in the log-softmax of a second before step recall: none (similarities), steps (those of
            the video itself, as released) or all (the texts of all steps).
        lengths: file with the mean length of each class in frames; by default all entries have the same length.
        frame_rate: frames per second of that file, and of .gt files.
        unknown: treatment of annotations whose class is not in the list: error or leave_out.
        **options: of ``LocalizationBenchmark``.
    """

    def __init__(
        self,
        name: str,
        steps: str,
        annotations: str,
        videos: str | None = None,
        recall_softmax: RecallSoftmax = "steps",
        lengths: str | None = None,
        frame_rate: float = 30000 / 1001,  # NTSC, of the released example
        unknown: Literal["error", "leave_out"] = "error",
        **options: Any,
    ) -> None:
        super().__init__(name, steps, annotations, recall_softmax=recall_softmax, **options)
        check_positive(name, frame_rate=frame_rate)
        self.videos, self.lengths, self.frame_rate, self.unknown = videos, lengths, frame_rate, unknown

    def read(self, root: Path) -> LocalizationSet:
        """Read the annotations and the list of classes."""
        videos = None if self.videos is None else root / self.videos
        return read_mining_youtube(root / self.annotations, root / self.steps, videos, self.frame_rate, self.unknown)

    def read_lengths(self, root: Path) -> np.ndarray | None:
        """Read the mean length of each class in seconds, ``(S,)``, and of the background if it is listed."""
        if self.lengths is None:
            return None
        return read_lengths(root / self.lengths, read_classes(root / self.steps)) / self.frame_rate

    def recall_targets(self, video: SecondsOfVideo) -> tuple[slice | Sequence[int], np.ndarray]:
        """Return the entries of the video's transcript, in which a step may occur several times."""
        return [segment.step for segment in video.segments], video.entry_truth()
