"""What the tests of shards and of packing share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.header import shard_name
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.text import TextConfig

STREAMS = (VisualStream("_2d", 1.0, 8), VisualStream("_3d", 1.5, 8))


FIELDS = ("video", "audio", "audio_frames", "words", "labels", "frames", "frame_start")


def narrated(root, **changes) -> NarratedVideos:
    options = {
        "streams": STREAMS, "text": TextConfig(source="word_vectors.txt", dim=8), "audio": AudioConfig(num_frames=400),
        "clips": ClipConfig(n_pair=6, min_time=8.0), "batch_size": 2, "eval_batch_size": 2, "num_workers": 0,
    }  # fmt: skip
    return NarratedVideos(str(root), **(options | changes))


def opened(root, **changes) -> NarratedVideos:
    data = narrated(root, **changes)
    data.setup("fit")
    return data


def packed(root, output, shard_size=40_000, keep_frames=False, processes=2, **changes):
    return narrated(root, **changes).pack(PackConfig(str(output), shard_size, keep_frames, processes))


def same(one: ClipBatch, other: ClipBatch) -> None:
    for name in ("ids", "clips_per_video", "video_widths", "num_frames", "pad_value"):
        assert getattr(one, name) == getattr(other, name), name
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        assert a is None or (a.dtype == b.dtype and torch.equal(a, b)), name


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def break_shard(folder, number, how):
    path = folder / shard_name(number)
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    return path
