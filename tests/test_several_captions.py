"""Clips with several captions, in every form that people have: one gallery item, every caption a query."""

from __future__ import annotations

import csv
import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.benchmark_files import WORDS, write, write_word_vectors
from benchmarks.evaluating import evaluate, overlay, own, refuse
from launch import run
from processes import python
from references.full_video import first_rank
from references.retrieval import expected_rank, scores
from safetensors.torch import load_file

from mcn_lightning.data.captions import parse_captions
from mcn_lightning.data.sources.clip_pickles import PickledClips
from mcn_lightning.data.sources.clip_records import ClipFields

CLIPS, EACH = 8, 20


def clips(each: int = EACH) -> list[dict[str, Any]]:
    """Eight clips in MSR-VTT's form, with 20 captions each in a list."""
    rng = np.random.default_rng(5)
    return [
        {
            "id": f"video{number}",
            "2d": np.abs(rng.standard_normal(8)).astype(np.float32),
            "3d": np.abs(rng.standard_normal(8)).astype(np.float32),
            "audio": torch.from_numpy(rng.uniform(-80, 0, (40, 60 + number)).astype(np.float32)),
            "caption": [" ".join(rng.choice(WORDS, 4)) for _ in range(each)],
        }
        for number in range(CLIPS)
    ]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with one caption a row: rows of one id, not side by side, each with arrays of its own."""
    return [
        {**clip, "caption": clip["caption"][k], "2d": clip["2d"].copy(), "3d": torch.from_numpy(clip["3d"]).double()}
        for k in range(EACH)
        for clip in found
    ]


def eval_lists(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**clip, "caption": "topic0word0", "eval_caption": clip["caption"]} for clip in found]


def eval_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every caption stands in every row; a row asks with one of them."""
    return [{**clip, "eval_caption": clip["caption"][k]} for clip in found for k in range(EACH)]


FORMS = {"lists": lambda found: found, "rows": rows, "eval lists": eval_lists, "eval rows": eval_rows}


def folder(path: Path, content: list[dict[str, Any]]) -> Path:
    path.mkdir()
    write_word_vectors(path / "word_vectors.txt", WORDS)
    write(path / "msrvtt_jsfusion_test.pkl", content)
    return path


def expected(root: Path, path: Path) -> dict[str, list[float]]:
    """Ranks of every direction by the reference, from embeddings that predict wrote of clips with one caption each."""
    single = [
        {**clip, "id": f"{clip['id']}_{k}", "caption": clip["caption"][k]} for k in range(EACH) for clip in clips()
    ]
    words = ["--config", own(path), "--config", overlay(path, folder(path / "single", single))]
    words += ["--trainer.callbacks", "[]", "--data.val_csv", "msrvtt_jsfusion_test.pkl", "--data.audio.num_frames", 100]
    run("predict", *words)
    (written,) = path.rglob("embeddings.safetensors")
    found = {name: values.double() for name, values in load_file(written).items() if name in ("video", "audio", "text")}
    text, video, audio = found["text"], found["video"][:CLIPS], found["audio"][:CLIPS]
    clip_of = list(range(CLIPS)) * EACH
    forth = {"t->va": video + audio, "t->v": video, "t->a": audio}
    ranks = {
        name: [expected_rank(row, clip) for row, clip in zip(scores(text, items), clip_of, strict=True)]
        for name, items in forth.items()
    }
    back = {"v->t": video, "a->t": audio}
    ranks |= {
        name: [float(first_rank(row, [c == clip for c in clip_of])) for clip, row in enumerate(scores(items, text))]
        for name, items in back.items()
    }
    return ranks


@pytest.fixture(scope="module")
def right(tmp_path_factory) -> dict[str, list[float]]:
    path = tmp_path_factory.mktemp("right")
    return expected(path, path)


def recall(ranks: list[float], k: int) -> float:
    return 100 * sum(rank <= k for rank in ranks) / len(ranks)


