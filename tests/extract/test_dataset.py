"""What a data set is made of when films lack captions, lists are given, or something comes later."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("av", reason="the extra `extract` is not installed")

from extract.making import write_captions, write_video
from mcn_lightning.commands.main import main
from mcn_lightning.errors import InputError
from mcn_lightning.extract.dataset import text_options
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import EncodedStream, ExtractConfig
from mcn_lightning.extract.videos import find_videos, split_videos
from mcn_lightning.extract.writing import forecast, size_text, times_more, write_entries

STREAMS = (EncodedStream("colour", "extract.making.Colours", 2.0),)


@pytest.fixture
def films(tmp_path):
    """Three films with sound and without captions."""
    for number in range(3):
        write_video(tmp_path / "films" / f"film_{number}.mp4", seed=number)
    return tmp_path / "films"


def config_of(films: Path, **more) -> ExtractConfig:
    out = films.parent / "out"
    return ExtractConfig(**({"videos": str(films), "output": str(out), "streams": STREAMS, "workers": 1} | more))


def modalities(out: Path) -> list[str]:
    return yaml.safe_load((out / "data.yaml").read_text())["data"]["modalities"]


def test_captions_that_come_later_are_taken_by_the_next_run(films):
    out = films.parent / "out"
    extract(config_of(films))
    before = {path: path.read_bytes() for path in out.rglob("*.npz")}
    assert json.loads((out / "captions.json").read_text()) == {} and modalities(out) == ["video", "audio"]
    write_captions(films / "film_1.srt", (0.0, 1.0, "words"), (1.0, 2.0, "that came later"))
    assert "2 without captions" in extract(config_of(films))
    assert json.loads((out / "captions.json").read_text())["film_1"]["text"] == ["words", "that came later"]
    assert modalities(out) == ["video", "audio", "text"]
    assert {path: path.read_bytes() for path in out.rglob("*.npz")} == before
    assert [path.name for path in (out / ".locks").iterdir()] == ["options"]


def test_a_video_that_was_replaced_is_extracted_again(films, capsys):
    out = films.parent / "out"
    extract(config_of(films))
    before = {path.name: path.read_bytes() for path in out.rglob("*.npz")}
    (out / "features/film_1/film_1_speech.json").write_text("{}")
    write_video(films / "film_1.mp4", seed=9, sound=False)
    os.utime(films / "film_0.mp4", (0, 0))  # as a copy has another time and the same bytes
    capsys.readouterr()
    assert "1 silent" in extract(config_of(films))
    assert f"{films / 'film_1.mp4'} changed after extraction: extracted again" in capsys.readouterr().err
    after = {path.name: path.read_bytes() for path in out.rglob("*.npz")}
    assert before.keys() - after.keys() == {"film_1_spec.npz"}
    assert [name for name in after if after[name] != before[name]] == ["film_1_colour.npz"]
    assert not (out / "features/film_1/film_1_speech.json").exists()
    extract(config_of(films))
    assert "extracted again" not in capsys.readouterr().err


def test_folders_that_are_linked_are_read_once_and_links_without_a_film_are_listed(films):
    elsewhere = films.parent / "elsewhere"
    write_video(elsewhere / "deep" / "far.mp4")
    (films / "a_link").symlink_to(elsewhere)
    (films / "b_link").symlink_to(elsewhere / "deep")
    (films / "loop").symlink_to(films)
    (films / "gone.mp4").symlink_to(films.parent / "nothing.mp4")
    os.mkfifo(films / "pipe.mp4")
    names = ["a_link/deep/far", "film_0", "film_1", "film_2", "gone"]
    assert [video.name for video in find_videos(films)] == names
    extract(config_of(films, max_bad_share=0.5))
    with open(films.parent / "out" / "failed.csv", newline="") as rows:
        assert [(row["path"], "No such file" in row["reason"]) for row in csv.DictReader(rows)] == [("gone", True)]


@pytest.mark.parametrize(("text", "told"), [
    ("nosuch.bin", r"^nosuch.bin: expected a word-vector file, found none; check the path$"),
    ("me/no", r"me/no: .* \(fetch it once: hf download me/no\), found none in"),
])  # fmt: skip
def test_a_text_source_that_is_not_at_hand_is_told_with_what_to_do(text, told):
    options, problem = text_options(text)
    assert re.search(told, problem) and options["source"].endswith(text) and options["dim"] in (300, 384)


def test_a_film_that_breaks_off_says_so_and_the_first_one_tells_what_all_need(tmp_path, capsys):
    path = tmp_path / "films" / "film.mkv"
    write_video(path, 12.0)
    write_captions(path.with_suffix(".srt"), (0.0, 1.0, "one"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    extract(config_of(tmp_path / "films"))
    with open(tmp_path / "out" / "incomplete.csv", newline="") as rows:
        ((name, lacks),) = [(row["path"], row["lacks"]) for row in csv.DictReader(rows)]
    assert name == "film" and lacks.startswith("a part: the ")
    said = capsys.readouterr().out
    assert f"{path}: {lacks.removeprefix('a part: ')}; what could be read is used" in said
    size = size_text(sum(each.stat().st_size for each in (tmp_path / "out").rglob("*.npz")))
    assert re.search(
        rf"film_spec\.npz \(40, \d+\): {size}; about {size} of .* free, and at most .* for all 1 videos", said
    )


def test_all_videos_need_what_the_first_one_does_by_their_lengths(tmp_path):
    """Of bytes, a film of still pictures has a tenth."""
    paths = [tmp_path / f"film_{number}.mkv" for number in range(4)]
    for path, seconds in zip(paths, (1.0, 2.0, 3.0), strict=False):
        write_video(path, seconds)
    paths[3].write_text("no film")  # whose length is not known: it counts as the mean of the others
    assert times_more(paths[0], paths) == pytest.approx(8.0, rel=0.1)
    assert times_more(paths[3], paths) == 4.0


def test_a_disk_that_is_too_small_for_all_is_foreseen(tmp_path):
    np.savez(tmp_path / "film.npz", features=np.zeros((3, 4), np.float16))
    told = forecast(tmp_path, [tmp_path / "film.npz"], 2.0, 7200.0)
    assert re.fullmatch(r"film\.npz \(3, 4\): (\d+) B; about (\d+) B of .* free, and at most 4\.0 h", told)
    with pytest.raises(InputError, match=r"expected room for about .* TB, found .* free; give another place"):
        forecast(tmp_path, [tmp_path / "film.npz"], 1e15, 1.0)
    assert [size_text(count) for count in (999, 1500, 2.5e6, 3e9, 4e15)] == [
        "999 B", "1.5 kB", "2.5 MB", "3.0 GB", "4000.0 TB",
    ]  # fmt: skip


def test_captions_have_one_film_a_line(tmp_path):
    entries = {f"film_{number}": {"start": [0.0], "text": ["é"]} for number in range(3)}
    write_entries(tmp_path / "c.json", iter(entries.items()))
    text = (tmp_path / "c.json").read_text(encoding="utf-8")
    assert json.loads(text) == entries and text.split("\n")[1] == '"film_0": {"start": [0.0], "text": ["é"]},'
    write_entries(tmp_path / "c.json", [])
    assert (tmp_path / "c.json").read_text() == "{}\n"


def test_options_of_a_first_try_that_was_refused_bind_nobody(films):
    with pytest.raises(InputError, match="did you mean timm"):
        extract(config_of(films, streams=(EncodedStream("colour", "tim:resnet51", 2.0),)))
    extract(config_of(films))
    with pytest.raises(InputError, match="expected the same options, found another bands"):
        extract(config_of(films, bands=20))


def test_given_lists_divide_the_videos(films):
    lists = films.parent / "lists"
    lists.mkdir()
    (lists / "train.csv").write_text("path\nfilm_2\n")
    (lists / "val.csv").write_text("video_id\nfilm_0\n")
    extract(config_of(films, lists=str(lists)))
    found = {}
    for split in ("train", "val", "test"):
        with open(films.parent / "out" / f"{split}.csv", newline="") as rows:
            found[split] = [row["path"] for row in csv.DictReader(rows)]
    assert found == {"train": ["film_2"], "val": ["film_0"], "test": []}
    (lists / "val.csv").write_text("path\nfilm_7\n")
    with pytest.raises(InputError, match=r"--lists .*val\.csv: expected videos of --videos, found film_7; correct it"):
        extract(config_of(films, lists=str(lists)))
    with pytest.raises(InputError, match=r"--lists nowhere: expected a folder with train\.csv, val\.csv, test\.csv"):
        extract(config_of(films, lists="nowhere"))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_one_video_at_least_is_left_for_training(count):
    for names in ([f"v{first}_{number}" for number in range(count)] for first in range(60)):
        splits = split_videos(names, {"val": 0.4, "test": 0.5})
        assert splits["train"] and sorted(name for each in splits.values() for name in each) == names


def test_a_name_that_no_list_can_hold_is_refused(tmp_path):
    write_video(tmp_path / "films" / "film .mp4")
    with pytest.raises(InputError, match=r"expected names without outer spaces, found '.*film .mp4'; rename it"):
        extract(config_of(tmp_path / "films"))


def test_what_macos_keeps_beside_a_film_is_no_film(films):
    (films / "._film_0.mp4").write_bytes(b"\0" * 100)
    assert "0 failed" in extract(config_of(films))


def test_the_others_are_checked_and_packed_where_too_many_failed(films, capsys):
    (films / "broken.mp4").touch()
    config = films.parent / "c.yaml"
    config.write_text("streams: [{name: colour, encoder: extract.making.Colours, rate: 2.0}]\nworkers: 1\n")
    words = films.parent / "words.txt"
    words.write_text("a 1 2 3\nb 1 2 3\n")
    told = ["--videos", films, "--output", films.parent / "out", "--config", config, "--text", words]
    told += ["--pack", films.parent / "shards"]
    with pytest.raises(SystemExit, match=r"--max_bad_share: expected at most 0\.05 .* found 1 of 4"):
        main(["extract", *map(str, told)])
    said, errors = capsys.readouterr()
    assert not errors.count("error"), errors
    assert "packed 3 videos" in said and (films.parent / "shards" / "index.safetensors").is_file()
    assert f"train: lightning fit --config {films.parent}/out/data.yaml --data.shards {films.parent}/shards\n" in said
    for path in films.glob("film_*"):
        path.write_text("")
    with pytest.raises(SystemExit, match=r"--max_bad_share: expected at most 0\.05 .* found 4 of 4"):
        main(["extract", *map(str, told)])
    assert "train.csv: expected one video a line, found none" in capsys.readouterr().err
