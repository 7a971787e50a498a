"""Making an index: what is in it, going on, additions, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from launch import refusal, run
from processes import running, until
from safetensors.torch import load_file
from terminal import Terminal

import mcn_lightning as mcn
from mcn_lightning.search.build import embed
from mcn_lightning.search.build.folder import making
from mcn_lightning.search.build.job import Build
from mcn_lightning.search.options import IndexConfig


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def videos_of(root: Path, split: str) -> list[str]:
    return (root / f"{split}.csv").read_text().split()[1:]


def copied(trained, tmp_path: Path, train: int) -> tuple[Path, Path]:
    """Return a copy of the data with the first videos alone, and a config for it."""
    root = shutil.copytree(trained.root, tmp_path / "data")
    listed = videos_of(root, "train")
    (root / "train.csv").write_text("path\n" + "\n".join(listed[:train]) + "\n")
    options = yaml.safe_load(trained.config.read_text())
    options["data"]["root"] = str(root)
    path = tmp_path / "copy.yaml"
    path.write_text(yaml.safe_dump(options))
    return root, path


def test_every_caption_of_every_split_is_a_clip_with_its_columns(index, trained):
    captions = json.loads((trained.root / "captions.json").read_text())
    videos = [Path(line).name for split in ("train", "val") for line in videos_of(trained.root, split)]
    expected = [
        (f"{video}:{number}", video, start, end, text)
        for video in videos
        for number, (start, end, text) in enumerate(
            zip(captions[video]["start"], captions[video]["end"], captions[video]["text"], strict=True)
        )
    ]
    clips = index.clips.take(range(len(index)))
    assert [tuple(clip[name] for name in ("id", "video", "start", "end", "text")) for clip in clips] == expected
    assert {clip["split"] for clip in clips} == {"train", "val"} and {clip["kind"] for clip in clips} == {"caption"}
    topics = [topic for video in videos for topic in captions[video]["topic"]]
    assert [clip["topic"] for clip in clips] == topics
    assert all(clip["cluster"] in range(4) and clip["has_audio"] == 1 for clip in clips)


def test_embeddings_and_clusters_are_those_of_predict(index, trained, tmp_path):
    checkpoint = trained.folder / "checkpoints" / "last.ckpt"
    path = tmp_path / "e.safetensors"
    run("predict", "--config", trained.folder / "config.yaml", "--ckpt_path", checkpoint, "--split", "all",
        "--embeddings.path", path)  # fmt: skip
    found, about = load_file(path), json.loads(path.with_suffix(".json").read_text())["clips"]
    clips = index.clips.take(range(len(index)))
    assert [clip["id"] for clip in clips] == [clip["id"] for clip in about]
    assert [clip["cluster"] for clip in clips] == found["cluster"].tolist()
    for name in ("video", "audio", "text"):
        torch.testing.assert_close(index.vectors.rows([name], range(len(index))), found[name].half().float())
    both = (found["video"].half().float() + found["audio"].half().float()).half().float()
    torch.testing.assert_close(index.vectors.rows(["fused"], range(len(index))), both)


def test_the_index_has_its_own_model_words_and_clusters(index, trained):
    model = mcn.load(trained.folder)
    text = index.clips.take([3])[0]["text"]
    torch.testing.assert_close(index.model.embed_text(text), model.embed_text(text))
    centroids, sizes = model.clusters_of(["video"])
    assert torch.equal(index.ranking.clusters["video.centroids"], centroids)
    assert torch.equal(index.ranking.clusters["video.sizes"], sizes)
    shutil.rmtree(index.folder.parent / "moved", ignore_errors=True)
    moved = mcn.Index.open(shutil.copytree(index.folder, index.folder.parent / "moved"))
    assert moved.search(text, k=3)["id"].tolist() == index.search(text, k=3)["id"].tolist()


def test_two_builds_have_the_same_bytes_by_the_command_and_from_python(made, trained, tmp_path):
    data = mcn.NarratedVideos(**yaml.safe_load(trained.config.read_text())["data"])
    index = mcn.Index.make(tmp_path / "again", trained.folder, data)
    assert contents(tmp_path / "again") == contents(made) and len(index) == 40
    assert data.predict_split == mcn.NarratedVideos("x").predict_split
    with pytest.raises(mcn.InputError, match=r"index\.clip: expected an option of IndexConfig"):
        mcn.Index.make(tmp_path / "again", trained.folder, data, clip="both")


def test_a_build_on_two_devices_has_the_same_clips(index, trained, tmp_path):
    other = trained.index(tmp_path / "two", "--devices", 2)
    assert other.clips.take(range(len(other))) == index.clips.take(range(len(index)))
    for name in index.vectors.names:
        torch.testing.assert_close(other.vectors.rows([name], range(len(other))),
                                   index.vectors.rows([name], range(len(index))))  # fmt: skip


SLOW = """
import os, sys, time
import mcn_lightning.search.build.embed as embed