@pytest.mark.parametrize("form", FORMS)
def test_a_benchmark_ranks_every_caption_among_the_clips(form, right, tmp_path, capsys):
    root = folder(tmp_path / "files", FORMS[form](clips()))
    found = evaluate(root, tmp_path, without_audio="error", ranks_file="ranks.csv")
    for direction, ranks in right.items():
        for k in (1, 5):
            assert found[f"it/{direction}/R@{k}"] == pytest.approx(recall(ranks, k), abs=1e-4), direction
        assert found[f"it/{direction}/mean_rank"] == pytest.approx(sum(ranks) / len(ranks)), direction
    assert 0 < found["it/t->v/R@1"] < 100
    assert found["it/clips"] == 8 and found["it/captions"] == 160
    assert found["it/queries in t->va, t->v, t->a"] == found["it/items in v->t, a->t"] == 160
    assert found["it/items in t->va, t->v, t->a, a->v, v->a"] == 8
    said = capsys.readouterr().out
    assert "8 clips, 160 captions" in said and "160 queries in t->va, t->v, t->a" in said
    table = list(csv.DictReader(next(tmp_path.rglob("ranks.csv")).open()))
    assert len(table) == 160 and [row["id"] for row in table[:9]] == [*(f"video{n}" for n in range(8)), "video0"]
    assert [row["caption"] for row in table[:10]] == ["1"] * 8 + ["2", "3"]
    assert [row["v->t"] != "" for row in table] == [True] * 8 + [False] * 152
    assert sorted(float(row["t->v"]) for row in table) == pytest.approx(sorted(right["t->v"]))


def test_whole_videos_are_found_by_all_captions_of_their_clips(tmp_path):
    content = [{**clip, "id": f"video{number // 2:06d}_{number}"} for number, clip in enumerate(clips(3))]
    root = folder(tmp_path / "files", content)
    found = evaluate(root, tmp_path, without_audio="error", full_video=True)
    assert 0 <= found["it/t->v captions_video/R@1"] <= 100
    single = folder(tmp_path / "single", [{**clip, "caption": clip["caption"][:1]} for clip in content])
    fewer = evaluate(single, tmp_path, without_audio="error", full_video=True)
    assert set(fewer) < set(found)  # counts of queries and items come with several captions


def same_metrics(found: dict[str, float], other: dict[str, float]) -> bool:
    ranked = [{key: value for key, value in each.items() if "->" in key} for each in (found, other)]
    return bool(ranked[0]) and ranked[0] == ranked[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, float]:
    """Return the metrics of clips of which one has two captions less, and one is not there."""
    path = tmp_path_factory.mktemp("whole")
    content = [{**clip, "caption": clip["caption"][2:] if number == 3 else clip["caption"]}
               for number, clip in enumerate(clips()) if number != 5]  # fmt: skip
    return evaluate(folder(path / "whole", content), path, without_audio="error")


@pytest.mark.parametrize("form", ["lists", "rows", "eval lists", "array"])
def test_captions_without_text_are_left_out_of_a_benchmark_and_counted(form, whole, tmp_path, capsys):
    content = clips()
    content[3] = {**content[3], "caption": [None, float("nan"), *content[3]["caption"][2:]]}
    content[5] = {**content[5], "caption": [None] * EACH}
    asked = {**FORMS, "array": lambda each: [{**c, "caption": np.array(c["caption"], dtype=object)} for c in each]}
    found = evaluate(folder(tmp_path / "messy", asked[form](content)), tmp_path, without_audio="error")
    said = capsys.readouterr().out
    assert same_metrics(found, whole)
    assert found["it/clips"] == 7 and found["it/captions"] == 6 * EACH + EACH - 2
    assert found["it/captions without text"] == 2 and "2 captions without text, " in said
    assert found["it/captions without text (left out with their clips, which have no other)"] == EACH


HELD_OUT = ["--data.val_csv", "msrvtt_jsfusion_test.pkl", "--data.train_csv", "msrvtt_jsfusion_test.pkl"]


def test_clips_whose_only_caption_has_no_text_are_left_out_and_counted(tmp_path):
    content = [{**clip, "caption": clip["caption"][0]} for clip in clips()]
    fewer = folder(tmp_path / "whole", [clip for number, clip in enumerate(content) if number not in (1, 2, 4, 7)])
    for number, caption in ((1, None), (2, float("nan")), (4, " "), (7, [])):
        content[number]["caption"] = caption
    messy = folder(tmp_path / "messy", content)
    found = evaluate(messy, tmp_path, without_audio="error")
    assert same_metrics(found, evaluate(fewer, tmp_path, without_audio="error")) and found["it/clips"] == 4
    reason = "without text (left out with their clips, which have no other)"
    assert found[f"it/captions {reason}"] == 4
    found, table = validate(tmp_path, messy, *HELD_OUT)
    assert found == validate(tmp_path, fewer, *HELD_OUT)[0] and f"left out: 4 captions: 4 {reason}" in table
    assert "held-out clips: 4" in table


def test_a_pickle_without_any_caption_is_one_line(tmp_path, capsys):
    bad = folder(tmp_path / "bad", [{**clip, "caption": None} for clip in clips()])
    line = refuse(bad, tmp_path, capsys, own(tmp_path))
    assert "expected a caption under 'caption' or 'eval_caption', found none in ['2d', '3d', 'audio', 'caption'" in line


