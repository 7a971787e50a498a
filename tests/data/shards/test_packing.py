"""Packing: the same bytes however often it is stopped, and one line for what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from processes import python, running, until
from safetensors.torch import save_file

from data.sharding import break_shard, digests, narrated, opened, packed
from mcn_lightning.commands.fit import main
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.shards import pack as packing
from mcn_lightning.data.shards import workers
from mcn_lightning.data.shards.files import Mapped
from mcn_lightning.data.shards.header import INDEX, shard_name
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.shards.packed_from import SOURCES
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.errors import InputError


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
    assert names == {INDEX, SOURCES, *(shard_name(number) for number in range(report.shards))}


def test_the_bytes_depend_on_the_data_alone(tiny, tmp_path):
    packed(tiny, tmp_path / "one", processes=1)
    packed(tiny, tmp_path / "three", processes=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


OTHERS = r"found others: {}; nothing was done: choose another folder, or pack anew with --pack\.overwrite true"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"clips": ClipConfig(n_pair=6, min_time=4.0)}, r"the splits and their --data\.clips\.min_time was .*, is .*"),
        ({"clips": ClipConfig(n_pair=6, min_time=8.0, overrun=9.0)}, r"--data\.clips\.overrun was 5\.0, is 9\.0"),
        ({"keep_frames": True}, r"--pack\.keep_frames was False, is True"),
        ({"shard_size": 50_000}, r"--pack\.shard_size was 40000, is 50000"),
        (
            {"clips": ClipConfig(n_pair=6, min_time=8.0, span="first_to_last")},
            r"--data\.clips\.span was widest, is first_to_last",
        ),
    ],
)
def test_another_option_is_named_and_nothing_is_done(tiny, tmp_path, changes, part):
    packed(tiny, tmp_path / "shards")
    before = digests(tmp_path / "shards")
    with pytest.raises(InputError, match=OTHERS.format(part)):
        packed(tiny, tmp_path / "shards", **changes)
    assert digests(tmp_path / "shards") == before
    overwrite(tiny, tmp_path / "shards", **changes)
    packed(tiny, tmp_path / "fresh", **changes)
    assert digests(tmp_path / "shards") == digests(tmp_path / "fresh")


def overwrite(root, output, shard_size=40_000, keep_frames=False, **changes):
    config = PackConfig(str(output), shard_size, keep_frames, processes=1, overwrite=True)
    return narrated(root, **changes).pack(config)


def test_shards_without_index_and_plan_are_refused(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    (tmp_path / "shards" / INDEX).unlink()
    with pytest.raises(InputError, match=OTHERS.format("shards without a plan")):
        packed(tiny, tmp_path / "shards")
    assert overwrite(tiny, tmp_path / "shards").videos == 8


def change_features(root, how, name="synthetic_00003"):
    (path,) = root.rglob(f"{name}_2d.npz")
    if how == "size":
        np.savez(path, features=np.concatenate([np.load(path)["features"]] * 2)[:31])
    else:
        moment = path.stat().st_mtime_ns + 5_000_000_000
        os.utime(path, ns=(moment, moment))


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("how", ["size", "time"])
def test_changed_features_are_named_and_nothing_is_done(copy, tmp_path, monkeypatch, how, finished):
    output = tmp_path / "shards"
    if finished:
        packed(copy, output)
    else:
        monkeypatch.setattr(packing, "_write_index", lambda *_: (_ for _ in ()).throw(InputError("stopped")))
        with pytest.raises(InputError, match="stopped"):
            packed(copy, output)
        monkeypatch.undo()
    before = digests(output)
    change_features(copy, how)
    changed = f"the features of 1 videos of train by their {how}, first synthetic_00003"
    with pytest.raises(InputError, match=OTHERS.format(changed)):
        packed(copy, output)
    assert digests(output) == before
    overwrite(copy, output)
    packed(copy, tmp_path / "fresh")
    assert digests(output) == digests(tmp_path / "fresh")
    again = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    overwrite(copy, output)  # there is nothing left to do
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == again


def test_other_videos_are_named(copy, tmp_path):
    packed(copy, tmp_path / "shards")
    lines = (copy / "train.csv").read_text().splitlines()
    (copy / "train.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(InputError, match=OTHERS.format(r"the videos of train \(1 are gone, 0 are new\)")):
        packed(copy, tmp_path / "shards")
    (copy / "train.csv").write_text("\n".join([lines[0], *lines[:0:-1]]) + "\n")
    with pytest.raises(InputError, match=OTHERS.format("the order of train")):
        packed(copy, tmp_path / "shards")


def test_a_folder_of_an_older_version_is_taken_and_overwritten_when_asked(tiny, tmp_path):
    """It does not know the times of the source files."""
    report = packed(tiny, tmp_path / "shards")
    (tmp_path / "shards" / SOURCES).unlink()
    again = packed(tiny, tmp_path / "shards")
    assert again.videos == report.videos and not (tmp_path / "shards" / SOURCES).exists()
    overwrite(tiny, tmp_path / "shards")
    assert (tmp_path / "shards" / SOURCES).is_file()


def test_overwriting_leaves_the_files_of_others_alone(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    (tmp_path / "shards" / "notes.txt").write_text("mine")
    overwrite(tiny, tmp_path / "shards", clips=ClipConfig(min_time=4.0))
    assert (tmp_path / "shards" / "notes.txt").read_text() == "mine"


def test_every_skipped_video_is_listed_in_a_file(copy, tmp_path):
    for suffix in ("_2d", "_3d"):
        for path in (copy / "features").rglob(f"*{suffix}.npz"):
            path.unlink()
    report = packed(copy, tmp_path / "shards")
    assert report.videos == 0 and len(report.skipped) == 8
    lines = (tmp_path / "shards" / "skipped.csv").read_text().splitlines()
    assert len(lines) == 9 and all("found no file" in line for line in lines[1:])


def test_changed_captions_are_noticed(copy, tmp_path):
    packed(copy, tmp_path / "shards")
    entries = (copy / "captions.json").read_text()
    (copy / "captions.json").write_text(entries.replace("so", "now"))
    with pytest.raises(InputError, match=OTHERS.format(r"--data\.captions \(its contents\)")):
        packed(copy, tmp_path / "shards")


def test_two_runs_do_not_pack_into_one_folder(tiny, tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    monkeypatch.setattr(packing, "LOCK_SECONDS", 0.0)
    with (
        FileLock(tmp_path / "shards" / packing.LOCK),
        pytest.raises(InputError, match="another run is packing into this folder"),
    ):
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


@pytest.mark.parametrize("place", ["table", "options"])
def test_verify_reads_the_index_too(tiny, tmp_path, place):
    packed(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX
    content = path.read_bytes()
    if place == "table":
        content = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    else:
        content = content.replace(b'\\"bands\\": 40', b'\\"bands\\": 41')
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(
        SystemExit, match=r"index\.safetensors: expected contents with SHA-256 \w{64}, found .*overwrite"
    ):
        main(["verify", "--shards", str(tmp_path / "shards")])
    with pytest.raises(InputError, match=OTHERS.format(r"a damaged index\.safetensors")):
        packed(tiny, tmp_path / "shards")
    overwrite(tiny, tmp_path / "shards")
    main(["verify", "--shards", str(tmp_path / "shards")])


def test_an_index_that_cannot_be_read_is_packed_anew_when_asked(tiny, tmp_path):
    packed(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(InputError, match=r"index\.safetensors: expected a whole safetensors file"):
        packed(tiny, tmp_path / "shards")
    assert overwrite(tiny, tmp_path / "shards").videos == 8
    assert path.read_bytes() == whole


def test_verify_says_that_an_older_index_has_no_checksum(tiny, tmp_path, capsys):
    packed(tiny, tmp_path / "shards")
    path = tmp_path / "shards" / INDEX
    stored = Mapped(path)
    about = json.loads(stored.metadata["index"])
    del about["sha256"]
    save_file({name: tensor.clone() for name, tensor in stored.tensors.items()}, path, {"index": json.dumps(about)})
    main(["verify", "--shards", str(tmp_path / "shards")])
    told = capsys.readouterr().out
    assert "the index has no checksum of itself (an older version wrote it)" in told and "all as packed" in told
    assert len(opened(tiny, shards=str(tmp_path / "shards")).datasets["train"]) == 6


STOPPED = """
import os, sys
from pathlib import Path
from mcn_lightning.commands.fit import main
from mcn_lightning.data.shards import workers

