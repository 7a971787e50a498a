"""CrossTask: the released files, matrices, and what bad ones get."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from mcn_lightning.benchmarks.localization.annotations import (
    AnnotatedVideo,
    LocalizationSet,
    Segment,
    check_length,
    join_overlapping,
)
from mcn_lightning.benchmarks.localization.crosstask_files import (
    JOINED,
    OTHER_TASKS,
    read_crosstask,
    read_steps,
    read_video_tasks,
)
from mcn_lightning.errors import InputError


@pytest.fixture
def release(annotations) -> Path:
    return annotations / "crosstask_release"


def test_the_steps_of_the_18_primary_tasks(release):
    tasks = read_steps(release / "tasks_primary.txt")
    assert len(tasks) == 18 and sum(map(len, tasks.values())) == 133
    assert list(tasks)[::17] == ["23521", "91515"]
    assert tasks["16815"] == ("brake on", "raise jack", "lower jack")
    assert len(read_steps(release / "tasks_related.txt")) == 65


def test_the_validation_list(release):
    found = read_crosstask(release / "videos_val.csv", release / "tasks_primary.txt", release / "annotations")
    assert len(found.videos) == 360 and len({video.task for video in found.videos}) == 18
    assert (found.videos[0].task, found.videos[0].id) == ("105222", "rzxVluau83Q")
    assert found.left_out == {} and found.adjusted == {JOINED: 82}


def test_all_2750_annotation_files_keep_every_second(release):
    primary = list(read_steps(release / "tasks_primary.txt"))
    annotations = release / "annotations"
    found = read_crosstask(release / "videos.csv", release / "tasks_primary.txt", annotations, primary)
    assert found.left_out == {OTHER_TASKS: 1950} and found.adjusted == {JOINED: 487}
    assert len(found.videos) == len(list(annotations.iterdir())) == 2750
    assert sum(len(video.segments) for video in found.videos) == 20919 - 487
    for video in found.videos:
        assert list(video.segments) == sorted(video.segments, key=lambda segment: segment.start)
        assert video.seconds is None and all(0 <= segment.start < segment.end for segment in video.segments)
        rows = [line.split(",") for line in video.file.read_text().split()]
        seconds = max(math.ceil(float(end)) for _, _, end in rows)
        truth = np.zeros((seconds, len(found.tasks[video.task])), dtype=bool)
        for step, start, end in rows:
            truth[math.floor(float(start)) : math.ceil(float(end)), int(step) - 1] = True
        assert np.array_equal(found.truth_matrix(video, seconds), truth)
        assert np.array_equal(found.truth_matrix(video, 40), np.pad(truth, [(0, 40), (0, 0)])[:40])
        assert check_length(video, seconds)[1] == {}


def test_only_videos_of_the_tasks_that_are_asked_for(release):
    arguments = (release / "videos_val.csv", release / "tasks_primary.txt", release / "annotations")
    found = read_crosstask(*arguments, tasks=["16815", "23521"])
    assert {video.task for video in found.videos} == {"16815", "23521"}
    assert len(found.videos) == 40 and found.left_out == {OTHER_TASKS: 320}
    with pytest.raises(InputError, match=r"tasks_primary.txt: expected the steps of task 7, found only 23521, 59684, "):
        read_crosstask(*arguments, tasks=["7"])
    with pytest.raises(
        InputError, match=r"videos.csv: line 1\d*: expected a task with steps in .*, found task \d+ of "
    ):
        read_crosstask(release / "videos.csv", *arguments[1:])


def write(folder: Path, **files: object) -> tuple[Path, Path, Path]:
    """A benchmark of one video of one task with two steps; ``files`` replaces files, by a name without its ending."""
    content = {
        "videos": "task,video_id,url\n7,abc_-1,there\n",
        "steps": json.dumps({"7": ["stir it", "serve"]}),
        **files,
    }
    (folder / "annotations").mkdir()
    (folder / "videos.csv").write_text(str(content["videos"]))
    steps = folder / ("steps.json" if str(content["steps"]).startswith(("{", "[")) else "steps.txt")
    steps.write_text(str(content["steps"]))
    path = folder / "annotations" / "7_abc_-1.csv"
    if content.get("csv", "") is not None:
        path.write_text(str(content.get("csv", "2,5.5,8\n1,1,2.25\n")))
    if "npy" in content:
        np.save(path.with_suffix(".npy"), content["npy"])
    return folder / "videos.csv", steps, folder / "annotations"


def test_a_header_a_json_file_and_lines_out_of_order(tmp_path):
    files = write(tmp_path, videos="\ufeffurl,video_id,task\r\nthere, abc_-1,7\r\n", csv="2,5.5,8\n\n1,1,2.25\n1,3,3")
    found = read_crosstask(*files)
    (video,) = found.videos
    assert (video.id, video.task, found.tasks) == ("abc_-1", "7", {"7": ("stir it", "serve")})
    assert video.segments == (Segment(0, 1.0, 2.25), Segment(1, 5.5, 8.0))
    assert [segment.item for segment in video.segments] == ["line 3", "line 1"]
    assert found.left_out == {"annotations of length 0": 1}
    truth = found.truth_matrix(video, 9)
    assert truth.dtype == bool and truth.T.astype(int).tolist() == [
        [0, 1, 1, 0, 0, 0, 0, 0, 0],
        [0] * 5 + [1] * 3 + [0],
    ]


@pytest.mark.parametrize("bad", ["1,5,4.5", "2,nan,3", "1,1,inf", "2,-1,4"])
def test_one_annotation_whose_times_cannot_be_is_left_out_and_counted(tmp_path, bad):
    found = read_crosstask(*write(tmp_path, csv=f"{bad}\n1,1,2.25\n2,5.5,8\n"))
    assert found.videos[0].segments == (Segment(0, 1.0, 2.25), Segment(1, 5.5, 8.0))
    assert found.left_out == {"annotations without times or that end before they start": 1}


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float16])
def test_a_matrix_is_preferred_and_is_the_truth(tmp_path, dtype):
    matrix = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 0]])
    found = read_crosstask(*write(tmp_path, npy=matrix.astype(dtype)))
    (video,) = found.videos
    assert video.seconds == 5 and video.file.suffix == ".npy"
    assert found.truth_matrix(video, 5).dtype == bool and found.truth_matrix(video, 5).tolist() == matrix.tolist()
    assert video.segments == (Segment(1, 0, 2), Segment(0, 1, 3), Segment(0, 4, 5))
    with pytest.raises(ValueError, match="expected a matrix of 6 rows, found 5"):
        found.truth_matrix(video, 6)
    assert check_length(video, 9.5) == (video, {}) and check_length(video, 1) == (video, {})
    with pytest.raises(
        InputError, match=r"7_abc_-1.npy: expected a matrix of about 11 rows, .* abc_-1's .*, found 5: "
    ):
        check_length(video, 11)


def test_segments_of_one_step_are_joined_where_they_overlap():
    segments = [Segment(0, 5, 9, "d"), Segment(1, 1, 3, "b"), Segment(0, 0, 2, "a"), Segment(0, 1.5, 4, "c")]
    joined, count = join_overlapping([*segments, Segment(0, 4, 5, "touches")])
    assert joined == [Segment(0, 0, 4), Segment(1, 1, 3), Segment(0, 4, 5), Segment(0, 5, 9)] and count == 1
    assert joined[0].item == "a and c"


def test_an_annotation_outside_the_video_is_cut_or_refused():
    segments = (Segment(0, 1, 3, "line 1"), Segment(1, 8, 12.5, "line 2"), Segment(0, 10, 14, "line 3"))
    video = AnnotatedVideo("abc", "7", segments, Path("7_abc.csv"))
    cut, done = check_length(video, 10)
    assert cut.segments == (segments[0], Segment(1, 8, 10)) and cut.segments[1].item == "line 2"
    assert done == {
        "annotations cut at the end of the video": 1,
        "annotations that start after the end of the video, left out": 1,
    }
    assert check_length(video, 14)[1] == {} and check_length(video, 9)[1]
    with pytest.raises(InputError) as caught:
        check_length(video, 12.25, tolerance=1)
    assert str(caught.value) == (
        "7_abc.csv: line 3: expected an annotation within the 12.25 s of abc's features, found 10 to 14 s: "
        "check that annotation and features are of the same video"
    )
    assert LocalizationSet({"7": ("a", "b")}, (video,)).truth_matrix(video, 9).sum(0).tolist() == [2, 1]


TABLE = "7\nCook\nthere\n2\nstir it,serve\n"
BAD = {
    "no annotation": (
        {"csv": None},
        "7_abc_-1.csv: expected the annotation of video abc_-1, here or as .npy, found no",
    ),
    "an empty annotation": ({"csv": "\n"}, "7_abc_-1.csv: expected at least one annotation step,start,end"),
    "only length 0": ({"csv": "1,2,2\n"}, "7_abc_-1.csv: expected at least one annotation step,start,end that lasts"),
    "step 0": ({"csv": "1,0,1\n0,1,2"}, "7_abc_-1.csv: line 2: expected a step from 1 to 2, the steps of this task, f"),
    "step 3": ({"csv": "3,0,1"}, "7_abc_-1.csv: line 1: expected a step from 1 to 2, the steps of this task, found 3"),
    "end before start": ({"csv": "1,5,4.5"}, "at least one annotation step,start,end that lasts, found none"),
    "negative": ({"csv": "1,-1,4"}, "at least one annotation step,start,end that lasts, found none"),
    "infinite": ({"csv": "1,1,inf"}, "at least one annotation step,start,end that lasts, found none"),
    "nan": ({"csv": "1,nan,2"}, "at least one annotation step,start,end that lasts, found none"),
    "a word": ({"csv": "\n1,soon,2"}, "line 2: expected step,start,end as numbers, times in seconds, found '1,soon,2'"),
    "two columns": ({"csv": "1,2"}, "line 1: expected step,start,end as numbers, times in seconds, found '1,2'"),
    "four columns": (
        {"csv": "1,2,3,4"},
        "line 1: expected step,start,end as numbers, times in seconds, found '1,2,3,4",
    ),
    "a fractional step": ({"csv": "1.5,2,3"}, "line 1: expected step,start,end as numbers"),
    "columns": (
        {"npy": np.ones((4, 3))},
        "7_abc_-1.npy: expected a matrix of 0 and 1 of shape (seconds, 2), one column",
    ),
    "no rows": ({"npy": np.ones((0, 2))}, "(seconds, 2), one column a step of task 7, found (0, 2)"),
    "one dimension": ({"npy": np.ones(2)}, "(seconds, 2), one column a step of task 7, found (2,)"),
    "other numbers": ({"npy": np.array([[0, 3], [1, 2]])}, "7_abc_-1.npy: expected a matrix of 0 and 1 of shape (se"),
    "nan in a matrix": ({"npy": np.array([[0, np.nan]])}, "found 1 other numbers such as nan"),
    "text in a matrix": (
        {"npy": np.array([["0", "1"]])},
        "7_abc_-1.npy: expected a matrix of 0 and 1 of shape (second",
    ),
    "zeros": (
        {"npy": np.zeros((4, 2))},
        "7_abc_-1.npy: expected at least one 1, found only 0: take abc_-1 off the list",
    ),
    "objects": (
        {"npy": np.array([[0, None]])},
        "7_abc_-1.npy: expected a matrix of 0 and 1 of shape (seconds, 2), foun",
    ),
    "no videos": ({"videos": "task,video_id\n"}, "videos.csv: expected one video a line, found none"),
    "nothing": ({"videos": ""}, "videos.csv: expected one video a line, found none"),
    "a header": (
        {"videos": "task,name\n7,abc"},
        "videos.csv: line 1: expected the columns task and video_id, found tas",
    ),
    "a short line": ({"videos": "7,abc_-1\n7\n"}, "videos.csv: line 2: expected a task and a video id, found '7'"),
    "no id": ({"videos": "7,,there\n"}, "videos.csv: line 1: expected a task and a video id, found '7,,there'"),
    "twice": (
        {"videos": "7,abc_-1\n\n7,abc_-1,x"},
        "videos.csv: line 3: expected each video of a task once, found abc_-",
    ),
    "a task without steps": (
        {"videos": "8,abc_-1"},
        "found task 8 of abc_-1: give the file that has them, or take its videos off",
    ),
    "no JSON": (
        {"steps": '{"7": ["a"'},
        "steps.json: expected JSON of {task: [text of a step, ...]}, found no whole JSON",
    ),
    "a JSON list": ({"steps": '["a"]'}, "steps.json: expected JSON of {task: [text of a step, ...]}, found a list"),
    "no JSON tasks": ({"steps": "{}"}, "steps.json: expected tasks and their steps, found none"),
    "a text for steps": (
        {"steps": '{"7": "ab"}'},
        "steps.json: task 7: expected a list of the texts of its steps, foun",
    ),
    "no JSON steps": (
        {"steps": '{"7": []}'},
        "steps.json: task 7: expected a list of the texts of its steps, found []",
    ),
    "an empty JSON step": (
        {"steps": '{"7": ["a", ""]}'},
        "task 7: expected a list of the texts of its steps, found ['",
    ),
    "a number of steps": (
        {"steps": TABLE.replace("2", "3")},
        "steps.txt: line 4: expected the number of the 2 steps of t",
    ),
    "no number of steps": (
        {"steps": TABLE.replace("2", "two")},
        "expected the number of the 2 steps of task 7 below, found two",
    ),
    "four lines": (
        {"steps": TABLE.replace("Cook\n", "")},
        "steps.txt: line 1: expected five lines of task, title, URL,",
    ),
    "ten lines": (
        {"steps": TABLE + TABLE},
        "steps.txt: line 1: expected five lines of task, title, URL, number of step",
    ),
    "an empty step": (
        {"steps": TABLE.replace("serve", "")},
        "line 5: expected a text for each step of task 7, found 'sti",
    ),
    "a task twice": (
        {"steps": TABLE + "\n\n" + TABLE},
        "steps.txt: line 8: expected each task once, found 7 again: rem",
    ),
    "no tasks": ({"steps": "\n"}, "steps.txt: expected tasks and their steps, found none"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, kind):
    files, part = BAD[kind]
    with pytest.raises(InputError) as caught:
        read_crosstask(*write(tmp_path, **files))
    message = str(caught.value)
    assert message.startswith(str(tmp_path)) and part in message and "\n" not in message


def test_what_is_no_text_file_and_no_array_is_refused(tmp_path):
    videos, steps, annotations = write(tmp_path)
    (annotations / "7_abc_-1.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match=r"7_abc_-1.npy: expected a matrix .*, found a damaged file .*magic string"):
        read_crosstask(videos, steps, annotations)
    videos.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"videos.csv: expected a list of videos with .* in UTF-8, found UTF-16"):
        read_video_tasks(videos)
    with pytest.raises(
        InputError, match=r"absent.txt: expected blocks of five lines with the steps of tasks, found no fi"
    ):
        read_steps(tmp_path / "absent.txt")
    with pytest.raises(InputError, match=r"absent.csv: expected a list of videos with the columns .*, found no file"):
        read_video_tasks(tmp_path / "absent.csv")
    with pytest.raises(InputError, match=r"videos.csv: expected videos of task 8, found only 7: correct the task"):
        videos.write_text("7,abc_-1")
        steps.write_text('{"7": ["a"], "8": ["b"]}')
        read_crosstask(videos, steps, annotations, tasks=["8"])
