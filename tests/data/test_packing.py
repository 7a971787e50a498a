"""Packing: the same bytes however often it is stopped, and one line for what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from processes import LIMIT

from data.sharding import break_shard, digests, packed
from mcn_lightning.cli import main
from mcn_lightning.data import packing
from mcn_lightning.data.batch import InputError
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.shard_header import INDEX, shard_name
from mcn_lightning.data.synthetic import SyntheticConfig, write_synthetic


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def test_the_report_adds_up(tiny, tmp_path):
    report = packed(tiny, tmp_path / "shards")
    files = list((tiny / "features").rglob("*.npz"))
    assert report.videos == len(files) // 3 and report.skipped == {} and report.shards > 2
    assert report.bytes_in == sum(path.stat().st_size for path in files)
    assert report.bytes_out == sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert report.hours == pytest.approx(report.videos * 30 / 3600)
    again = packed(tiny, tmp_path / "shards")
    assert replace(again, seconds=report.seconds) == report
    names = {path.name for path in (tmp_path / "shards").iterdir()}
    assert names == {INDEX, *(shard_name(number) for number in range(report.shards))}


def test_the_bytes_depend_on_the_data_alone(tiny, tmp_path):
    packed(tiny, tmp_path / "one", processes=1)
    packed(tiny, tmp_path / "three", processes=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


def test_another_data_set_or_option_is_refused(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    with pytest.raises(InputError, match="found others; choose another folder or delete it"):
        packed(tiny, tmp_path / "shards", clips=ClipConfig(min_time=4.0))
    (tmp_path / "shards" / INDEX).unlink()
    with pytest.raises(InputError, match="found others"):
        packed(tiny, tmp_path / "shards")


def test_every_skipped_video_is_listed_in_a_file(copy, tmp_path):
    for suffix in ("_2d", "_3d"):
        for path in (copy / "features").rglob(f"*{suffix}.npz"):
            path.unlink()
    report = packed(copy, tmp_path / "shards")
    assert report.videos == 0 and len(report.skipped) == 8
    lines = (tmp_path / "shards" / "skipped.csv").read_text().splitlines()
    assert len(lines) == 9 and all("found no file" in line for line in lines[1:])


def test_changed_data_is_noticed(copy, tmp_path):
    packed(copy, tmp_path / "shards")
    entries = (copy / "captions.json").read_text()
    (copy / "captions.json").write_text(entries.replace("so", "now"))
    with pytest.raises(InputError, match="found others; choose another folder or delete it"):
        packed(copy, tmp_path / "shards")


def test_two_runs_do_not_pack_into_one_folder(tiny, tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    monkeypatch.setattr(packing.time, "sleep", lambda seconds: None)
    with packing._lock(tmp_path / "shards"), pytest.raises(InputError, match="another run is packing into this folder"):
        packed(tiny, tmp_path / "shards")


def test_an_output_that_cannot_be_written_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", "/proc/shards"):
        with pytest.raises(InputError, match=r"--pack\.output .*: expected a folder to write to"):
            packed(tiny, output)


def test_verify_reads_every_byte(tiny, tmp_path, capsys):
    packed(tiny, tmp_path / "shards")
    main(["verify", "--shards", str(tmp_path / "shards")])
    assert "all as packed" in capsys.readouterr().out
    broken = break_shard(tmp_path / "shards", 1, "one bit")
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--shards", str(tmp_path / "shards")])
    assert "1 of" in str(stop.value.code)
    told = capsys.readouterr()
    assert str(broken) in told.out + told.err and "expected SHA-256" in told.out + told.err


COMMAND = """
import sys
from mcn_lightning.cli import main
main(["prepare", "--data.root", sys.argv[1], "--data.streams",
      "[{suffix: _2d, rate: 1.0, width: 8}, {suffix: _3d, rate: 1.5, width: 8}]", "--data.num_workers", "0",
      "--pack.output", sys.argv[2], "--pack.shard_size", "20000", "--pack.processes", "2"])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_packing_that_is_stopped_anywhere_goes_on_to_the_same_bytes(tmp_path, how):
    write_synthetic(tmp_path / "data", SyntheticConfig(videos=120, held_out=4, seconds=30.0, widths=(8, 8), word_dim=8))
    words = [sys.executable, "-c", COMMAND, str(tmp_path / "data")]
    subprocess.run([*words, str(tmp_path / "whole")], check=True, capture_output=True)
    expected, output = digests(tmp_path / "whole"), tmp_path / "stopped"
    stops = 0
    for more in (1, 3, 6):  # stop after the first shard, then some more, and so on
        process = subprocess.Popen([*words, str(output)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        have = len(list(output.glob("shard-*.safetensors")))
        while process.poll() is None and len(list(output.glob("shard-*.safetensors"))) < have + more:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(how)
            stops += 1
        told = process.communicate(timeout=LIMIT)[0]
        assert "Traceback" not in told or how == signal.SIGKILL, told
        for path in output.glob("shard-*.safetensors"):  # what has its name is whole
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[path.name]
        assert process.returncode in (0, 130, -how)
    assert stops >= 2
    subprocess.run([*words, str(output)], check=True, capture_output=True)
    assert digests(output) == expected


def test_a_process_that_is_killed_ends_in_a_message(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_save", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"--pack\.processes: a process was killed, .* shards are finished and kept"):
        packed(tiny, tmp_path / "shards")
    monkeypatch.undo()
    assert packed(tiny, tmp_path / "shards").videos == 8


def test_a_full_disk_leaves_the_finished_shards(tiny, tmp_path, monkeypatch):
    whole = packed(tiny, tmp_path / "whole", processes=1)
    save = packing._save

    def fails(tensors, path, metadata):
        if path.name.startswith(shard_name(2)):
            path.write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata)

    monkeypatch.setattr(packing, "_save", fails)
    with pytest.raises(InputError, match=r"the disk is full; [0-9] of [0-9]+ shards are finished and kept"):
        packed(tiny, tmp_path / "shards", processes=1)
    left = {path.name for path in (tmp_path / "shards").iterdir()}
    assert shard_name(0) in left and not any(name.endswith("partial") for name in left) and shard_name(2) not in left
    monkeypatch.undo()
    assert replace(packed(tiny, tmp_path / "shards"), seconds=whole.seconds) == whole
    assert digests(tmp_path / "shards") == digests(tmp_path / "whole")


def test_lost_shards_are_packed_again(tiny, tmp_path, capsys):
    packed(tiny, tmp_path / "s")
    whole = digests(tmp_path / "s")
    break_shard(tmp_path / "s", 1, "missing")
    break_shard(tmp_path / "s", 2, "truncated")
    packed(tiny, tmp_path / "s")
    assert digests(tmp_path / "s") == whole
