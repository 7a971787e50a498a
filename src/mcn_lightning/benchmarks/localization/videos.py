"""Annotated videos with their features, second by second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.benchmarks.files import EvaluationText
from mcn_lightning.benchmarks.localization.annotations import AnnotatedVideo, LocalizationSet, check_length
from mcn_lightning.benchmarks.localization.features import audio_windows, open_features, pool_seconds
from mcn_lightning.data.files.spectrograms import FRAME_RATE
from mcn_lightning.data.sources.howto100m import VideoLayout


class SecondsOfVideo:
    """One annotated video, second by second.

    Args:
        videos: the set that it belongs to.
        video: its annotation.
        finite: whether its features are read and checked. Otherwise only the headers of the files are.
    """

    def __init__(self, videos: EvaluationVideos, video: AnnotatedVideo, finite: bool = True) -> None:
        self.id, self.task, self._set = video.id, video.task, videos
        features = open_features(videos.layout, video.id, finite)
        video, changed = check_length(video, features.seconds)
        self.changed = changed
        self.segments = video.segments
        self.changed.update(_short_sound(features.frames, features.seconds))
        # a matrix has a row for each second, and the features are pooled to its rows
        self.seconds = video.seconds or features.seconds
        self.truth = videos.annotated.truth_matrix(video, self.seconds)
        self._features = features

    @property
    def columns(self) -> slice:
        """Columns of the task's texts among all texts."""
        first = self._set.first[self.task]
        return slice(first, first + len(self._set.annotated.tasks[self.task]))

    def column(self, step: int) -> int:
        """Return the column of a step's text among all texts. Step -1 is the background."""
        return len(self._set.texts) - 1 if step < 0 else self._set.first[self.task] + step

    def entry_truth(self) -> np.ndarray:
        """Return in which seconds each segment happens, ``(T, segments)`` bool, by the rule of ``truth_matrix``."""
        truth = np.zeros((self.seconds, len(self.segments)), dtype=bool)
        for number, segment in enumerate(self.segments):
            truth[segment.seconds(), number] = True
        return truth

    def batches(self, device: torch.device | str) -> Iterator[ClipBatch]:
        """Yield the seconds of the video as batches of clips, in order."""
        videos, found = self._set, self._features
        rows = [pool_seconds(stream, self.seconds) for stream in found.rows]
        visual = torch.cat(rows, dim=1) if rows else None
        frames = starts = lengths = None
        if found.frames is not None:
            # all frames once, as neighbouring windows overlap by seven of eight seconds
            frames = found.frames.T.contiguous().to(device)
            starts, lengths = audio_windows(frames.shape[0], self.seconds, videos.window, videos.audio_frames)
        for first in range(0, self.seconds, videos.batch_size):
            some = slice(first, min(first + videos.batch_size, self.seconds))
            batch = ClipBatch(
                ids=tuple(f"{self.id}:{second}" for second in range(some.start, some.stop)),
                video=None if visual is None else visual[some],
                video_widths=tuple(stream.width for stream in videos.layout.streams) if rows else (),
                frames=frames,
                frame_start=None if starts is None else starts[some],
                audio_frames=None if lengths is None else lengths[some],
                num_frames=videos.audio_frames,
                pad_value=videos.layout.audio.pad_value,
            )
            yield batch.to(device).ready()


def _short_sound(frames: Tensor | None, seconds: float, tolerance: float = 5.0) -> dict[str, int]:
    """Count a video whose spectrogram ends long before its visual features; the rest is treated as silence."""
    short = frames is not None and frames.shape[1] / FRAME_RATE < seconds - tolerance
    return {"videos whose sound ends more than 5 s before their features": 1} if short else {}


class EvaluationVideos:
    """The annotated videos of a benchmark with their features.

    Args:
        annotated: the annotations.
        layout: folders, streams, and which modalities are read.
        text: word vectors of the steps' texts.
        texts: texts of all steps of all tasks, followed by the background if it takes part.
        lengths: mean length of each text in seconds, or ``None``.
        window: seconds of sound around each second.
        audio_frames: frames that these are cut or padded to.
        batch_size: seconds of a batch.
    """

    def __init__(
        self,
        annotated: LocalizationSet,
        layout: VideoLayout,
        text: EvaluationText,
        texts: Sequence[str],
        lengths: np.ndarray | None,
        window: float,
        audio_frames: int,
        batch_size: int,
    ) -> None:
        self.annotated, self.layout, self.text, self.texts, self.lengths = annotated, layout, text, texts, lengths
        self.window, self.audio_frames, self.batch_size = window, audio_frames, batch_size
        self.first, size = {}, 0
        for task, steps in annotated.tasks.items():
            self.first[task], size = size, size + len(steps)
        self.changed = {**annotated.left_out, **annotated.adjusted}
        if unknown := text.unknown(texts):
            self.changed["texts of steps without a known word"] = unknown

    def __len__(self) -> int:
        return len(self.annotated.videos)

    def task(self, number: int) -> str:
        """Return the task of a video."""
        return self.annotated.videos[number].task

    def open(self, number: int, finite: bool = True) -> SecondsOfVideo:
        """Open a video. If not ``finite``, its features are not read.

        Raises:
            InputError: if its features cannot be used, or do not match its annotation.
        """
        return SecondsOfVideo(self, self.annotated.videos[number], finite)
