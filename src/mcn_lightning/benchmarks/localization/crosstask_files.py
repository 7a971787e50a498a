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
)
from mcn_lightning.benchmarks.localization.lines import Line, read_blocks, read_filled, require, runs
from mcn_lightning.files import read_json, read_lines, reading

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
        steps_of, with_videos = _first_names(texts), _first_names(sorted({task for task, _ in listed}))
        require(task in texts, steps, f"the steps of task {task}", f"only {steps_of}", "correct the task")
        known = any(task == other for other, _ in listed)
        require(known, videos, f"videos of task {task}", f"only {with_videos}", "correct the task")
    annotated, left_out, adjusted = list[AnnotatedVideo](), Counter[str](), Counter[str]()
    for (task, video), line in listed.items():
        if tasks is not None and task not in tasks:
            left_out[OTHER_TASKS] += 1
            continue
        advice = "give the file that has them, or take its videos off the list"
        line.require(task in texts, f"a task with steps in {steps}", f"task {task} of {video}", advice)
        path = annotations / f"{task}_{video}.npy"
        if path.is_file():
            annotated.append(_read_matrix(path, task, video, len(texts[task])))
        else:
            path = annotations / f"{task}_{video}.csv"
            annotated.append(_read_segments(path, task, video, len(texts[task]), left_out, adjusted))
    return LocalizationSet(texts, tuple(annotated), dict(left_out), dict(adjusted))


def read_video_tasks(path: Path) -> dict[tuple[str, str], Line]:
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
    with reading(path, what, csv.Error):
        rows = list(csv.reader(read_lines(path, what)))
    header = [name.strip() for name in rows[0]] if rows else []
    first, columns = 0, (0, 1)
    if "task" in header or "video_id" in header:
        both = {"task", "video_id"} <= set(header)
        Line(path, 1, ",".join(header)).require(both, "the columns task and video_id", ",".join(header))
        first, columns = 1, (header.index("task"), header.index("video_id"))
    listed: dict[tuple[str, str], Line] = {}
    for number, row in enumerate(rows[first:], first + 1):
        # the csv module gives an empty row for a blank line
        if not row:
            continue
        line = Line(path, number, ",".join(row))
        task, video = (row[column].strip() if column < len(row) else "" for column in columns)
        line.require(bool(task and video), "a task and a video id")
        earlier = listed.setdefault((task, video), line)
        found = f"{video} of task {task} in line {earlier.number} too"
        line.require(earlier is line, "each video of a task once", found, "remove one of the lines")
    require(bool(listed), path, "one video a line", "none")
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
    require(bool(tasks), path, "tasks and their steps", "none")
    return tasks


def _steps_of_json(path: Path) -> dict[str, tuple[str, ...]]:
    what = "JSON of {task: [text of a step, ...]}"
    table = read_json(path, what)
    require(isinstance(table, dict), path, what, f"a {type(table).__name__}")
    for task, texts in table.items():
        filled = isinstance(texts, list) and texts and all(isinstance(text, str) and text for text in texts)
        require(bool(filled), f"{path}: task {task}", "a list of the texts of its steps", f"{texts!r:.80}")
    return {task: tuple(texts) for task, texts in table.items()}


def _steps_of_blocks(path: Path) -> dict[str, tuple[str, ...]]:
    tasks = dict[str, tuple[str, ...]]()
    for block in read_blocks(path, "blocks of five lines with the steps of tasks"):
        what = "five lines of task, title, URL, number of steps and steps, and a blank line after them"
        block[0].require(len(block) == 5, what, len(block))
        task, count, joined = block[0].text, block[3], block[4]
        texts = tuple(text.strip() for text in joined.text.split(","))
        right = count.text.isdecimal() and int(count.text) == len(texts)
        count.require(right, f"the number of the {len(texts)} steps of task {task} below", count.text)
        joined.require(all(texts), f"a text for each step of task {task}")
        block[0].require(task not in tasks, "each task once", f"{task} again", "remove one")
        tasks[task] = texts
    return tasks


def _read_segments(
    path: Path, task: str, video: str, steps: int, left_out: Counter[str], adjusted: Counter[str]
) -> AnnotatedVideo:
    found, zero = [], 0
    for line in read_filled(path, f"the annotation of video {video}, here or as .npy"):
        segment = _parse_segment(line, steps)
        if not 0 <= segment.start <= segment.end < math.inf:
            left_out[NO_TIMES] += 1
        elif segment.start == segment.end:
            zero += 1
        else:
            found.append(segment)
    advice = f"get the file again, or take {video} off the list"
    require(bool(found), path, "at least one annotation step,start,end that lasts", "none", advice)
    segments, joined = join_overlapping(found)
    left_out.update({LENGTH_ZERO: zero} if zero else {})
    adjusted.update({JOINED: joined} if joined else {})
    return AnnotatedVideo(video, task, tuple(segments), path)


def _parse_segment(line: Line, steps: int) -> Segment:
    step, start, end = line.columns("step,start,end as numbers, times in seconds", (int, float, float), ",")
    line.require(1 <= step <= steps, f"a step from 1 to {steps}, the steps of this task", step)
    return Segment(int(step) - 1, start, end, f"line {line.number}")


def _read_matrix(path: Path, task: str, video: str, steps: int) -> AnnotatedVideo:
    what = f"a matrix of 0 and 1 of shape (seconds, {steps})"
    with reading(path, what, EOFError, ValueError), open(path, "rb") as file:
        # not np.load, which would also open a zip archive
        matrix = np.lib.format.read_array(file, allow_pickle=False)
    require(matrix.dtype.kind in "biuf", path, what, f"an array of {matrix.dtype}", "save it as one of numbers")
    filled = matrix.ndim == 2 and matrix.shape[1] == steps and len(matrix) > 0
    require(filled, path, f"{what}, one column a step of task {task}", matrix.shape)
    bad = matrix[(matrix != 0) & (matrix != 1)]
    require(not bad.size, path, what, f"{bad.size} other numbers such as {', '.join(f'{one:g}' for one in bad[:1])}")
    truth = matrix.astype(bool)
    segments = [
        Segment(step, float(first), float(stop), f"rows {first} to {stop - 1}")
        for step in range(steps)
        for marked, first, stop in runs(truth[:, step])
        if marked
    ]
    require(bool(segments), path, "at least one 1", "only 0", f"take {video} off the list")
    # runs of one step cannot overlap: this only sorts them by their start
    return AnnotatedVideo(video, task, tuple(join_overlapping(segments)[0]), path, truth)


def _first_names(names: Sequence[str] | dict[str, tuple[str, ...]]) -> str:
    listed = list(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