def slow(*args):
    open(os.path.join(os.path.dirname(__file__), f"held-{os.getpid()}"), "w").close()
    write(*args)
    time.sleep(600)

embed.BLOCK = 2
write, embed.write_part = embed.write_part, slow
if __name__ == "__main__":
    from mcn_lightning.commands.main import main

    main(sys.argv[1:])
"""
"""The command with blocks of two videos, which waits after each block."""


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_a_stopped_build_goes_on_and_ends_in_the_same_bytes(made, trained, tmp_path, capsys, monkeypatch, name):
    """It is stopped as soon as each of its processes has a block. Another model cannot finish its work."""
    folder, program = tmp_path / "index", tmp_path / "slow.py"
    program.write_text(SLOW)
    words = ["index", "--ckpt_path", str(trained.folder), "--config", str(trained.config), "--output", str(folder)]
    command = [sys.executable, str(program), *words, "--device", "cpu", "--devices", "2"]
    terminal = Terminal(command, tmp_path, forked=True)
    until(lambda: len(list(folder.glob("parts/*.safetensors"))) == 2, "a block of each process")
    if name == "SIGINT":
        terminal.press()
        assert terminal.end() == 130 and terminal.text.count("stopped") == 1, terminal.text
    else:
        os.kill(terminal.process, signal.SIGKILL)
        assert terminal.status() == -signal.SIGKILL
    held = [int(path.name.partition("-")[2]) for path in tmp_path.glob("held-*")]
    assert len(held) == 2 and terminal.process not in held
    until(lambda: not any(map(running, held)), "the end of all processes")
    assert len(list(folder.glob("parts/*.safetensors"))) == 2
    with pytest.raises(mcn.InputError, match="lightning index has not finished; run the same command again"):
        mcn.Index.open(folder)
    said = refusal(capsys, *words[:2], another_run(trained, tmp_path), *words[3:])
    assert "expected the model that the index was made with" in said
    assert "expected clips as in this index" in refusal(capsys, *words, "--clips", "both")
    monkeypatch.setattr(embed, "BLOCK", 2)
    run(*words)
    assert contents(folder) == contents(made)


def test_new_videos_are_added_and_old_ones_are_not_embedded_again(trained, tmp_path, capsys, monkeypatch):
    root, config = copied(trained, tmp_path, train=3)
    folder = tmp_path / "index"
    words = ["index", "--ckpt_path", trained.folder, "--config", config, "--output", folder]
    run(*words)
    before = mcn.Index.open(folder)
    old = before.clips.take(range(len(before)))
    shards = {name: (folder / name).read_bytes() for name, _ in before.manifest.shards}
    before.clips.close()
    run(*words)
    assert "0 new" in capsys.readouterr().out
    shutil.copy(trained.root / "train.csv", root)
    run(*words)
    after = mcn.Index.open(folder)
    new = after.clips.take(range(len(old), len(after)))
    assert {clip["video"] for clip in new} == {Path(line).name for line in videos_of(root, "train")[3:]}
    assert after.clips.take(range(len(old))) == old
    assert all((folder / name).read_bytes() == content for name, content in shards.items())
    assert len(after.vectors) == len(after) == len(old) + len(new) and f"{len(new)} new" in capsys.readouterr().out
    assert after.search(new[0]["text"], k=len(after))["id"].nunique() == len(after)
    assert sorted(path.name for path in folder.glob("clips-*")) == [after.manifest.table] == ["clips-2.sqlite"]
    assert not (folder / "parts").exists()


def test_what_another_command_added_in_between_is_kept(trained, tmp_path):
    root, config = copied(trained, tmp_path, train=3)
    run("index", "--ckpt_path", trained.folder, "--config", config, "--output", tmp_path / "index")
    options = yaml.safe_load(config.read_text())["data"]
    shutil.copy(trained.root / "train.csv", root)
    given = IndexConfig(str(trained.folder), str(tmp_path / "index"))
    late = Build(given, mcn.NarratedVideos(**options))  # it has looked at the folder, and then waits
    run("index", "--ckpt_path", trained.folder, "--config", config, "--output", tmp_path / "index")
    before = contents(tmp_path / "index")
    late.refresh()
    assert late.todo() == [] and "0 new" in late.finish() and contents(tmp_path / "index") == before
    with making(given, mcn.NarratedVideos(**options)):
        with pytest.raises(mcn.InputError, match="expected one command at a time, found another that writes it"):
            with making(given, mcn.NarratedVideos(**options)):
                pass


def test_windows_cover_videos_and_have_the_captions_in_them(trained, tmp_path):
    index = trained.index(tmp_path / "index", "--clips", "both", "--window", 8)
    clips = index.clips.take(range(len(index)))
    video = clips[0]["video"]
    windows = [clip for clip in clips if clip["kind"] == "window" and clip["video"] == video]
    assert [clip["id"] for clip in windows] == [f"{video}:w{start}" for start in (0, 8, 16, 24)]
    assert [(clip["start"], clip["end"]) for clip in windows] == [(0, 8), (8, 16), (16, 24), (24, 30)]
    said = json.loads((trained.root / "captions.json").read_text())[video]
    for clip in windows:
        inside = [text for start, end, text in zip(said["start"], said["end"], said["text"], strict=True)
                  if clip["start"] <= (start + end) / 2 < clip["start"] + 8]  # fmt: skip
        assert clip["text"] == (" ".join(inside) or None) or (clip["text"] == "" and not inside)
    captions = [clip["id"] for clip in clips if clip["kind"] == "caption"]
    assert len(captions) == 40 and len(set(captions)) == 40
    model = mcn.load(trained.folder)
    stored = index.embedding(windows[1]["id"], "v")
    rows = [np.load(next((trained.root).rglob(f"{video}{suffix}.npz")))["features"] for suffix in ("_2d", "_3d")]
    torch.testing.assert_close(stored, model.embed_video(rows, 8, 16), rtol=2e-3, atol=1e-3)


def test_own_columns_are_joined_by_video_and_can_be_asked_for(trained, tmp_path, capsys):
    videos = [Path(line).name for line in videos_of(trained.root, "train")]
    path = tmp_path / "own.csv"
    with open(path, "w", newline="") as file:
        rows = [[videos[0], 3, 1.5, "a, b"], [videos[1], 4, "", "c"], ["elsewhere", 5, 2.5, "d"]]
        csv.writer(file).writerows([["video", "year", "weight", "author"], *rows])
    index = trained.index(tmp_path / "index", "--columns", path)
    clips = {clip["video"]: clip for clip in index.clips.take(range(len(index)))}
    own = {name: [clips[video][name] for video in videos[:3]] for name in ("year", "weight", "author")}
    assert own == {"year": [3, 4, None], "weight": [1.5, None, None], "author": ["a, b", "c", None]}
    found = index.search(clips[videos[0]]["text"], where="year = 4 and author = 'c'", k=50)
    assert set(found["video"]) == {videos[1]} and set(found["author"]) == {"c"}
    assert "1 videos are not in the index, such as elsewhere" in capsys.readouterr().out
    vectors, search = index.manifest.shards, index.manifest.galleries
    path.write_text(f"video,year,rating\n{videos[0]},7,2.5\n")
    index = trained.index(tmp_path / "index", "--columns", path)  # nothing is embedded again
    clips = {clip["video"]: clip for clip in index.clips.take(range(len(index)))}
    own = [[clips[video][name] for video in videos[:3]] for name in ("year", "rating", "author")]
    assert own == [[7, 4, None], [2.5, None, None], ["a, b", "c", None]]
    assert (index.manifest.shards, index.manifest.galleries) == (vectors, search)
    said = capsys.readouterr().out
    assert "0 new" in said and "--columns: new values for 1 videos" in said
    again = trained.index(tmp_path / "index", "--columns", path)
    assert again.manifest == index.manifest


def test_a_video_that_cannot_be_read_is_named_and_left_out(trained, tmp_path, capsys):
    root, config = copied(trained, tmp_path, train=4)
    bad = Path(videos_of(root, "train")[1]).name
    next(root.rglob(f"{bad}_2d.npz")).write_bytes(b"no array")
    words = ["index", "--ckpt_path", trained.folder, "--config", config, "--output", tmp_path / "index"]
    run(*words)
    said = capsys.readouterr().out
    assert "warning: 1 videos left out: " in said and f"{bad}_2d.npz" in said
    index = mcn.Index.open(tmp_path / "index")
    assert bad not in index.clips.videos() and list(index.manifest.skipped) == [bad]
    shutil.copy(next(trained.root.rglob(f"{bad}_2d.npz")), next(root.rglob(f"{bad}_2d.npz")))
    run(*words)  # it was mended, and is added
    assert bad in mcn.Index.open(tmp_path / "index").clips.videos()


def test_a_clip_that_lacks_a_modality_is_no_answer_of_that_gallery(trained, tmp_path):
    root, config = copied(trained, tmp_path, train=4)
    silent = Path(videos_of(root, "train")[0]).name
    next(root.rglob(f"{silent}_spec.npz")).unlink()
    run("index", "--ckpt_path", trained.folder, "--config", config, "--data.allow_missing", "true", "--output",
        tmp_path / "index")  # fmt: skip
    index = mcn.Index.open(tmp_path / "index")
    text = index.clips.take([0])[0]["text"]
    for modality, there in (("a", False), ("v", True), ("va", True)):
        found = index.search(text, modality=modality, k=len(index))
        assert (silent in set(found["video"])) == there
        filtered = index.search(text, modality=modality, k=len(index), where="row >= 0")
        assert filtered["id"].tolist() == found["id"].tolist()
        np.testing.assert_allclose(filtered["score"], found["score"], rtol=1e-5, atol=1e-6)
    assert found[found["video"] == silent]["score_a"].isna().all()
    with pytest.raises(mcn.InputError, match=f"--like {silent}:0: expected a clip with audio, found none"):
        index.search(like=f"{silent}:0", modality="a")


def test_without_a_config_the_data_are_those_of_the_run(made, trained, tmp_path):
    for number, checkpoint in enumerate((trained.folder, trained.folder / "checkpoints" / "last.ckpt")):
        run("index", "--ckpt_path", checkpoint, "--output", tmp_path / str(number))
        found, expected = contents(tmp_path / str(number)), contents(made)
        assert found.keys() == expected.keys()
        assert all(found[name] == expected[name] for name in expected if name != "index.json")  # options of training


def test_shards_give_the_same_index(index, trained, tmp_path, capsys):
    shards = tmp_path / "shards"
    run("prepare", "--config", trained.config, "--pack.output", shards, "--data.clips.min_time", 0)
    words = ("--data.shards", shards, "--data.clips.min_time", 0)
    other = trained.index(tmp_path / "index", *words)
    assert other.clips.take(range(len(other))) == index.clips.take(range(len(index)))
    assert torch.equal(other.vectors.rows(["fused"], range(40)), index.vectors.rows(["fused"], range(40)))
    said = refusal(capsys, "index", "--ckpt_path", trained.folder, "--config", trained.config, *words, "--clips",
                   "windows", "--output", tmp_path / "w")  # fmt: skip
    assert "--clips: expected captions, or shards packed with --pack.keep_frames true" in said


def test_export_is_the_table_or_one_line(made, trained, tmp_path, capsys):
    words = ["index", "--ckpt_path", trained.folder, "--config", trained.config, "--output", tmp_path / "i", "--export",
             tmp_path / "clips.parquet"]  # fmt: skip
    try:
        import pandas as pd
        import pyarrow  # noqa: F401
    except ImportError:
        assert "--export: expected the package pyarrow, found none" in refusal(capsys, *words)
        assert not (tmp_path / "i").exists()
        return
    run(*words)
    assert pd.read_parquet(tmp_path / "clips.parquet")["id"].tolist() == [
        clip["id"] for clip in mcn.Index.open(made).clips.take(range(40))
    ]


def another_run(trained, tmp_path: Path) -> Path:
    """Return a checkpoint that differs in one weight."""
    path = shutil.copytree(trained.folder, tmp_path / "other") / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    next(value for value in saved["state_dict"].values() if value.is_floating_point()).flatten()[0] += 1
    torch.save(saved, path)
    return path


def test_another_model_other_options_and_other_folders_are_refused(made, trained, tmp_path, capsys):
    folder = shutil.copytree(made, tmp_path / "index")
    before = contents(folder)
    words = ["index", "--config", trained.config, "--output", folder, "--ckpt_path"]
    other = another_run(trained, tmp_path)
    assert "expected the model that the index was made with" in refusal(capsys, *words, other)
    with pytest.raises(mcn.InputError, match="expected the model that the index was made with"):
        mcn.Index.open(folder, mcn.load(other))
    assert mcn.Index.open(folder, mcn.load(trained.folder)).search("topic0word0", k=1)["id"].notna().all()
    said = refusal(capsys, *words, trained.folder, "--clips", "both")
    assert "expected clips as in this index ('captions'), found 'both'; give another folder" in said
    said = refusal(capsys, *words, trained.folder, "--data.text.lowercase", "true")
    assert "expected text.lowercase as in this index (False), found True; give another folder" in said
    assert contents(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    words[4] = tmp_path / "mine"
    assert "expected an index or an empty folder, found other files" in refusal(capsys, *words, trained.folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt"),
        (("--ckpt_path", "none"), "--ckpt_path none: expected a run or a checkpoint, found none; check the path"),
        (("--ckpt_path", "."), "--ckpt_path .: expected a run with config.yaml, found none; give --config data.yaml"),
        (("--galleries", "[vx]"), "--galleries: expected letters of v, a and t, each once"),
        (("--window", 0.5), "--window: expected at least 1 second, found 0.5"),
        (("--columns", "nowhere.csv"), "nowhere.csv: expected a table with the column video, found no file"),
        (("--data.modalities", "[video, text]", "--galleries", "[a]"), "--galleries a: expected embeddings of audio"),
        (("--memory", 1e-9), "--memory: expected at least"),
        (("--data.streams", "[{suffix: _2d, width: 8}]"), "--ckpt_path: expected a model of video_dim 8"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(words, said, trained, tmp_path, capsys):
    given = [
        "index",
        "--output",
        tmp_path / "index",
        *([] if {".", "none"} & {*words} else ["--config", trained.config]),
    ]
    given += [] if "--ckpt_path" in words else ["--ckpt_path", trained.folder]
    assert said in refusal(capsys, *given, *words)
    assert not (tmp_path / "index" / "index.json").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,b\n1,2\n", "expected a table with the column video"),
        ("video,start\nx,1\n", "found 'start', which every index has; rename it"),
        ("video,a b\nx,1\n", "expected names of columns in letters, digits and _, found 'a b'"),
        ("video,n\nx,1\nx,2\n", "row 3: expected each video once, found x again"),
        ("video,n\nx\n", "row 2: expected 2 cells, found 1"),
    ],
)
def test_wrong_columns_are_one_line(rows, said, trained, tmp_path, capsys):
    path = tmp_path / "own.csv"
    path.write_text(rows)
    words = ["index", "--config", trained.config, "--ckpt_path", trained.folder, "--output", tmp_path / "index"]
    assert said in refusal(capsys, *words, "--columns", path)


def damage(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"", b"damaged" * 1000], ids=["missing", "empty", "damaged"])
@pytest.mark.parametrize("name", ["index.json", "clips-1.sqlite", "vectors-00000.safetensors", "neighbours-va-1.faiss",
                                  "network.safetensors", "words.safetensors", "clusters.safetensors"])  # fmt: skip
def test_a_corrupt_file_is_one_line(name, content, made, tmp_path, capsys):
    folder = shutil.copytree(made, tmp_path / "index")
    damage(folder / name, content)
    text = mcn.Index.open(made).clips.take([0])[0]["text"]
    more = ("--calibrate", 0.5) if name.startswith("clusters") else ()
    if (name, content) == ("words.safetensors", None):  # then the source of the words is read
        run("search", folder, text, *more)
        return
    said = refusal(capsys, "search", folder, text, *more)
    assert said.startswith("error: ") and said.count("\n") <= 1 and (name in said or str(folder) in said)


def test_an_index_of_another_version_is_one_line(made, tmp_path, capsys):
    folder = shutil.copytree(made, tmp_path / "index")
    found = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(found | {"format": 2}))
    assert "expected an index of format 1, found 2; make the index again" in refusal(capsys, "search", folder, "x")
    (folder / "index.json").write_text(json.dumps(found | {"table": "../../clips.sqlite"}))
    assert "expected names of files in its folder" in refusal(capsys, "search", folder, "x")
    assert "expected an index that lightning index made, found no such folder" in refusal(
        capsys, "search", tmp_path / "x", "x"
    )


def test_the_table_is_plain_sqlite_with_full_text(made):
    with sqlite3.connect(made / "clips-1.sqlite") as table:
        assert table.execute("SELECT count(*) FROM clips").fetchone() == (40,)
        assert table.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        word = table.execute("SELECT text FROM clips LIMIT 1").fetchone()[0].split()[0]
        by_words = table.execute("SELECT count(*) FROM words WHERE words MATCH ?", [f'"{word}"']).fetchone()[0]
        assert by_words == sum(word in row[0].split() for row in table.execute("SELECT text FROM clips"))
