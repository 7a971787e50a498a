"""Reader of CrossTask (Zhukov et al., "Cross-task weakly supervised learning from instructional videos", 2019)."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mcn_lightning.benchmarks.localization.annotations import (
    LENGTH_ZERO,
    AnnotatedVideo,
    LocalizationSet,
    Segment,
    join_overlapping,
    runs,
)
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, read_lines

OTHER_TASKS = "videos of tasks that were not asked for"
NO_TIMES = "annotations without times or that end before they start"
JOINED = "annotations joined to an overlapping one of the same step"


def read_crosstask(videos: Path, steps: Path, annotations: Path, tasks: Sequence[str] | None = None) -> LocalizationSet:
    """Read the annotated videos of CrossTask.

    If a video has both a matrix and a text file, the matrix is read, as in the released evaluation. In a text file,
    lines may have any order, and segments of different steps may overlap. 993 of the 20,919 released segments overlap
    the next one. Overlapping segments of one step are joined and counted. The annotated seconds stay the same. This
    concerns 487 of the released ones, nearly all in the 49 files that hold the segments of two annotators. Segments of
    length 0, without times, or that end before they start are left out and counted; the release has none.

    Args:
        videos: the list of videos; see ``read_video_tasks``.
        steps: the steps of the tasks; see ``read_steps``.
        annotations: a folder with ``<task>_<id>.npy``, a ``(seconds, steps)`` matrix of 0 and 1, or ``<task>_<id>.csv``
            with lines ``step,start,end`` (step from 1, seconds) for each listed video. Other files are ignored.
        tasks: tasks whose videos are read, for instance the 18 primary ones; ``None`` for all listed.

    Returns:
        The steps of the tasks and the annotated videos.

    Raises:
        InputError: if a file is missing or malformed, the list has a video twice or one whose task has no steps, or a
            requested task has no steps or no videos.
    """
    texts, listed = read_steps(steps), read_video_tasks(videos)
    for task in tasks or ():
        if task not in texts:
            found = _first_names(texts)
            raise InputError(f"{steps}: expected the steps of task {task}, found only {found}: correct the task")
        if all(task != other for other, _ in listed):
            found = _first_names(sorted({task for task, _ in listed}))
            raise InputError(f"{videos}: expected videos of task {task}, found only {found}: correct the task")
    annotated, left_out, adjusted = list[AnnotatedVideo](), Counter[str](), Counter[str]()
    for (task, video), line in listed.items():
        if tasks is not None and task not in tasks:
            left_out[OTHER_TASKS] += 1
            continue
        if task not in texts:
            advice = "give the file that has them, or take its videos off the list"
            what = f"a task with steps in {steps}"
            raise InputError(f"{videos}: line {line}: expected {what}, found task {task} of {video}: {advice}")
        path = annotations / f"{task}_{video}.npy"
        if path.is_file():
            annotated.append(_read_matrix(path, task, video, len(texts[task])))
        else:
            path = annotations / f"{task}_{video}.csv"
            annotated.append(_read_segments(path, task, video, len(texts[task]), left_out, adjusted))
    return LocalizationSet(texts, tuple(annotated), dict(left_out), dict(adjusted))


def read_video_tasks(path: Path) -> dict[tuple[str, str], int]:
    """Read a list of videos and their tasks.

    Args:
        path: comma-separated values with the columns ``task`` and ``video_id`` in the header (``cvpr19_test.csv``), or
            without a header, task and id first (the release's ``videos_val.csv``).

    Returns:
        The line of each (task, id). A video may belong to two tasks.

    Raises:
        InputError: if the file is missing or without videos, a task has a video twice, or a line has no task or no id.
    """
    what = "a list of videos with the columns task and video_id"
    try:
        rows = list(csv.reader(read_lines(path, what)))
    except csv.Error as error:
        raise InputError(f"{path}: expected {what}, found {error}") from None
    header = [name.strip() for name in rows[0]] if rows else []
    first, columns = 0, (0, 1)
    if "task" in header or "video_id" in header:
        if not {"task", "video_id"} <= set(header):
            raise InputError(f"{path}: line 1: expected the columns task and video_id, found {','.join(header)}")
        first, columns = 1, (header.index("task"), header.index("video_id"))
    listed: dict[tuple[str, str], int] = {}
    for line, row in enumerate(rows[first:], first + 1):
        if not row:
            continue
        task, video = (row[column].strip() if column < len(row) else "" for column in columns)
        if not task or not video:
            raise InputError(f"{path}: line {line}: expected a task and a video id, found '{','.join(row)}'")
        if (earlier := listed.get((task, video))) is not None:
            what = f"each video of a task once, found {video} of task {task} in line {earlier} too"
            raise InputError(f"{path}: line {line}: expected {what}: remove one of the lines")
        listed[task, video] = line
    if not listed:
        raise InputError(f"{path}: expected one video a line, found none")
    return listed


def read_steps(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the texts of the steps of tasks.

    Args:
        path: JSON of ``{task: [text, ...]}`` (``.json``), or the release's ``tasks_primary.txt``. The latter has blocks
            of five lines: the task, its title, a URL, the number of steps, and the steps separated by commas.

    Returns:
        The texts of each task, in order.

    Raises:
        InputError: if the file is missing, malformed or without a task, has a task twice or without steps, or the
            number of steps is wrong.
    """
    tasks = _steps_of_json(path) if path.suffix == ".json" else _steps_of_blocks(path)
    if not tasks:
        raise InputError(f"{path}: expected tasks and their steps, found none")
    return tasks


def _steps_of_json(path: Path) -> dict[str, tuple[str, ...]]:
    what = "JSON of {task: [text of a step, ...]}"
    table = read_json(path, what)
    if not isinstance(table, dict):
        raise InputError(f"{path}: expected {what}, found a {type(table).__name__}")
    for task, texts in table.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError(f"{path}: task {task}: expected a list of the texts of its steps, found {texts!r:.80}")
    return {task: tuple(texts) for task, texts in table.items()}


def _steps_of_blocks(path: Path) -> dict[str, tuple[str, ...]]:
    lines, tasks = read_lines(path, "blocks of five lines with the steps of tasks"), dict[str, tuple[str, ...]]()
    for first, stop in _blocks(lines):
        what = "five lines of task, title, URL, number of steps and steps, and a blank line after them"
        if stop - first != 5:
            raise InputError(f"{path}: line {first + 1}: expected {what}, found {stop - first}")
        task, _, _, count, joined = lines[first:stop]
        texts = tuple(text.strip() for text in joined.split(","))
        if not count.isdecimal() or int(count) != len(texts):
            where = f"line {first + 4}: task {task}"
            raise InputError(f"{path}: {where}: expected the number of the {len(texts)} steps below, found {count}")
        if not all(texts):
            raise InputError(f"{path}: line {first + 5}: task {task}: expected a text for each step, found '{joined}'")
        if task in tasks:
            raise InputError(f"{path}: line {first + 1}: expected each task once, found {task} again: remove one")
        tasks[task] = texts
    return tasks


def _blocks(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return the first and stop index of each run of lines that are not blank."""
    return [(first, stop) for filled, first, stop in runs([int(bool(line)) for line in lines]) if filled]


def _read_segments(
    path: Path, task: str, video: str, steps: int, left_out: Counter[str], adjusted: Counter[str]
) -> AnnotatedVideo:
    found, zero = [], 0
    for number, line in enumerate(read_lines(path, f"the annotation of video {video}, here or as .npy"), 1):
        if not line:
            continue
        segment = _parse_segment(path, number, line, steps)
        if not 0 <= segment.start <= segment.end < math.inf:
            left_out[NO_TIMES] += 1
        elif segment.start == segment.end:
            zero += 1
        else:
            found.append(segment)
    if not found:
        what = "at least one annotation step,start,end that lasts"
        raise InputError(f"{path}: expected {what}, found none: get the file again, or take {video} off the list")
    segments, joined = join_overlapping(found)
    left_out.update({LENGTH_ZERO: zero} if zero else {})
    adjusted.update({JOINED: joined} if joined else {})
    return AnnotatedVideo(video, task, tuple(segments), path)


def _parse_segment(path: Path, number: int, line: str, steps: int) -> Segment:
    where = f"{path}: line {number}"
    try:
        step, start, end = (kind(part) for kind, part in zip((int, float, float), line.split(","), strict=True))
    except ValueError:
        raise InputError(f"{where}: expected step,start,end as numbers, times in seconds, found '{line}'") from None
    if not 1 <= step <= steps:
        raise InputError(f"{where}: expected a step from 1 to {steps}, the steps of this task, found {step}")
    return Segment(int(step) - 1, start, end, f"line {number}")


def _read_matrix(path: Path, task: str, video: str, steps: int) -> AnnotatedVideo:
    what = f"a matrix of 0 and 1 of shape (seconds, {steps})"
    try:
        with open(path, "rb") as file:
            matrix = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: expected {what}, found no such array ({' '.join(str(error).split())})") from None
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected {what}, found an array of {matrix.dtype}: save it as one of numbers")
    if matrix.ndim != 2 or matrix.shape[1] != steps or not len(matrix):
        raise InputError(f"{path}: expected {what}, one column a step of task {task}, found {matrix.shape}")
    if (bad := matrix[(matrix != 0) & (matrix != 1)]).size:
        raise InputError(f"{path}: expected {what}, found {bad.size} other numbers such as {bad[0]:g}")
    truth = matrix.astype(bool)
    segments = [
        Segment(step, float(first), float(stop), f"rows {first} to {stop - 1}")
        for step in range(steps)
        for marked, first, stop in runs(truth[:, step])
        if marked
    ]
    if not segments:
        raise InputError(f"{path}: expected at least one 1, found only 0: take {video} off the list")
    return AnnotatedVideo(video, task, tuple(join_overlapping(segments)[0]), path, truth)


def _first_names(names: Sequence[str] | dict[str, tuple[str, ...]]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
