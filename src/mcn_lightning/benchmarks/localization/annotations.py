"""When the steps of a task happen in a video: the types that the readers of annotated benchmarks return.

S stands for the steps of a task, T for the whole seconds of a video.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from mcn_lightning.errors import InputError

LENGTH_ZERO = "annotations of length 0"


@dataclass(frozen=True)
class Segment:
    """The seconds in which a step happens.

    Args:
        step: index of the step in its task, from 0.
        start: in seconds.
        end: in seconds, after ``start``.
        item: which item of the file it was read from, for messages: "line 3", "annotation 12".
    """

    step: int
    start: float
    end: float
    item: str = field(default="", compare=False)

    def seconds(self) -> slice:
        """Return the whole seconds that it marks: ``floor(start)`` to ``ceil(end)``, the end excluded."""
        return slice(math.floor(self.start), math.ceil(self.end))


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """What is annotated in one video.

    Args:
        id: of the video.
        task: name of the task whose steps are annotated.
        segments: in order of their start; those of different steps may overlap. Their steps in this order are the
            transcript of the video.
        file: what they were read from, for messages.
        truth: the annotation where it is a matrix, ``(T, S)`` bool; its runs are the segments too.
    """

    id: str
    task: str
    segments: tuple[Segment, ...]
    file: Path
    truth: np.ndarray | None = None

    @property
    def seconds(self) -> int | None:
        """T where the annotation is a matrix, whose rows the features are then brought to."""
        return None if self.truth is None else len(self.truth)


@dataclass(frozen=True, eq=False)
class LocalizationSet:
    """The annotated videos of a benchmark.

    Args:
        tasks: texts of the steps of each task; those of a task that no video shows are there too.
        videos: in the order of their list.
        left_out: what was not taken over from the files and how often, in words for a table.
        adjusted: what was read as something else than stands there and how often, in words for a table.
    """

    tasks: Mapping[str, tuple[str, ...]]
    videos: tuple[AnnotatedVideo, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    adjusted: Mapping[str, int] = field(default_factory=dict)

    def truth_matrix(self, video: AnnotatedVideo, seconds: int) -> np.ndarray:
        """Return which step happens in which second.

        A segment marks the seconds ``floor(start)`` to ``ceil(end)`` of its step, the end excluded, as CrossTask's
        released evaluation does; an annotation that is a matrix is returned as it is.

        Args:
            video: one of this set's.
            seconds: T; where the annotation is a matrix, its rows.

        Returns:
            ``(T, S)`` bool.

        Raises:
            ValueError: if the annotation is a matrix of another length.
        """
        if video.truth is not None:
            if len(video.truth) != seconds:
                raise ValueError(f"{video.file}: {seconds} seconds were asked of a matrix of {len(video.truth)} rows")
            return video.truth
        truth = np.zeros((seconds, len(self.tasks[video.task])), dtype=bool)
        for segment in video.segments:
            truth[segment.seconds(), segment.step] = True
        return truth


def check_length(
    video: AnnotatedVideo, seconds: float, tolerance: float = 5.0
) -> tuple[AnnotatedVideo, dict[str, int]]:
    """Hold the annotation of a video against the length of the video, once it is known.

    Features are stored by whole seconds or frames, so an annotation may end a little after them: it is cut at the end
    of the video, and one that would start there is left out. More than that is the annotation of another video.

    Args:
        video: what is annotated.
        seconds: length of the video's features.
        tolerance: seconds by which an annotation may end after them, or by which the rows of a matrix may differ.

    Returns:
        The video with its segments cut, and how often what was done, in words for a table; nothing is done to a matrix.

    Raises:
        InputError: if an annotation lies further outside, or a matrix is that much longer or shorter.
    """
    advice = "check that annotation and features are of the same video"
    if video.truth is not None:
        rows = len(video.truth)
        if abs(rows - seconds) > tolerance:
            what = f"a matrix of about {seconds:g} rows, the seconds of {video.id}'s features"
            raise InputError(f"{video.file}: expected {what}, found {rows}: {advice}")
        return video, {}
    kept, done = [], Counter[str]()
    for segment in video.segments:
        if segment.end > seconds + tolerance:
            what = f"an annotation within the {seconds:g} s of {video.id}'s features"
            found = f"{segment.start:g} to {segment.end:g} s"
            raise InputError(f"{video.file}: {segment.item}: expected {what}, found {found}: {advice}")
        if segment.start >= seconds:
            done["annotations that start after the end of the video, left out"] += 1
            continue
        if segment.end > seconds:
            done["annotations cut at the end of the video"] += 1
        kept.append(replace(segment, end=min(segment.end, seconds)))
    return replace(video, segments=tuple(kept)), dict(done)


def join_overlapping(segments: Iterable[Segment]) -> tuple[list[Segment], int]:
    """Join segments of one step that overlap into one, from the first start to the last end.

    Args:
        segments: of a video, in any order.

    Returns:
        The segments in order of start, end and step, and how many were joined to an earlier one. Those of different
        steps, and those that only touch, stay as they are.
    """
    joined: list[Segment] = []
    last: dict[int, int] = {}  # place of the latest segment of each step
    count = 0
    for segment in sorted(segments, key=_by_start):
        place = last.get(segment.step)
        if place is not None and segment.start < joined[place].end:
            earlier = joined[place]
            end = max(earlier.end, segment.end)
            joined[place] = replace(earlier, end=end, item=f"{earlier.item} and {segment.item}")
            count += 1
        else:
            last[segment.step] = len(joined)
            joined.append(segment)
    return sorted(joined, key=_by_start), count


def _by_start(segment: Segment) -> tuple[float, float, int]:
    return segment.start, segment.end, segment.step


def runs(labels: Sequence[int] | np.ndarray) -> list[tuple[int, int, int]]:
    """Return the runs of equal labels as (label, first, stop), stop excluded."""
    values = np.asarray(labels)
    if not len(values):
        return []
    bounds = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    return [(int(values[first]), first, stop) for first, stop in pairwise(bounds)]
