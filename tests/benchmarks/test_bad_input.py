"""Bad files and bad options of benchmarks are one line that names the benchmark, the file and what to do."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.benchmark_files import write, youcook2
from benchmarks.evaluating import OWN, evaluate, of_recipe, own, refuse, said_of
from mcn_lightning.benchmarks import RetrievalBenchmark

TOP = Path(__file__).parents[2]
EVALUATE = sorted((TOP / "configs" / "evaluate").glob("*.yaml"))
FINETUNE = sorted((TOP / "experiments" / "finetune").glob("*.yaml"))


def broken(change: Any) -> list[dict[str, Any]]:
    clips = youcook2(6)
    change(clips[2])
    return clips


def forget(key: str) -> Any:
    return lambda clip: clip.pop(key)


def put(**values: Any) -> Any:
    return lambda clip: clip.update(values)


class Evil:
    def __reduce__(self):
        return (os.system, ("true",))


NAN = torch.full((40, 5), float("nan"))
BAD_CLIPS = {
    "no audio": (forget("audio"), "clip video000000_2: expected a spectrogram under 'audio', found none"),
    "empty audio": (
        put(audio=torch.zeros(40, 0)),
        "clip video000000_2: expected a spectrogram under 'audio', found an empty one",
    ),
    "silent": (put(has_audio=False), "expected a spectrogram under 'audio', found has_audio false"),
    "wrong bands": (put(audio=torch.zeros(30, 5)), r"expected 'audio' of shape \(40, frames\), found \(30, 5\)"),
    "NaN in audio": (put(audio=NAN), "expected finite numbers in 'audio', found 200 NaN or infinite"),
    "no 2d": (forget("2d"), "clip video000000_2: expected the array '2d_pooled' or '2d', found"),
    "wrong width": (put(**{"3d": np.zeros(9)}), r"expected '3d' of shape \(8,\), found \(9,\)"),
    "NaN": (put(**{"2d": np.full(8, np.nan)}), "expected finite numbers in '2d', found 8 NaN or infinite"),
    "text for numbers": (put(**{"2d": "abc"}), "expected '2d' to be an array of floating-point numbers, found a str"),
    "integers": (put(**{"2d": np.zeros(8, int)}), "'2d' to be an array of floating-point numbers, found int64"),
    "no name": (put(id=None), "clip number 2: expected a name under 'id', found None"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CLIPS)
def test_a_bad_clip_is_one_line(case, files, tmp_path, capsys):
    change, expected = BAD_CLIPS[case]
    root = tmp_path / "bad"
    write(root / "youcook_val_audio.pkl", broken(change))
    shutil.copy(files / "word_vectors.txt", root)
    lines = [said_of(lambda: of_recipe("youcook2"), root)]
    if case in ("no audio", "no name"):  # found in evaluation, and at the start
        lines.append(refuse(root, tmp_path, capsys, "youcook2"))
    for line in lines:
        assert "benchmark youcook2: " in line and "youcook_val_audio.pkl" in line
        assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (Evil(), "found the global posix.system"),
        ([], "expected a list of dicts, one a clip, found a list without clips"),
        ({"a": 1}, "expected a list of dicts, one a clip, found a dict"),
        ([1], "expected a list of dicts, one a clip, found a list with a int"),
        (b"", "expected a whole pickle, found a damaged one"),
        (None, "expected a pickle, found no file"),
    ],
)
def test_a_bad_pickle_is_one_line(content, expected, files, tmp_path, capsys):
    root = tmp_path / "bad"
    root.mkdir()
    shutil.copy(files / "word_vectors.txt", root)
    if content is not None:
        (root / "youcook_val_audio.pkl").write_bytes(content if content == b"" else pickle.dumps(content))
    lines = [said_of(lambda: of_recipe("youcook2"), root)]
    if content is None or isinstance(content, Evil):
        lines.append(refuse(root, tmp_path, capsys, "youcook2"))
    for line in lines:
        assert expected in line and str(root / "youcook_val_audio.pkl") in line


def crosstask_line(text: str) -> Any:
    return lambda root: (root / "crosstask" / "annotations" / "100_cross000000.csv").write_text(text)


def mining_text(text: str) -> Any:
    return lambda root: (root / "mining_youtube" / "annotations" / "mining00000.srt").write_text(text)


def features(name: str, array: np.ndarray | None) -> Any:
    def change(root: Path) -> None:
        path = root / "crosstask" / "features" / f"cross000000_{name}.npy"
        path.unlink()
        if array is not None:
            np.save(path, array)

    return change


BAD_VIDEOS = {
    "outside the video": ("crosstask", crosstask_line("1,2,5\n2,90,95\n"), "line 2: expected an annotation within"),
    "step out of range": ("crosstask", crosstask_line("4,2,5\n"), "100_cross000000.csv: line 1: expected"),
    "only reversed": ("crosstask", crosstask_line("1,5,2\n"), "100_cross000000.csv: expected at least one annotation"),
    "no number": ("crosstask", crosstask_line("1,a,2\n"), "100_cross000000.csv: line 1: expected"),
    "no features": ("crosstask", features("2d", None), "cross000000_2d.npy: expected a feature file"),
    "wrong width": ("crosstask", features("2d", np.zeros((20, 9), np.float32)), "found (20, 9)"),
    "NaN": ("crosstask", features("2d", np.full((20, 8), np.nan)), "expected finite numbers, found 160 NaN"),
    "objects": ("crosstask", features("2d", np.array([{}], dtype=object)), "found an array of Python objects"),
    "unknown class": ("mining_youtube", mining_text("1\n00:00:01,000 --> 00:00:02,000\nfly_moon\n"), "fly_moon"),
    "no times": ("mining_youtube", mining_text("1\nsoon\ntopic1word0\n"), "mining00000.srt: annotation 1: expected"),
    "overlapping": (
        "mining_youtube",
        mining_text("1\n00:00:01,000 --> 00:00:09,000\ntopic1word0\n\n2\n00:00:02,000 --> 00:00:12,000\ntopic1word4\n"),
        "mining00000.srt: annotation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_VIDEOS)
def test_a_bad_video_is_one_line(case, files, tmp_path, capsys):
    recipe, change, expected = BAD_VIDEOS[case]
    root = tmp_path / "bad"
    shutil.copytree(files, root)
    change(root)
    lines = [said_of(lambda: of_recipe(recipe), root)]
    if case in ("outside the video", "overlapping", "objects"):
        lines.append(refuse(root, tmp_path, capsys, recipe))
    for line in lines:
        assert f"benchmark {recipe}: " in line and expected in line, line


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"directions": ["t->x"]}, "t->x"),
        ({"directions": ["t->tv"]}, "t->tv"),
        ({"audio_weight": -1.0}, "benchmark it: audio_weight: expected a number above 0, found -1.0"),
        ({"published": {"t->x/R@1": 1.0}, "source": "x"}, "published: expected results of"),
        ({"published": {"t->va/R@1": float("nan")}, "source": "x"}, "expected numbers, found t->va/R@1 nan"),
        ({"directions": []}, None),
        ({"audio_frames": 0}, "audio_frames: expected a number above 0, found 0"),
        ({"benchmark_size": 10}, "expected at least the 20 clips of msrvtt_jsfusion_test.pkl, found 10"),
        ({"full_video": True}, "full_video: expected clip ids that begin with the 11 characters of the video id"),
        ({"published": {"t->va/R@1": 1.0}}, "expected the source of the published results, found none"),
        ({"published": {"t->va/R@2": 1.0}, "source": "x"}, "published: expected results of"),
        ({"sources": {"t->va/R@1": "x"}}, "sources: expected results that are under published, found t->va/R@1"),
        ({"name": "a/b"}, "expected one without '/', found 'a/b'"),
        ({"ranks_file": "/proc/none/ranks.csv"}, "ranks_file /proc/none/ranks.csv: expected to write there, found "),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(options, expected, files, tmp_path, capsys):
    if expected is None:
        assert evaluate(files, tmp_path, **options)
        return
    assert expected in said_of(lambda: RetrievalBenchmark(**OWN | options), files)
    if {*options} & {"directions", "audio_weight", "benchmark_size", "ranks_file"}:  # built, opened and evaluated
        assert expected in refuse(files, tmp_path, capsys, own(tmp_path, **options))
