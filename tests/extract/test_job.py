"""A folder of videos becomes a data set: its files, going on, shares, and broken videos."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock, Timeout
from forked import Popen

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.making import write_captions, write_video
from mcn_lightning.commands.main import main
from mcn_lightning.errors import InputError
from mcn_lightning.extract import job
from mcn_lightning.extract.dataset import write_dataset
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import EncodedStream, ExtractConfig
from mcn_lightning.extract.pool import Decoded, DecodingPool, Failed, Pictures, StreamShape
from mcn_lightning.extract.videos import find_videos
from mcn_lightning.extract.writing import write_json

STREAMS = (EncodedStream("colour", "extract.making.Colours", 2.0),)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six films of 2 to 4 seconds in two folders, the last without sound, with captions beside the first five."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        path = folder / ("a" if number < 3 else "b") / f"film_{number}.{'mp4' if number % 2 else 'mkv'}"
        write_video(path, 2.0 + number % 3, seed=number, sound=number != 5)
        if number < 5:
            write_captions(path.with_suffix(".srt"), (0.0, 1.0, f"word{number} one"), (1.0, 2.0, "two"))
    return folder


def config_of(videos, output, **more) -> ExtractConfig:
    return ExtractConfig(**({"videos": str(videos), "output": str(output), "streams": STREAMS, "workers": 2} | more))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a data set but for what names its own folder."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "data.yaml"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    extract(config_of(videos, output))
    return output


def paths_of(file: Path) -> list[str]:
    with open(file, newline="") as rows:
        return [row["path"] for row in csv.DictReader(rows)]


def test_every_video_has_its_files(whole):
    for number in range(6):
        folder = whole / "features" / ("a" if number < 3 else "b") / f"film_{number}"
        rows = np.load(folder / f"film_{number}_colour.npz")["features"]
        assert rows.shape == (2 * (2 + number % 3), 48) and rows.dtype == np.float16
        assert (folder / f"film_{number}_spec.npz").is_file() == (number != 5)
    assert [path.name for path in (whole / ".locks").iterdir()] == ["options"]
    spectrogram = np.load(whole / "features/a/film_0/film_0_spec.npz")["arr_0"]
    assert spectrogram.shape[0] == 40 and spectrogram.dtype == np.float16 and spectrogram.max() == 0
    assert abs(spectrogram.shape[1] - 201) <= 8  # the coder of the sound adds a block


def test_lists_hold_every_video_once_and_captions_are_by_id(whole):
    lists = {split: paths_of(whole / f"{split}.csv") for split in ("train", "val", "test")}
    every = [name for names in lists.values() for name in names]
    assert sorted(every) == [f"{'a' if number < 3 else 'b'}/film_{number}" for number in range(6)]
    assert all(lists.values()), "no split is empty"
    captions = json.loads((whole / "captions.json").read_text())
    assert sorted(captions) == [f"film_{number}" for number in range(5)]
    assert captions["film_3"]["text"] == ["word3 one", "two"] and captions["film_3"]["end"] == [1.0, 2.0]
    assert paths_of(whole / "failed.csv") == []
    assert (whole / "incomplete.csv").read_text() == "path,lacks\nb/film_5,sound\nb/film_5,captions\n"


def test_a_second_run_does_nothing_and_a_new_video_is_added(videos, whole, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*_record.json")}
    assert "0 failed, 1 silent, 1 without captions" in extract(config_of(videos, whole))
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*_record.json")} == before


def test_jobs_of_shares_and_a_merge_end_in_the_same_bytes(videos, whole, tmp_path):
    said = [extract(config_of(videos, tmp_path, share=f"{index}/3")) for index in (1, 2, 3)]
    assert all(f"job {index} of 3" in text for index, text in enumerate(said, 1))
    assert not (tmp_path / "train.csv").exists()
    extract(config_of(videos, tmp_path, merge=True))
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_two_merges_at_once_write_one_after_the_other(videos, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "out")

    def write(*given):
        with pytest.raises(Timeout):
            FileLock(out / ".locks" / "options").acquire(timeout=0)
        return write_dataset(*given)

    monkeypatch.setattr(job, "write_dataset", write)
    config = config_of(videos, out, merge=True)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(extract, [config, config])
    assert first == second and bytes_of(out) == bytes_of(whole)


def test_videos_that_fill_no_batch_do_not_wait_for_the_end(videos, whole, tmp_path, monkeypatch):
    waiting = []

    class Watched(job._Job):
        def _write(self, video, decoded):
            waiting.append(len(self.decoded))
            super()._write(video, decoded)

    monkeypatch.setattr(job, "_Job", Watched)
    monkeypatch.setattr(job, "MOST_WAITING", 1)
    extract(config_of(videos, tmp_path, batch_size=1000))
    assert len(waiting) == 6 and max(waiting) <= 1  # beside the one that is written
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_several_devices_share_the_videos(videos, whole, tmp_path):
    extract(config_of(videos, tmp_path, device="cpu", devices=2, workers=1))
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_files_of_the_whole_data_set_are_written_by_one_process_at_a_time(videos, tmp_path, monkeypatch):
    written = []

    def write(path: Path, value: object) -> None:
        if path.parent == tmp_path:
            written.append(path.name)
            with pytest.raises(Timeout):
                FileLock(tmp_path / ".locks" / "options").acquire(timeout=0)
        write_json(path, value)

    monkeypatch.setattr(job, "write_json", write)
    extract(config_of(videos, tmp_path, share="1/2"))
    assert written == ["extract.json", "rows.json"]


def test_a_merge_before_all_jobs_names_what_is_missing(videos, tmp_path):
    extract(config_of(videos, tmp_path, share="1/2"))
    with pytest.raises(InputError, match=r"expected features of each video, found none for \d of 6, such as "):
        extract(config_of(videos, tmp_path, merge=True))


def test_other_options_are_refused(videos, whole):
    with pytest.raises(InputError, match="expected the same options, found another bands"):
        extract(config_of(videos, whole, bands=20))


def test_an_encoder_that_fails_leaves_what_was_done_and_the_next_run_goes_on(videos, whole, tmp_path):
    failing = (EncodedStream("colour", "extract.making.Failing", 2.0),)
    with pytest.raises(RuntimeError, match="stopped here"):
        extract(config_of(videos, tmp_path, streams=failing, workers=1))
    assert len(list(tmp_path.rglob("*_record.json"))) == 1
    (tmp_path / "extract.json").unlink()  # its options name the other class
    extract(config_of(videos, tmp_path))
    assert bytes_of(tmp_path) == bytes_of(whole)


def test_killed_anywhere_it_goes_on_to_the_same_bytes(videos, whole, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        "streams: [{name: colour, encoder: extract.making.Colours, rate: 2.0}]\nworkers: 2\ntext: none.txt\n"
    )
    command = [sys.executable, "-m", "mcn_lightning", "extract", "--config", str(config)]
    command += ["--videos", str(videos), "--output", str(tmp_path / "out")]
    process = Popen(command, cwd=Path(__file__).parents[1], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / "out").rglob("*_record.json")):
        time.sleep(0.01)  # until a video is done
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "train.csv").exists()
    extract(config_of(videos, tmp_path / "out"))
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_broken_videos_are_listed_and_the_others_are_ready(videos, tmp_path):
    folder = tmp_path / "some"
    write_video(folder / "good.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mkv").write_text("no video at all")
    with pytest.raises(InputError, match=r"expected at most 0\.05 of the videos to fail, found 2 of 3, listed in"):
        extract(config_of(folder, tmp_path / "out"))
    with open(tmp_path / "out" / "failed.csv", newline="") as rows:
        failed = {row["path"]: row["reason"] for row in csv.DictReader(rows)}
    assert sorted(failed) == ["empty", "text"] and all("expected a video, found" in text for text in failed.values())
    assert (tmp_path / "out/features/good/good_colour.npz").is_file() and (tmp_path / "out/data.yaml").is_file()
    said = extract(config_of(folder, tmp_path / "out", max_bad_share=0.7))
    assert "2 failed" in said


def test_a_broken_video_that_is_mended_is_read_by_the_next_run(tmp_path):
    folder = tmp_path / "some"
    write_video(folder / "good.mp4")
    (folder / "other.mp4").touch()
    extract(config_of(folder, tmp_path / "out", max_bad_share=1.0))
    write_video(folder / "other.mp4", seed=3)
    assert "0 failed" in extract(config_of(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected videos (.mp4, .mkv, "),
        (("a/x.mp4", "b/x.mp4"), "for x; rename one"),
        (("x.mp4", "x.mkv"), "for x; rename one"),
    ],
)
def test_folders_that_cannot_be_read_as_a_data_set(tmp_path, names, message):
    for name in names:
        (tmp_path / "some" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "some" / name).touch()
    (tmp_path / "some").mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as stop:
        main(["extract", "--videos", str(tmp_path / "some"), "--output", str(tmp_path / "out")])
    assert message in str(stop.value) and "\n" not in str(stop.value)


def test_videos_that_are_no_folder_and_no_list_are_told_by_the_option(tmp_path):
    (tmp_path / "film.mp4").touch()
    for name, found in (("film.mp4", "found one video; give its folder"), ("nosuch", "found no file; check the path")):
        with pytest.raises(InputError, match=f"^--videos:? {tmp_path / name}: expected a folder of videos, .*{found}$"):
            find_videos(tmp_path / name)


def test_captions_of_no_video_are_named(tmp_path, capsys):
    write_video(tmp_path / "some" / "film.mp4")
    write_captions(tmp_path / "some" / "film.srt", (0.0, 1.0, "one"))
    write_captions(tmp_path / "some" / "other.srt", (0.0, 1.0, "two"))
    extract(config_of(tmp_path / "some", tmp_path / "out"))
    assert "warning: 1 caption files are of no video: other.srt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "width"),
    [(b"2 5\na 1 2 3 4 5\nb 1 2 3 4 5\n", 5), (b"a 0.5 1 2\nb 1 2 3\n", 3), (b"no vectors\n", None)],
)
def test_the_width_of_word_vectors_is_read_and_what_is_none_is_said_before_the_work(tmp_path, capsys, content, width):
    write_video(tmp_path / "some" / "film.mp4")
    (tmp_path / "words.txt").write_bytes(content)
    extract(config_of(tmp_path / "some", tmp_path / "out", text=str(tmp_path / "words.txt")))
    found = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["data"]["text"]
    assert found["kind"] == "word_vectors" and found["dim"] == (width or 300)
    said = "words.txt: expected a word-vector file, found another beginning" in capsys.readouterr().err
    assert said == (width is None)


@pytest.mark.parametrize(("given", "length"), [(None, True), (True, True), (False, False)])
def test_a_stream_says_whether_rows_have_length_1(tmp_path, given, length):
    write_video(tmp_path / "some" / "film.mp4")
    streams = (EncodedStream("colour", "extract.making.Unit", 2.0, normalize=given),)
    extract(config_of(tmp_path / "some", tmp_path / "out", streams=streams))
    rows = np.load(tmp_path / "out/features/film/film_colour.npz")["features"].astype(np.float32)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3) == length


def test_without_the_package_that_decodes_it_is_one_line(tmp_path, monkeypatch):
    write_video(tmp_path / "some" / "film.mp4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"expected the package av, found none; pip install 'mcn-lightning\[extract\]'"
    ):
        extract(config_of(tmp_path / "some", tmp_path / "out"))


def test_a_decoder_that_dies_costs_its_video_only(tmp_path):
    """The first process is killed while it waits for its pictures to be taken, and once while it has no video."""
    for number in range(3):
        write_video(tmp_path / f"film_{number}.mp4", 30.0, seed=number)
    pool = DecodingPool([StreamShape(PictureSize(128), 2.0, 1)], None, 1)  # a chunk is more than a pipe holds
    found: dict[int, Decoded | Failed] = {}
    try:
        for message in pool.messages(iter([(number, tmp_path / f"film_{number}.mp4") for number in range(3)])):
            if not isinstance(message, Pictures):
                found[message.video] = message
            if isinstance(message, Decoded) or (message.video == 0 and not found):
                process, _ = pool._workers[0]
                process.kill()
                process.join()
    finally:
        pool.close()
    first, *others = (found[number] for number in range(3))
    killed = f"{tmp_path}/film_0.mp4: expected a video, found that its decoder was killed, perhaps for want of memory; "
    assert isinstance(first, Failed) and first.reason.startswith(killed)
    assert all(isinstance(message, Decoded) and message.rows == (60,) for message in others)