def test_training_takes_the_caption_and_not_that_of_evaluation(tmp_path):
    path = write(tmp_path / "a.pkl", [{"id": "a", "caption": "spoken", "eval_caption": "asked"},
                                      {"id": "b", "caption": "spoken", "eval_caption": [None]},
                                      {"id": "c", "caption": None, "eval_caption": ["asked"]}])  # fmt: skip
    source = PickledClips(path, ClipFields())
    assert [source.open(number).captions.choices for number in range(3)] == [(("spoken",),), (("spoken",),), None]
    assert source.open(2).captions.text == ("asked",) and source.dropped() == {}
    asked = PickledClips(path, ClipFields(), merge=True)
    assert [asked.open(number).captions.text for number in range(2)] == [("asked",)] * 2 and asked.ids == ["a", "c"]


def test_training_draws_from_the_captions_that_have_text(tmp_path, caplog):
    content = [{**clip, "caption": [*clip["caption"][:2], None]} for clip in clips()]
    content[4]["caption"] = None
    root = folder(tmp_path / "files", content)
    lists = ["--data.train_csv", "msrvtt_jsfusion_test.pkl", "--data.val_csv", "null", "--data.max_bad_share", 0.2]
    run("fit", "--config", overlay(tmp_path, root), *lists, "--data.batch_size", 4, "--trainer.max_epochs", 1)
    said = caplog.text
    assert "clip video4: expected a caption with text, found none" in said
    assert "epoch 1 went without 7 captions: 7 without text" in said


@pytest.mark.parametrize("key", ["2d", "3d", "audio"])
def test_rows_of_one_id_with_other_features_are_refused(key, tmp_path, capsys):
    content = rows(clips())
    content[27] = {**content[27], key: content[27][key] + 1}
    line = refuse(folder(tmp_path / "bad", content), tmp_path, capsys, own(tmp_path))
    assert "clip video3: expected rows with the same features" in line
    assert f"found another {key} in row 27 than in row 3" in line


def test_a_size_of_the_benchmark_needs_one_caption_a_clip(tmp_path, capsys):
    line = refuse(folder(tmp_path / "bad", clips()), tmp_path, capsys, own(tmp_path, benchmark_size=1000))
    assert "benchmark_size: expected clips with one caption each, found 160 captions of 8 clips" in line


