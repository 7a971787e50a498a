"""The files that make a data set of the extracted videos: lists, captions, what failed or lacks, and ``data.yaml``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mcn_lightning.data.files.word_vectors import vector_width
from mcn_lightning.data.sources.video_lists import read_video_list, video_id
from mcn_lightning.data.text import token_width
from mcn_lightning.errors import InputError
from mcn_lightning.extract.options import ExtractConfig, Layout
from mcn_lightning.extract.videos import SPLITS, split_videos
from mcn_lightning.extract.writing import placing, write_entries
from mcn_lightning.files import read_json

ROWS_FILE = "rows.json"
"""Rate and width of each stream."""
CLIPS = 8
"""Clips of a video in a training batch."""


def read_failures(layout: Layout, names: Sequence[str]) -> dict[str, str]:
    """Return the reasons of the videos that failed, by name.

    Args:
        layout: of the data set.
        names: of all videos.
    """
    paths = {name: layout.failure(name) for name in names if not layout.record(name).is_file()}
    return {name: read_json(path, "a failure")["reason"] for name, path in paths.items() if path.is_file()}


def write_dataset(config: ExtractConfig, names: Sequence[str], failed: Mapping[str, str]) -> dict[str, int]:
    """Write lists, captions, ``failed.csv``, ``incomplete.csv`` and ``data.yaml`` of the videos that are done.

    Args:
        config: options of the command.
        names: of all videos.
        failed: reason of each video that cannot be read.

    Returns:
        Number of videos by split, and ``failed``, ``silent``, ``without captions``.
    """
    layout = Layout(Path(config.output))
    root, done = layout.root, dict.fromkeys(name for name in names if layout.record(name).is_file())
    lacking: list[tuple[str, str]] = []
    write_entries(root / "captions.json", _captions(layout, done, lacking))
    if config.lists is None:
        splits = split_videos([*done], {"val": config.val_share, "test": config.test_share})
    else:
        given = read_lists(Path(config.lists), names)
        splits = {split: [name for name in given[split] if name in done] for split in SPLITS}
    for split in SPLITS:
        _write_rows(root / f"{split}.csv", ["path"], ([name] for name in splits[split]))
    _write_rows(root / "failed.csv", ["path", "reason"], failed.items())
    _write_rows(root / "incomplete.csv", ["path", "lacks"], lacking)
    sizes = {split: len(splits[split]) for split in SPLITS}
    silent, without = (sum(part == what for _, part in lacking) for what in ("sound", "captions"))
    with placing(root / "data.yaml") as file:
        text = _data_yaml(config, sizes, bool(silent or without), without < len(done))
        file.write_text(text, encoding="utf-8")
    return sizes | {"failed": len(failed), "silent": silent, "without captions": without}


def _captions(layout: Layout, names: Iterable[str], lacking: list[tuple[str, str]]) -> Iterator[tuple[str, object]]:
    """Give the id and the captions of each video that has some, and note what videos lack."""
    for name in names:
        record = read_json(layout.record(name), "the record of a video")
        lacking += [(name, part) for part in ("sound", "captions") if not record[part]]
        if record["cut"]:
            lacking.append((name, f"a part: {record['cut']}"))
        if record["captions"]:
            yield name.rpartition("/")[2], record["captions"]


def read_lists(folder: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the videos of each split by the lists in a folder.

    Args:
        folder: value of ``--lists``.
        names: of all videos.

    Raises:
        InputError: if there is no list, one cannot be read, or one names a video that there is not.
    """
    # by id: lists of other data sets have other folders before it
    known = {name.rpartition("/")[2]: name for name in names}
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        path = folder / f"{split}.csv"
        listed = read_video_list(path) if path.is_file() else []
        if unknown := [video for video in listed if video_id(video) not in known]:
            raise InputError(f"--lists {path}: expected videos of --videos, found {unknown[0]}; correct it")
        found[split] = [known[video_id(video)] for video in listed]
    if not any(found.values()):
        files = ", ".join(f"{split}.csv" for split in SPLITS)
        raise InputError(f"--lists {folder}: expected a folder with {files}, found none of them; check the path")
    return found


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with placing(path) as place, open(place, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _data_yaml(config: ExtractConfig, videos: Mapping[str, int], lacking: bool, captioned: bool) -> str:
    """Return a config that ``lightning fit`` takes as it is.

    Where no video has captions, clips are windows of picture and sound, without text.

    Batch, queue and number of clusters follow the number of training videos: a queue must fill within the run.
    """
    with_text = captioned or not config.sound  # picture alone does not train, and the check says so
    # two batches an epoch at least, as far as there are videos
    batch_size = min(32, max(videos["train"] // 2, 1))
    steps = max(videos["train"] // batch_size, 1)  # of an epoch
    rows = steps * batch_size * CLIPS
    # four epochs fill the queue, so that k-means begins within a short run
    queue_rows = min(4 * rows, 8192)
    rows = read_json(Path(config.output) / ROWS_FILE, "the rows of a data set")
    streams = [{"suffix": f"_{name}", **found} for name, found in rows.items()]
    found: dict[str, Any] = {
        "seed_everything": 0,
        "data": {
            "root": str(Path(config.output).resolve()),
            "val_csv": "val.csv" if videos["val"] else None,
            "test_csv": "test.csv" if videos["test"] else None,
            "streams": streams,
            "modalities": ["video"] + ["audio"] * config.sound + ["text"] * with_text,
            "audio": {"bands": config.bands, "num_frames": 600},
            "text": text_options(config.text)[0],
            "clips": {"kind": "captions" if with_text else "windows", "n_pair": CLIPS, "min_time": 3.0},
            "batch_size": batch_size,
            "eval_batch_size": 4,
            # reading is a small part of so small a run
            "num_workers": 1,
            "max_bad_share": 0.05,
            "allow_missing": lacking,
        },
        "model": {
            "network": {
                "embedding_dim": 512,
                "audio_widths": [32, 64, 96, 192],
                "audio_pool": "max",
                "normalize": True,
                "reconstruction": False,
                "dropout": 0.2,
            },
            "loss": {"contrastive": {"temperature": 0.05}, "cluster": {"temperature": 0.1}, "cluster_weight": 0.5},
            "clustering": {"num_clusters": max(2, min(queue_rows // 20, 256)), "queue_rows": queue_rows},
            "optimizer": {"kind": "adamw", "lr": 1.0e-3, "weight_decay": 0.01, "warmup_steps": 20},
        },
        "trainer": {
            "accelerator": "auto",
            "devices": 1,
            "max_epochs": 30,
            "check_val_every_n_epoch": 5,
            "log_every_n_steps": min(10, steps),
            "logger": {
                "class_path": "pytorch_lightning.loggers.CSVLogger",
                "init_args": {"save_dir": "runs", "name": Path(config.output).resolve().name},
            },
        },
    }
    intro = "# Written by `lightning extract`. Train: lightning fit --config data.yaml\n"
    return intro + yaml.safe_dump(found, sort_keys=False)


def text_options(text: str) -> tuple[dict[str, object], str | None]:
    """Return ``data.text`` for a sentence encoder, or for a file of word vectors.

    Args:
        text: name or folder of a sentence encoder, or a file of word vectors (``.bin``, ``.txt``, ``.vec``, ``.gz``).

    Returns:
        The options, and what is wrong with the source; training stops with this line until it is mended.
    """
    path = Path(text)
    if path.suffix in (".bin", ".txt", ".vec", ".gz"):
        found: dict[str, object] = {"kind": "word_vectors", "source": str(path.resolve()), "lowercase": True}
        default, width = 300, partial(vector_width, path)
    else:
        source = str(path.resolve()) if path.is_dir() else text
        found, default = {"kind": "tokens", "source": source, "max_words": 30}, 384  # of all-MiniLM-L6-v2
        width = partial(token_width, source)
    try:
        return found | {"dim": width()}, None
    except InputError as error:
        return found | {"dim": default}, str(error)
