"""The benchmarks, run as a user runs them: every recipe on tiny files in their forms, and each bad file in one line."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from launch import run
from processes import python
from references.localization import alignment_score, assignment_total, steps_found
from references.losses import mms
from references.model import embed as embed_released
from references.model import random_released_state_dict
from safetensors.torch import load_file

from benchmarks.benchmark_files import STREAMS, write, youcook2
from benchmarks.evaluating import evaluate, overlay, written
from mcn_lightning.benchmarks import CrossTask, MiningYouTube
from mcn_lightning.benchmarks.files import EvaluationText
from mcn_lightning.benchmarks.localization.annotations import Segment
from mcn_lightning.benchmarks.localization.transcripts import Entry, second_labels, transcript
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.class_names import class_text
from mcn_lightning.data.sources.clip_pickles import PickledClips
from mcn_lightning.data.sources.clip_records import ClipFields
from mcn_lightning.data.text import TextConfig

TOP = Path(__file__).parents[2]
EVALUATE = sorted((TOP / "configs" / "evaluate").glob("*.yaml"))
FINETUNE = sorted((TOP / "experiments" / "finetune").glob("*.yaml"))


@pytest.mark.parametrize("recipe", EVALUATE, ids=lambda path: path.stem)
def test_every_benchmark_gives_its_table(recipe, files, tmp_path, capsys):
    run("test", "--config", recipe, "--config", overlay(tmp_path, files))
    said = capsys.readouterr().out
    found = written(tmp_path)
    names = [block["init_args"]["name"] for block in yaml.safe_load(recipe.read_text())["trainer"]["callbacks"]]
    assert {key.split("/")[0] for key in found} == set(names)
    assert all(name in said for name in names) and len(found) > 5
    table = next(tmp_path.rglob("benchmarks.csv"))
    rows = list(csv.DictReader(table.open()))
    assert [row["metric"] for row in rows] == [
        row["metric"] for row in json.loads(table.with_suffix(".json").read_text())
    ]
    published = {f"{row['setting']}/{row['metric']}": row["published"] for row in rows if row["published"]}
    sources = {f"{row['setting']}/{row['metric']}": row["source"] for row in rows if row["published"]}
    if recipe.stem == "youcook2":
        clips = {"t->va/R@1": "18.1", "t->va/R@5": "35.5", "t->va/R@10": "45.2"}
        videos = {f"t->va captions_video/R@{k}": value for k, value in ((1, "53.4"), (5, "75.0"), (10, "81.4"))}
        assert published == clips | videos
        assert all("confirmed" in sources[key] and "table 3" in sources[key] for key in clips)
        assert all("table 1, caption average" in sources[key] for key in videos)
        assert "(45.2)" in table.with_suffix(".md").read_text()
        assert "in brackets, youcook2 (t->va/R@1, t->va/R@5, t->va/R@10): Chen et al." in said
    if recipe.stem in ("crosstask", "mining_youtube"):
        sure = {key for key, source in sources.items() if "; unconfirmed" not in source}
        assert sure == ({"t->va/recall per video"} if recipe.stem == "crosstask" else set()) and len(sources) == 3
        assert "unconfirmed, check it there before you quote it" in said
    shares = [float(row["value"]) for row in rows if row["metric"].startswith(("R@", "top", "recall", "IoU", "AP"))]
    assert shares and all(0 <= share <= 100 for share in shares)


@pytest.mark.parametrize("recipe", FINETUNE, ids=lambda path: path.stem)
def test_every_recipe_fine_tunes_and_keeps_the_best(recipe, files, tmp_path, capsys, recwarn):
    words = ["--config", recipe, "--config", overlay(tmp_path, files)]
    run("fit", *words)
    checkpoint = next(tmp_path.rglob("last.ckpt"))
    run("fit", *words, "--model.weights", checkpoint, "--trainer.max_epochs", 2)
    assert f"{recipe.stem} t->va" in capsys.readouterr().out
    assert not any("in eval mode" in str(each.message) for each in recwarn)  # batch norm is frozen on purpose
    best = [path for path in tmp_path.rglob("*.ckpt") if path.name != "last.ckpt"]
    assert best
    scores = torch.load(best[-1], weights_only=True)["callbacks"]
    monitored = [state["monitor"] for name, state in scores.items() if name.startswith("ModelCheckpoint")]
    assert monitored == [f"val/{recipe.stem}/t->va/R@10"]
    rows = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).open()))
    assert any(row.get(f"val/{recipe.stem}/t->va/R@10") for row in rows)


def embed(root: Path, folder: Path, path: str) -> dict[str, np.ndarray]:
    """Embed the clips of a pickle by ``predict``, which goes another way than the benchmark."""
    words = ["--config", TOP / "configs" / "evaluate" / "youcook2.yaml", "--config", overlay(folder, root)]
    words += ["--trainer.callbacks", "[]", "--data.val_csv", path, "--data.audio.num_frames", 5120]
    run("predict", *words)
    found = load_file(max(folder.rglob("embeddings.safetensors"), key=lambda each: each.stat().st_mtime_ns))
    return {name: rows.double().numpy() for name, rows in found.items()}


def recall(queries: np.ndarray, gallery: np.ndarray, k: int, size: int | None = None) -> float:
    scores = queries @ gallery.T
    ranks = (scores > scores.diagonal()[:, None]).sum(axis=1) + 1
    return 100 * float((ranks <= k).sum()) / (size or len(ranks))


def test_recall_is_that_of_the_formula(files, tmp_path, capsys):
    rows = embed(files, tmp_path, "youcook_val_audio.pkl")
    words = ["--config", TOP / "configs" / "evaluate" / "youcook2.yaml", "--config", overlay(tmp_path, files)]
    run("test", *words)
    found = written(tmp_path)
    both = rows["video"] + rows["audio"]
    for k in (1, 5, 10):
        assert found[f"youcook2/t->va/R@{k}"] == pytest.approx(recall(rows["text"], both, k))
        assert found[f"youcook2/a->v/R@{k}"] == pytest.approx(recall(rows["audio"], rows["video"], k))


def test_clips_without_sound_are_misses_or_zeros(files, tmp_path, capsys):
    missed = evaluate(files, tmp_path, without_audio="miss", ranks_file="ranks.csv")
    assert missed["it/queries counted as misses in t->va, t->a, a->t, a->v, v->a"] == 3
    assert missed["it/clips"] == 20 and missed["it/clips without audio"] == 3
    ranks = list(csv.DictReader(next(tmp_path.rglob("ranks.csv")).open()))
    assert [row["id"] for row in ranks][:4] == ["video0", "video1", "video2", "video3"]
    assert [row["t->va"] for row in ranks][:3] == ["inf"] * 3 and all(float(row["t->v"]) <= 20 for row in ranks)
    found = [float(row["t->va"]) for row in ranks]
    assert missed["it/t->va/R@10"] == pytest.approx(100 * sum(rank <= 10 for rank in found) / 20)
    thousand = evaluate(files, tmp_path, without_audio="miss", benchmark_size=1000)
    assert thousand["it/t->va/R@10"] == pytest.approx(missed["it/t->va/R@10"] / 50)
    assert thousand["it/queries counted as misses in t->v, v->t"] == 980
    zeros = evaluate(files, tmp_path, without_audio="zero")
    assert zeros["it/t->v/R@10"] == pytest.approx(missed["it/t->v/R@10"]) and "it/clips without audio" in zeros


def test_any_number_of_processes_gives_the_same_results(files, tmp_path):
    words = ["--config", TOP / "configs" / "evaluate" / "paper.yaml", "--config", overlay(tmp_path, files)]
    words += ["--trainer.callbacks.init_args.batch_size", 4]  # more than one for each process
    run("test", *words)
    alone = written(tmp_path)
    done = python("-m", "mcn_lightning", "test", *words, "--trainer.devices", 3)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(alone) > 100 and written(tmp_path) == alone
    assert len(list(tmp_path.rglob("benchmarks.json"))) == 2


def test_entries_of_a_transcript_and_the_labels_of_seconds():
    segments = [Segment(2, 1.5, 3.2), Segment(0, 3.5, 4.0), Segment(2, 6.0, 8.5)]
    between = [(entry.step, entry.start, entry.end) for entry in transcript(segments, 10, background=True)]
    assert between == [
        (-1, 0.0, 1.5), (2, 1.5, 3.2), (0, 3.5, 4.0), (-1, 4.0, 6.0), (2, 6.0, 8.5), (-1, 8.5, 10.0),
    ]  # fmt: skip
    assert transcript(segments, 10, background=False) == [Entry(each.step, each.start, each.end) for each in segments]
    assert second_labels(segments, 10).tolist() == [-1, 2, 2, 0, -1, -1, 2, 2, -1, -1]


@pytest.mark.parametrize(
    ("kind", "option", "expected"),
    [
        ("mining_youtube", None, "steps"),
        ("mining_youtube", "all", "all"),
        ("mining_youtube", "none", "none"),
        ("crosstask", None, "none"),
        ("crosstask", "steps", "steps"),
    ],
)
def test_step_recall_follows_the_protocol_of_its_benchmark(kind, option, expected):
    protocol = CrossTask if kind == "crosstask" else MiningYouTube
    given = {} if option is None else {"recall_softmax": option}
    benchmark = protocol("it", videos="list", steps="steps", annotations="folder", features="folder", **given)
    scores = 3 * np.random.default_rng(0).standard_normal((9, 6))
    segments = [Segment(3, 0, 3), Segment(1, 3, 6), Segment(4, 6, 9)]
    columns = [3, 1, 4] if kind == "mining_youtube" else [1, 2, 3]
    by_softmax = {each: steps_found(scores, columns, each) for each in ("none", "steps", "all")}
    assert len(set(by_softmax.values())) == 3  # the protocols differ on this video
    truth = np.zeros((9, 3), dtype=bool)
    truth[by_softmax[expected], range(3)] = True  # right where this protocol puts the steps, and nowhere else
    video = SimpleNamespace(task="task", columns=slice(1, 4), truth=truth, segments=segments, entry_truth=lambda: truth)
    counts, precision = benchmark._recall(video, scores, {})
    assert (counts.hits, counts.annotated) == (3, 3)
    assert (precision is not None) == (kind == "crosstask")
    if precision is not None:
        np.testing.assert_array_equal(precision[0], scores[:, 1:4].astype(np.float32))  # always similarities


@pytest.mark.parametrize(
    ("name", "text"),
    [("ApplyEyeMakeup", "apply eye makeup"), ("brush_hair", "brush hair"), ("TaiChi", "tai chi"), ("run", "run")],
)
def test_class_names_become_words(name, text):
    assert class_text(name) == text


@pytest.mark.parametrize(("split", "similarity"), [("test", "cosine"), ("all", "dot")])
def test_recognition_follows_the_protocol_that_is_named(split, similarity, files, tmp_path, capsys):
    block = {"name": "ucf101", "path": "ucf101.pkl", "split": split, "neighbour_similarity": similarity}
    callbacks = [{"class_path": "mcn_lightning.benchmarks.RecognitionBenchmark", "init_args": block}]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"data": {"val_csv": None}, "trainer": {"callbacks": callbacks}}))
    run("test", "--config", path, "--config", overlay(tmp_path, files))
    found, said = written(tmp_path), capsys.readouterr().out
    suffix = " all clips" if split == "all" else ""
    nearest = "v->v nearest by dot product" if similarity == "dot" else "v->v nearest"
    assert f"ucf101/t->v{suffix}/top1" in found and f"ucf101/{nearest}/top5" in found
    assert f"ucf101/v clusters{suffix}/nmi" in found and nearest in said
    if split == "all":
        assert found["ucf101/clips recognised, which are all"] == 30
    else:
        assert found["ucf101/clips of the test split recognised"] == 12
    assert found["ucf101/training clips"] == 12 and found["ucf101/clips of neither split"] == 6


def test_references_are_of_use():
    scores = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert assignment_total(scores) == 3.0
    assert alignment_score(np.log(np.full((2, 2), 0.5)), [0, 1, 2], None) == pytest.approx(2 * np.log(0.5))


RELEASES = {
    "mcn": ({}, "MCN with reconstruction", "t->va"),
    "tri": ({"recon": False}, "AVLnet-Text-Tri", "t->va"),
    "avlnet": ({"recon": False, "text": "none"}, "AVLnet", "a->v"),
    "fused": ({"recon": False, "text": "fused"}, "AVLnet-Text-Fused", "ta->v"),
}


def embedded_by_reference(state: dict, files: Path, pickle: str) -> dict[str, torch.Tensor | None]:
    """Embed the clips of a pickle, in its order, by the slow formula in evaluation mode."""
    fields = ClipFields([VisualStream(**stream) for stream in STREAMS], AudioConfig())
    clips = PickledClips(files / pickle, fields)
    config = TextConfig(source="word_vectors.txt", dim=8, max_words=8)
    text = EvaluationText(config, files / "word_vectors.txt", clips.texts())
    records = [clips.open(number).record for number in range(len(clips))]
    audio = torch.stack([torch.nn.functional.pad(each.audio, (0, 5120 - each.audio.shape[1])) for each in records])
    lengths = torch.tensor([each.audio.shape[1] for each in records])
    streams = [torch.stack([each.streams[n][0].float() for each in records]) for n in (0, 1)]
    video = torch.cat([torch.nn.functional.normalize(stream, dim=1) for stream in streams], dim=1)
    with torch.no_grad():
        vectors = text.vectors([each.texts[0] for each in records], "cpu")
        return embed_released(state, video, audio, lengths, vectors, training=False)


@pytest.mark.parametrize(
    ("kind", "more", "pair"),
    [
        ("tri", (), ("text", "video+audio")),
        ("avlnet", ("[a-v]", "val/youcook2/a->v/R@10"), ("audio", "video")),
        ("fused", ("[ta-v]", "val/youcook2/ta->v/R@10"), ("audio_text", "video")),
    ],
    ids=["tri", "avlnet", "fused"],
)
def test_fine_tuning_begins_with_the_published_loss(kind, more, pair, files, tmp_path):
    """The first step, with what guides/finetuning.md adds: MMS in evaluation mode; then a decaying rate."""
    widths = {"video_dim": 16, "text_dim": 8, "audio_widths": (4, 4, 6, 8)}
    state = random_released_state_dict(12, **widths, **RELEASES[kind][0])
    torch.save(state, tmp_path / "weights.pth")
    rows = embedded_by_reference(state, files, "youcook_train_audio.pkl")
    count = len(rows["video"])
    words = ["--config", TOP / "experiments" / "finetune" / "youcook2.yaml", "--config", overlay(tmp_path, files)]
    words += ["--model.weights", tmp_path / "weights.pth", "--data.batch_size", count, "--trainer.max_epochs", 3]
    for option, value in zip(("--model.loss.contrastive.pairs", "--checkpoint.monitor"), more, strict=False):
        words += [option, value]
    run("fit", *words, "--trainer.callbacks+=LearningRateMonitor")
    logged = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).open()))
    first, second = (sum(rows[name] for name in side.split("+")) for side in pair)
    expected = float(mms(first, second, 0.001))
    assert float(next(row for row in logged if row["train/loss"])["train/loss"]) == pytest.approx(expected, rel=1e-4)
    rates = [float(row[name]) for row in logged for name in row if name.startswith("lr-") and name.endswith("pg1")
             and row[name]]  # fmt: skip
    assert rates == pytest.approx([1e-4, 0.9e-4, 0.81e-4])
    last = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)["state_dict"]
    assert not torch.equal(last["network.audio.network.bn1.weight"], state["DAVEnet.bn1.weight"])  # it was trained
    assert torch.equal(last["network.audio.network.bn1.running_mean"], state["DAVEnet.bn1.running_mean"])


@pytest.mark.parametrize("kind", RELEASES)
def test_released_weights_are_evaluated_as_they_are(kind, files, tmp_path, capsys):
    options, said, direction = RELEASES[kind]
    widths = {"video_dim": 16, "text_dim": 8, "audio_widths": (4, 4, 6, 8), "recon_hidden": 5}
    state = random_released_state_dict(12, **widths, **options)
    torch.save(state, tmp_path / "e16.pth")
    words = ["--config", TOP / "configs" / "evaluate" / "youcook2.yaml", "--config", overlay(tmp_path, files)]
    run("test", *words, "--model.weights", tmp_path / "e16.pth")
    out = capsys.readouterr().out
    assert said in out and "D = 12" in out
    found = written(tmp_path)
    assert f"youcook2/{direction}/R@10" in found
    embedded = embedded_by_reference(state, files, "youcook_val_audio.pkl")
    rows = {name: value.numpy() for name, value in embedded.items() if value is not None}
    query = {"t->va": "text", "a->v": "audio", "ta->v": "audio_text"}[direction]
    gallery = rows["video"] + rows["audio"] if direction == "t->va" else rows["video"]
    for k in (1, 5, 10):
        assert found[f"youcook2/{direction}/R@{k}"] == pytest.approx(recall(rows[query], gallery, k))


def test_the_best_checkpoint_is_kept_as_the_readme_says(files, tmp_path, capsys):
    words = ["--config", FINETUNE[-1], "--config", overlay(tmp_path, files), "--trainer.max_epochs", 3]
    assert "youcook2" in FINETUNE[-1].name
    run("fit", *words, "--checkpoint.mode", "min", "--model.optimizer.lr", 0.01)  # max is meant for recall
    rows = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).open()))
    found = [float(row["val/youcook2/t->va/R@10"]) for row in rows if row.get("val/youcook2/t->va/R@10")]
    kept = next(path for path in tmp_path.rglob("epoch=*.ckpt"))
    assert len(found) == 3 and kept.name.startswith(f"epoch={found.index(max(found))}-")


def test_a_run_on_generated_data_is_evaluated_by_layering(files, tmp_path, capsys):
    generated = tmp_path / "generated"
    demo = ["--config", TOP / "configs" / "demo.yaml", "--config", overlay(tmp_path, generated)]
    synthetic = ["--data.synthetic.videos", 8, "--data.synthetic.held_out", 2, "--data.synthetic.widths", "[8,8]"]
    run("fit", *demo, *synthetic, "--data.synthetic.word_dim", 8)
    folder = next(tmp_path.rglob("last.ckpt")).parents[1]
    names = sorted(path.name for path in files.iterdir())
    words = ["--config", folder / "config.yaml", "--config", TOP / "configs" / "evaluate" / "youcook2.yaml"]
    run("test", *words, "--data.root", files, "--ckpt_path", folder / "checkpoints" / "last.ckpt")
    assert "youcook2 t->va" in capsys.readouterr().out
    assert sorted(path.name for path in files.iterdir()) == names


LIMITED = """
import resource
from mcn_lightning.commands.main import main

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
if __name__ == "__main__":
    main()