def test_any_number_of_processes_gives_the_same_figures(tmp_path):
    root = folder(tmp_path / "files", rows(clips()))
    options = {"without_audio": "error", "batch_size": 3}
    alone = evaluate(root, tmp_path, **options)
    given = ["--config", own(tmp_path, **options), "--config", overlay(tmp_path, root), "--trainer.devices", 3]
    done = python("-m", "mcn_lightning", "test", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    newest = max(tmp_path.rglob("benchmarks.json"), key=lambda each: each.stat().st_mtime_ns)
    found = {"/".join(filter(None, (row["benchmark"], row["setting"], row["metric"]))): row["value"]
             for row in json.loads(newest.read_text())}  # fmt: skip
    assert found == alone


def layout(path: Path, videos: dict[str, dict[str, list[Any]]]) -> None:
    """Write videos of the release's layout: features of 40 s, and captions."""
    rng = np.random.default_rng(3)
    path.mkdir(parents=True)
    write_word_vectors(path / "word_vectors.txt", WORDS)
    for name in videos:
        where = path / "features" / name
        where.mkdir(parents=True)
        for suffix, rate in (("_2d", 1.0), ("_3d", 1.5)):
            values = np.abs(rng.standard_normal((int(40 * rate), 8))).astype(np.float32)
            np.savez(where / f"{name}{suffix}.npz", features=values)
        np.savez(where / f"{name}_spec.npz", arr_0=rng.uniform(-80, 0, (40, 4000)).astype(np.float16))
    (path / "captions.json").write_text(json.dumps(videos))
    for split in ("train", "val"):
        (path / f"{split}.csv").write_text("path\n" + "\n".join(videos) + "\n")


def in_one_place(each: int) -> dict[str, dict[str, list[Any]]]:
    """Two videos of four clips; the captions of a clip have identical times."""
    rng = np.random.default_rng(9)
    times = [(4.0 * clip, 4.0 * clip + 3.5) for clip in range(4) for _ in range(each)]
    return {
        f"video{video}": {
            "start": [start for start, _ in times],
            "end": [end for _, end in times],
            "text": [" ".join(rng.choice(WORDS, 4)) for _ in times],
        }
        for video in range(2)
    }


def validate(path: Path, root: Path, *more: object, devices: int = 1) -> tuple[dict[str, float], str]:
    """Evaluate held-out clips, and return what is logged and the table."""
    words = ["validate", "--config", overlay(path, root), "--seed_everything", 0, "--data.eval_batch_size", 1, *more]
    if devices == 1:
        with redirect_stdout(io.StringIO()) as said:
            run(*words)
        table = said.getvalue()
    else:
        done = python("-m", "mcn_lightning", *words, "--trainer.devices", devices)
        assert done.returncode == 0, done.stderr[-3000:]
        table = done.stdout
    newest = max(path.rglob("metrics.csv"), key=lambda each: each.stat().st_mtime_ns)
    row = list(csv.DictReader(newest.open()))[-1]
    return {name: float(value) for name, value in row.items() if name.startswith("val/")}, table


def test_captions_of_the_same_seconds_are_one_item_of_the_held_out_clips(tmp_path):
    root = tmp_path / "files"
    layout(root, in_one_place(3))
    found, table = validate(tmp_path, root)
    assert "held-out clips: 8" in table
    counts = {
        line.split()[0]: line.split()[-2:] for line in table.splitlines() if "->" in line and "chance" not in line
    }
    assert counts["t->v"] == ["24", "8"] and counts["v->t"] == ["8", "24"] and counts["a->v"] == ["8", "8"]
    run("predict", "--config", overlay(tmp_path, root), "--seed_everything", 0)
    rows = {name: each.double() for name, each in load_file(next(tmp_path.rglob("embeddings.safetensors"))).items()}
    clip_of = [row // 3 for row in range(24)]  # of each caption, in the order of the videos
    forward = scores(rows["text"], rows["video"][::3])
    forth = [expected_rank(row, clip) for row, clip in zip(forward, clip_of, strict=True)]
    back = [
        float(first_rank(row, [other == clip for other in clip_of]))
        for clip, row in enumerate(scores(rows["video"][::3], rows["text"]))
    ]
    for direction, ranks in (("t->v", forth), ("v->t", back)):
        assert found[f"val/{direction}/mean_rank"] == pytest.approx(sum(ranks) / len(ranks))
        assert found[f"val/{direction}/R@5"] == pytest.approx(recall(ranks, 5), abs=1e-4)
    assert found["val/t->v/R@1"] > 0  # copies in the gallery would tie, and none could be first
    shared, other = validate(tmp_path, root, devices=2)
    assert shared == pytest.approx(found) and "held-out clips: 8" in other


def test_a_column_of_several_captions_asks_for_its_clips(tmp_path):
    several, single = in_one_place(3), in_one_place(1)
    for name, video in single.items():
        text = several[name]["text"]
        video["text"], video["captions"] = text[::3], [text[first : first + 3] for first in range(0, 12, 3)]
    for name, videos in (("several", several), ("column", single)):
        layout(tmp_path / name, videos)
    expected, table = validate(tmp_path, tmp_path / "several")
    found, other = validate(tmp_path, tmp_path / "column", "--data.text.eval_column", "captions")
    assert found == pytest.approx(expected) and table.splitlines()[-12:] == other.splitlines()[-12:]
    plain, _ = validate(tmp_path, tmp_path / "column")
    assert plain != found


def test_queries_of_a_column_stay_with_their_caption():
    entry = {"start": [0, 5, 9], "end": [4, 5, 12], "text": ["a", "b", "c"], "more": [["d", "e"], ["f"], ["g"]]}
    found = parse_captions(entry, "more", "more")
    assert found.text == ("a", "c") and found.queries == (("d", "e"), ("g",)) == found.choices
    assert parse_captions(entry).queries is None


def test_a_held_out_pickle_has_one_item_an_id(right, tmp_path):
    for form in ("rows", "lists"):
        root = folder(tmp_path / form, FORMS[form](clips()))
        shutil.copy(root / "msrvtt_jsfusion_test.pkl", root / "train.pkl")
        lists = ["--data.val_csv", "msrvtt_jsfusion_test.pkl", "--data.train_csv", "train.pkl"]
        found, table = validate(tmp_path, root, *lists, "--data.audio.num_frames", 100)
        assert "held-out clips: 8" in table
        for direction in ("t->va", "t->v", "v->t"):
            mean = sum(right[direction]) / len(right[direction])
            assert found[f"val/{direction}/mean_rank"] == pytest.approx(mean)
        assert found["val/t->v/R@1"] > 0


def test_shards_refuse_a_column_that_they_do_not_hold(tmp_path):
    layout(tmp_path / "files", in_one_place(1))
    with pytest.raises(SystemExit) as stop:
        words = ["--config", overlay(tmp_path, tmp_path / "files"), "--data.text.eval_column", "captions"]
        run("prepare", *words, "--pack.output", tmp_path / "shards")
    assert "--data.text.eval_column: expected text with shards" in str(stop.value.code)
