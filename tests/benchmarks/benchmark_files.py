"""Tiny files in the forms of the benchmarks, for tests: any seed gives the same bytes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

STREAMS = [{"suffix": "_2d", "rate": 1.0, "width": 8}, {"suffix": "_3d", "rate": 1.5, "width": 8}]
WORDS = [f"topic{topic}word{word}" for topic in range(3) for word in range(6)]


def write_word_vectors(path: Path, words: list[str], dim: int = 8) -> None:
    """Write word vectors in word2vec's text form."""
    rng = np.random.default_rng(0)
    lines = [f"{word} {' '.join(f'{x:.4f}' for x in rng.standard_normal(dim))}" for word in words]
    path.write_text(f"{len(words)} {dim}\n" + "\n".join(lines) + "\n")


def sentence(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, 4))


def clip(rng: np.random.Generator, number: int, frames: int = 60) -> dict[str, Any]:
    """One clip in YouCook2's form; every third array is a tensor."""
    arrays = {"2d": np.abs(rng.standard_normal(8)).astype(np.float32), "3d": np.abs(rng.standard_normal(8))}
    if number % 3 == 0:
        arrays = {name: torch.from_numpy(array) for name, array in arrays.items()}
    audio = torch.from_numpy(rng.uniform(-80, 0, (40, frames + number)).astype(np.float32))
    return {"id": f"video{number // 4:06d}_{number}", **arrays, "audio": audio, "caption": sentence(rng)}


def youcook2(clips: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Clips of six videos, whose ids are 11 characters long."""
    rng = np.random.default_rng(seed)
    return [clip(rng, number) for number in range(clips)]


def msrvtt(clips: int = 20, silent: int = 3, training: bool = False, seed: int = 1) -> list[dict[str, Any]]:
    """Clips with features over time and pooled, several captions, and some without sound."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(clips):
        entry = clip(rng, number)
        for name in ("2d", "3d"):
            rows = np.abs(rng.standard_normal((5, 8))).astype(np.float32)
            entry[name], entry[f"{name}_pooled"] = rows, rows.max(axis=0)
        entry["caption"] = [sentence(rng) for _ in range(5)]
        if not training:
            entry["eval_caption"] = sentence(rng)
        if number < silent:
            entry["audio"] = (None, torch.zeros(40, 0), entry["audio"])[number % 3]
            entry["has_audio"] = number % 3 != 2
        found.append(entry | {"id": f"video{number}"})
    return found


def actions(classes: tuple[str, ...], clips: int = 30, seed: int = 2) -> list[dict[str, Any]]:
    """Clips with classes in UCF101's form, of all three kinds of split."""
    found = []
    for number, entry in enumerate(msrvtt(clips, silent=3, seed=seed)):
        del entry["caption"], entry["eval_caption"], entry["id"]
        extra = {
            "class": classes[number % len(classes)],
            "video": f"v_{number}",
            "training": (0, 1, 0, 1, 2)[number % 5],
        }
        found.append({"has_audio": True, **entry, **extra})
    return found


def write(path: Path, content: Any) -> Path:
    """Write a pickle, or JSON where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def write_features(root: Path, audio: Path, video: str, seconds: int, rng: np.random.Generator) -> None:
    """Write the features of one video in CrossTask's form."""
    root.mkdir(parents=True, exist_ok=True)
    audio.mkdir(parents=True, exist_ok=True)
    for suffix, rate in (("_2d", 1.0), ("_3d", 1.5)):
        rows = np.abs(rng.standard_normal((round(rate * seconds), 8))).astype(np.float32)
        np.save(root / f"{video}{suffix}.npy", rows)
    np.savez(audio / f"{video}.npz", arr_0=rng.uniform(-80, 0, (40, 100 * seconds)).astype(np.float16))


def write_crosstask(root: Path, seed: int = 3) -> None:
    """Two tasks, five videos: list, steps, annotations (one of them a matrix) and features."""
    rng = np.random.default_rng(seed)
    steps = {"100": [sentence(rng) for _ in range(3)], "200": [sentence(rng) for _ in range(4)]}
    blocks = [f"{task}\ntitle\nurl\n{len(own)}\n{','.join(own)}\n" for task, own in steps.items()]
    (root / "annotations").mkdir(parents=True)
    (root / "tasks_primary.txt").write_text("\n".join(blocks) + "\n")
    lines = ["task,video_id,url"]
    for number in range(5):
        task, video, seconds = ("100", "200")[number % 2], f"cross{number:06d}", 20 + 7 * number
        lines.append(f"{task},{video},url")
        write_features(root / "features", root / "audio", video, seconds, rng)
        name = root / "annotations" / f"{task}_{video}"
        if number == 4:
            truth = np.zeros((seconds, len(steps[task])), dtype=np.uint8)
            truth[3:8, 0], truth[10:15, 2] = 1, 1
            np.save(f"{name}.npy", truth)
        else:
            Path(f"{name}.csv").write_text("1,2.5,5.1\n3,6.28,9.3\n2,12.0,16.9\n")
    (root / "cvpr19_test.csv").write_text("\n".join(lines) + "\n")


def write_mining_youtube(root: Path, seed: int = 4) -> None:
    """Four classes and background, three videos: classes, annotations and features."""
    rng = np.random.default_rng(seed)
    classes = ["topic0word0_topic0word1", "topic1word0", "topic2word0_topic2word3", "topic1word4", "background"]
    (root / "annotations").mkdir(parents=True)
    (root / "mapping_without_meta.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(classes)))
    for number in range(3):
        video = f"mining{number:05d}"
        write_features(root / "features", root / "audio", video, 30, rng)
        names = [classes[int(index)] for index in rng.integers(0, 4, 3)]
        times = ("00:00:02,500 --> 00:00:05,100", "00:00:09,000 --> 00:00:12,250", "00:00:14,000 --> 00:00:29,000")
        text = "\n".join(f"{i + 1}\n{time}\n{name}\n" for i, (time, name) in enumerate(zip(times, names, strict=True)))
        (root / "annotations" / f"{video}.srt").write_text("\ufeff" + text, encoding="utf-8")


def write_all(root: Path) -> Path:
    """Write every benchmark under the names that ``configs/evaluate`` has, and word vectors."""
    root.mkdir(parents=True, exist_ok=True)
    classes = ("ApplyTopic0word0", "HighJump", "RockClimbing")
    words = [*WORDS, "apply", "topic", "high", "jump", "rock", "climbing", "background"]
    write_word_vectors(root / "word_vectors.txt", words)
    write(root / "youcook_val_audio.pkl", youcook2())
    write(root / "youcook_train_audio.pkl", youcook2(seed=9))
    write(root / "msrvtt_jsfusion_test.pkl", msrvtt())
    write(root / "msrvtt_train.pkl", msrvtt(silent=0, training=True, seed=8))
    write(root / "lsmdc_test.pkl", msrvtt(seed=5))
    japanese = [{k: v for k, v in entry.items() if k not in ("caption", "id")} for entry in youcook2(seed=6)]
    write(root / "YouCook_Japanese" / "youcook_japanese_eval.pkl", japanese)
    write(root / "ucf101.pkl", actions(classes))
    write(root / "hmdb51.pkl", actions(("high_jump", "rock_climbing", "apply"), seed=7))
    write_crosstask(root / "crosstask")
    write_mining_youtube(root / "mining_youtube")
    return root