data, output, processes = sys.argv[1:4]
how, at = map(int, sys.argv[4:])
save, command = workers.save_file, os.getpid()

def save_or_stop(*arguments):
    Path(processes, str(os.getpid())).touch()
    if len(list(Path(output).glob("shard-*.safetensors"))) >= at:
        os.kill(command, how)
    save(*arguments)

workers.save_file = save_or_stop
main(["prepare", "--data.root", data, "--data.streams",
      "[{suffix: _2d, rate: 1.0, width: 8}, {suffix: _3d, rate: 1.5, width: 8}]", "--data.num_workers", "0",
      "--pack.output", output, "--pack.shard_size", "20000", "--pack.processes", "2"])
"""
"""Packing, which gets a signal from one of its processes as soon as there are so many shards."""


def pack(data: Path, output: Path, how: int = 0, at: int = 10**6) -> subprocess.CompletedProcess[str]:
    (processes := output.with_name("processes")).mkdir(exist_ok=True)
    return python("-c", STOPPED, data, output, processes, int(how), at)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Return data that make many shards, and the digests of those that nobody stopped."""
    folder = tmp_path_factory.mktemp("many")
    write_synthetic(folder / "data", SyntheticConfig(videos=60, held_out=4, seconds=30.0, widths=(8, 8), word_dim=8))
    assert pack(folder / "data", folder / "whole").returncode == 0
    return folder / "data", digests(folder / "whole")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_packing_that_is_stopped_anywhere_goes_on_to_the_same_bytes(many, tmp_path, how):
    data, expected = many
    output = tmp_path / "stopped"
    assert len(expected) > 24  # shards enough for three stops and the rest
    for more in (1, 3, 6):  # stop after the first shard, then some more, and so on
        have = len(list(output.glob("shard-*.safetensors")))
        done = pack(data, output, how, have + more)
        assert done.returncode == (130 if how == signal.SIGINT else -how), done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        until(lambda: not any(running(int(path.name)) for path in (tmp_path / "processes").iterdir()), "the workers")
        for path in output.glob("shard-*.safetensors"):  # what has its name is whole
            assert hashlib.sha256(path.read_bytes()).hexdigest() == expected[path.name]
    assert pack(data, output).returncode == 0
    assert digests(output) == expected


def test_a_process_that_is_killed_ends_in_a_message(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "save_file", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(InputError, match=r"--pack\.processes: a process was killed, .* shards are finished and kept"):
        packed(tiny, tmp_path / "shards")
    monkeypatch.undo()
    assert packed(tiny, tmp_path / "shards").videos == 8


def test_a_full_disk_leaves_the_finished_shards(tiny, tmp_path, monkeypatch):
    whole = packed(tiny, tmp_path / "whole", processes=1)
    save = workers.save_file

    def fails(tensors, path, metadata):
        if path.name.startswith(shard_name(2)):
            path.write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path, metadata)

    monkeypatch.setattr(workers, "save_file", fails)
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