"""
"""The command with few open files; every process that reads data imports this file again."""


def test_thousands_of_clips_reach_workers_of_two_processes(files, tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    shutil.copy(files / "word_vectors.txt", root)
    write(root / "youcook_val_audio.pkl", youcook2(8))
    clips = [copy.deepcopy(each) | {"id": str(number)} for number, each in enumerate(youcook2(8) * 150)]
    write(root / "youcook_train_audio.pkl", clips)
    (tmp_path / "limited.py").write_text(LIMITED)
    words = ["--config", FINETUNE[-1], "--config", overlay(tmp_path, root), "--trainer.devices", 2]
    words += ["--data.num_workers", 1, "--data.batch_size", 100, "--trainer.max_steps", 3]
    done = python(tmp_path / "limited.py", "fit", *words, "--data.audio.num_frames", 80)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_a_network_cannot_do_is_a_line_of_the_table(files, tmp_path, capsys):
    widths = {"video_dim": 16, "text_dim": 8, "audio_widths": (4, 4, 6, 8), "recon": False}
    torch.save(random_released_state_dict(12, **widths, text="none"), tmp_path / "avlnet.pth")
    words = ["--config", TOP / "configs" / "evaluate" / "paper.yaml", "--config", overlay(tmp_path, files)]
    run("test", *words, "--model.weights", tmp_path / "avlnet.pth")
    said = capsys.readouterr().out
    assert "crosstask: 0 evaluated (it needs embeddings of text, which this network lacks)" in said
    assert "youcook2 a->v" in said


def test_an_error_on_one_process_is_one_line_of_all(files, tmp_path):
    root = tmp_path / "bad"
    shutil.copytree(files, root)
    path = root / "crosstask" / "features" / "cross000001_2d.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    recipe = TOP / "configs" / "evaluate" / "crosstask.yaml"
    given = ["--config", recipe, "--config", overlay(tmp_path, root), "--trainer.devices", 2]
    done = python("-m", "mcn_lightning", "test", *given)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert lines and all(line == lines[0] and "cross000001_2d.npy: expected finite" in line for line in lines)


def test_what_is_odd_is_counted(files, tmp_path, capsys):
    root = tmp_path / "odd"
    root.mkdir()
    shutil.copy(files / "word_vectors.txt", root)
    clips = youcook2(8)
    clips[1]["caption"] = "zzz yyy"
    write(root / "msrvtt_jsfusion_test.pkl", clips)
    found = evaluate(root, tmp_path)
    assert found["it/captions without a known word"] == 1
    seen = evaluate(files, tmp_path, directions=["t->v"])
    assert seen["it/clips"] == 20 and not any("audio" in key for key in seen)
