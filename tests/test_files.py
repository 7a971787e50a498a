"""Text files: byte order marks, line endings, other encodings, binary files. Atomic writing: old file or new one."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
import yaml

from mcn_lightning.benchmarks.localization.class_list import read_classes
from mcn_lightning.benchmarks.localization.crosstask_files import read_steps, read_video_tasks
from mcn_lightning.commands.results.runs import read_metrics, read_record
from mcn_lightning.data.captions import Captions, read_captions
from mcn_lightning.data.files.word_vectors import read_word_vectors
from mcn_lightning.data.sources.howto100m import read_video_list
from mcn_lightning.errors import InputError
from mcn_lightning.files import load_yaml, read_json, read_lines, read_text, replacing
from mcn_lightning.runs.saved import read_options

MARK = b"\xef\xbb\xbf"
TEXT = "path\ncafé\n日本\n"


@pytest.mark.parametrize("mark", [b"", MARK], ids=["bare", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_endings_do_not_show(tmp_path, mark, end):
    (tmp_path / "a.txt").write_bytes(mark + TEXT.replace("\n", end).encode())
    assert read_text(tmp_path / "a.txt", "a list") == TEXT
    assert read_lines(tmp_path / "a.txt", "a list") == ["path", "café", "日本", ""]


def test_marks_of_joined_files_do_not_show(tmp_path):
    (tmp_path / "a.txt").write_bytes(MARK + b"a\n" + MARK + b"b\n")
    assert read_lines(tmp_path / "a.txt", "a list") == ["a", "b", ""]


def test_every_reader_takes_a_mark(tmp_path):
    captions = json.dumps({"a": {"start": [0], "end": [1], "text": ["é"]}}, ensure_ascii=False)
    files = {
        "captions.json": captions, "train.csv": "path\ntrain/a\n", "tasks.csv": "task,video_id\n1,a\n",
        "steps.json": '{"1": ["pour"]}', "classes.txt": "crack_egg\n", "config.yaml": "seed_everything: 3\ndata: {}\n",
        "run.json": '{"hours": 1.5}', "metrics.csv": "step,loss\n1,0.5\n", "v.txt": "2 2\na 1 2\nb 3 4\n",
        "bare.txt": "a 1 2\nb 3 4\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_bytes(MARK + text.encode())
    read = read_captions(tmp_path / "captions.json", ["a"])["a"]
    assert isinstance(read, Captions) and read.text == ("é",)
    assert read_video_list(tmp_path / "train.csv") == ["train/a"]
    lines = read_video_tasks(tmp_path / "tasks.csv")
    assert {entry: line.number for entry, line in lines.items()} == {("1", "a"): 2}
    assert read_steps(tmp_path / "steps.json") == {"1": ("pour",)}
    assert read_classes(tmp_path / "classes.txt") == ("crack_egg",)
    assert read_options(tmp_path / "config.yaml")["seed_everything"] == 3
    assert read_record(tmp_path) == {"hours": 1.5}
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 1.0, "loss": 0.5}]
    for name in ("v.txt", "bare.txt"):
        assert read_word_vectors(tmp_path / name, {"a", "b"})[1].tolist() == [[1, 2], [3, 4]]


OTHERS = {
    "Latin-1": (TEXT[:10].encode("latin1"), "byte 0xe9 at position 8 in line 2.*perhaps Latin-1.*iconv -f LATIN1"),
    "Latin-1 after a mark": (MARK + b"a\n\xe9t\xe9 abc", "byte 0xe9 at position 5 in line 2.*Latin-1"),
    "Windows-1252": ("don’t".encode("cp1252") + b" stop", "byte 0x92 at position 3 in line 1.*iconv -f CP1252"),
    "UTF-16": (TEXT.encode("utf-16"), "found UTF-16: convert it with 'iconv -f UTF-16 -t UTF-8"),
    "UTF-16 big": (b"\xfe\xff" + TEXT.encode("utf-16-be"), "found UTF-16: convert"),
    "UTF-16 without a mark": ("path\nabc\n".encode("utf-16-le"), "found UTF-16LE: convert"),
    "UTF-16 big without a mark": ("path\nabc\n".encode("utf-16-be"), "found UTF-16BE: convert"),
    "UTF-32": (TEXT.encode("utf-32"), "found UTF-32: convert"),
    "a cut letter": ("日本".encode()[:-1], "byte 0xe6 at position 3 in line 1.*cut short"),
    "Latin-1 to the end": (b"caf\xe9", "byte 0xe9 at position 3 in line 1: another encoding, perhaps Latin-1"),
    "gzip": (gzip.compress(TEXT.encode()), "found a gzip file: unpack it"),
    "zip": (b"PK\x03\x04\x14\x00\x00\x00\x00\x00", "found a zip file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n\x00\x00", "found an HDF5 file"),
    "a pickle": (pickle.dumps({"a": 1.5}), "found a pickle: name it .pickle"),
    "numbers": (np.arange(9.0).tobytes(), "found binary data .byte 0x00 at position 0 in line 1.: check the path"),
    "one NUL": (b"path\nab\x00c\n", "found binary data .byte 0x00 at position 7 in line 2."),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_utf_8_is_named_with_the_way_out(tmp_path, kind):
    content, part = OTHERS[kind]
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    for read in (read_text, read_lines, read_json):
        with pytest.raises(InputError, match=part) as caught:
            read(path, "a list")
        message = str(caught.value)
        assert message.startswith(f"{path}: expected a list, as text in UTF-8, found ") and "\n" not in message
    with pytest.raises(InputError, match=part):
        read_video_list(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.csv: expected a list, found no file"):
        read_text(tmp_path / "x.csv", "a list")
    with pytest.raises(InputError, match="expected a list, found a folder"):
        read_text(tmp_path, "a list")


def test_json_that_is_cut_or_too_deep_is_named(tmp_path):
    for text in ("", '{"a": [1', "[" * 100_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=r"a\.json: expected captions, found no whole JSON \(") as caught:
            read_json(tmp_path / "a.json", "captions")
        assert "\n" not in str(caught.value)


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "run.json"
    for content in ("one", "two"):
        with replacing(path) as partial:
            partial.write_text(content)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == content and [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_what_was_there_stays_when_the_block_raises(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("one")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("two")
        1 / 0  # noqa: B018
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    path = tmp_path / "run.json"
    code = (
        "import os, sys, pathlib; from mcn_lightning.files import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.write_text('a half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=600).returncode == -signal.SIGKILL
    assert [each.name for each in tmp_path.iterdir()] == ["run.json.partial"]
    with replacing(path) as partial:
        assert partial.read_text() == ""
        partial.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_a_library_writes_for_its_owner_alone(tmp_path):
    path = tmp_path / "a.safetensors"
    with replacing(path) as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("loader", ["SafeLoader", "BaseLoader"])
@pytest.mark.parametrize("value", ["a\udcff", "🍳", "1e-3", "- x"])
def test_yaml_that_the_fast_loader_refuses_is_read(loader, value):
    """JSON writes some characters as two halves, and a path that is no UTF-8 has such a half."""
    text = json.dumps({"path": value})
    assert load_yaml(text, loader) == yaml.load(text, getattr(yaml, loader))


def test_what_is_no_yaml_is_refused():
    with pytest.raises(yaml.YAMLError):
        load_yaml("a: [1", "SafeLoader")
