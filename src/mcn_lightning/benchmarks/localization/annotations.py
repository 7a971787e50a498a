"""Annotations of steps in videos: the types that the readers of localization benchmarks return.

S stands for the steps of a task, T for the whole seconds of a video.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mcn_lightning.benchmarks.localization.lines import require

LENGTH_ZERO = "annotations of length 0"


@dataclass(frozen=True)
class Segment:
    """The annotated interval of a step.

    Args:
        step: index of the step in its task, from 0.
        start: in seconds.
        end: in seconds, after ``start``.
        item: its position in the file, for messages: "line 3", "annotation 12".
    """

    step: int
    start: float
    end: float
    item: str = field(default="", compare=False)

    def seconds(self) -> slice:
        """Return the whole seconds that it covers: ``floor(start)`` to ``ceil(end)``, the end excluded."""
        return slice(math.floor(self.start), math.ceil(self.end))


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """The annotation of one video.

    Args:
        id: of the video.
        task: name of the task whose steps are annotated.
        segments: in order of their start. Segments of different steps may overlap. Their steps in this order are the
            transcript of the video.
        file: that they were read from, for messages.
        truth: the annotation as a matrix, ``(T, S)`` bool, if the file holds one. The segments are its runs.
    """

    id: str
    task: str
    segments: tuple[Segment, ...]
    file: Path
    truth: np.ndarray | None = None

    @property
    def seconds(self) -> int | None:
        """T if the annotation is a matrix; the features are then pooled to its rows."""
        return None if self.truth is None else len(self.truth)


@dataclass(frozen=True, eq=False)
class LocalizationSet:
    """The annotated videos of a benchmark.

    Args:
        tasks: texts of the steps of each task, also of tasks without a video.
        videos: in the order of their list.
        left_out: counts of entries that were not used, by a text for the table.
        adjusted: counts of entries that were changed while reading, by a text for the table.
    """

    tasks: Mapping[str, tuple[str, ...]]
    videos: tuple[AnnotatedVideo, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    adjusted: Mapping[str, int] = field(default_factory=dict)

    def truth_matrix(self, video: AnnotatedVideo, seconds: int) -> np.ndarray:
        """Return which step happens in which second.

        A segment covers the seconds ``floor(start)`` to ``ceil(end)``, the end excluded, as in CrossTask's released
        evaluation. An annotation that is a matrix is returned as it is.

        Args:
            video: of this set.
            seconds: T; the number of rows if the annotation is a matrix.

        Returns:
            ``(T, S)`` bool.

        Raises:
            ValueError: if the annotation is a matrix of another length.
        """
        if video.truth is not None:
            if len(video.truth) != seconds:
                raise ValueError(f"{video.file}: expected a matrix of {seconds} rows, found {len(video.truth)}")
            return video.truth
        truth = np.zeros((seconds, len(self.tasks[video.task])), dtype=bool)
        for segment in video.segments:
            truth[segment.seconds(), segment.step] = True
        return truth


def check_length(
    video: AnnotatedVideo, seconds: float, tolerance: float = 5.0
) -> tuple[AnnotatedVideo, dict[str, int]]:
    """Check the annotation of a video against the length of its features, and cut it there.

    Features are stored by whole seconds or frames, so an annotation may end a little after them. It is cut at the end
    of the video. One that starts after the end is left out. A larger difference means the annotation of another video.

    Args:
        video: with its annotation.
        seconds: length of the video's features.
        tolerance: seconds by which an annotation may end after the features, or by which the rows of a matrix may
            differ.

    Returns:
        The video with its segments cut, and counts of the changes by a text for the table. A matrix is not changed.

    Raises:
        InputError: if an annotation exceeds the tolerance, or the length of a matrix does.
    """
    advice = "check that annotation and features are of the same video"
    if video.truth is not None:
        rows, what = len(video.truth), f"a matrix of about {seconds:g} rows, the seconds of {video.id}'s features"
        require(abs(rows - seconds) <= tolerance, video.file, what, rows, advice)
        return video, {}
    kept, done = [], Counter[str]()
    for segment in video.segments:
        what = f"an annotation within the {seconds:g} s of {video.id}'s features"
        found = f"{segment.start:g} to {segment.end:g} s"
        require(segment.end <= seconds + tolerance, f"{video.file}: {segment.item}", what, found, advice)
        if segment.start >= seconds:
            done["annotations that start after the end of the video, left out"] += 1
            continue
        if segment.end > seconds:
            done["annotations cut at the end of the video"] += 1
        kept.append(replace(segment, end=min(segment.end, seconds)))
    return replace(video, segments=tuple(kept)), dict(done)


def join_overlapping(segments: Iterable[Segment]) -> tuple[list[Segment], int]:
    """Join overlapping segments of one step into one, from the first start to the last end.

    Args:
        segments: of a video, in any order.

    Returns:
        The segments in order of start, end and step, and how many were joined to an earlier one. Segments of different
        steps, and segments that only touch, are not joined.
    """
    joined: list[Segment] = []
    last: dict[int, int] = {}  # index of the latest segment of each step
    count = 0
    for segment in sorted(segments, key=_by_start):
        position = last.get(segment.step)
        # strictly before: a step that is done again at once is two segments
        if position is not None and segment.start < joined[position].end:
            earlier = joined[position]
            end = max(earlier.end, segment.end)
            joined[position] = replace(earlier, end=end, item=f"{earlier.item} and {segment.item}")
            count += 1
        else:
            last[segment.step] = len(joined)
            joined.append(segment)
    return sorted(joined, key=_by_start), count


def _by_start(segment: Segment) -> tuple[float, float, int]:
    return segment.start, segment.end, segment.step
