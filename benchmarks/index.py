"""Size and loading time of the index of a full HowTo100M: 1.1 million videos in 4,500 shards, generated.

    python benchmarks/index.py --root DIR

The captions themselves (120 million) lie in the shards. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import rounds
import torch
from safetensors.torch import save_file

from mcn_lightning.data.files.pooling import DEFAULT_STREAMS
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.files import COLUMNS, STREAM_COLUMNS, ShardIndex
from mcn_lightning.data.shards.header import FORMAT, INDEX
from mcn_lightning.data.shards.read import ShardVideos
from mcn_lightning.data.shards.writer import bytes_of


def write_index(folder: Path, videos: int, shards: int, words: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    kinds = COLUMNS | {f"{name}_{number}": kind for name, kind in STREAM_COLUMNS.items() for number in (0, 1)}
    tensors = {f"train/{name}": torch.from_numpy(rng.integers(0, 100, videos)).to(kind) for name, kind in kinds.items()}
    tensors["train/shard"] = torch.arange(videos, dtype=torch.int32) * shards // videos
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", dtype=np.uint8)
    tensors["train/ids"] = torch.from_numpy(letters[rng.integers(0, 64, 11 * videos)])
    tensors["train/id_end"] = torch.arange(1, videos + 1) * 11
    tensors["words"], tensors["word_end"] = bytes_of(f"word{number}" for number in range(words))
    tensors["shard_word"] = torch.from_numpy(rng.integers(0, words, shards * 20_000, dtype=np.int32))
    tensors["shard_word_end"] = torch.arange(1, shards + 1) * 20_000
    options = {
        "splits": {"train": {"min_time": 10.0}}, "modalities": ["video", "audio", "text"], "keep_frames": False,
        "streams": [{"suffix": "_2d"}, {"suffix": "_3d"}],
    }  # fmt: skip
    shard = {"bytes": 10**9, "sha256": "0" * 64, "seconds": 95_000.0, "bytes_in": 2 * 10**9}
    about = {"format": FORMAT, "fingerprint": "", "options": options, "shards": [shard] * shards,
             "skipped": {"train": {}}}  # fmt: skip
    save_file(tensors, folder / INDEX, {"index": json.dumps(about)})


def memory(kind: str) -> float:
    """Return megabytes of this process from the kernel's account, ``Pss_Anon`` or another line."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def grown(source: ShardVideos, lookups: int) -> float:
    """Return the megabytes that many look-ups in a random order add to this process."""
    before = memory("Private_Dirty")
    order = np.random.default_rng(1).integers(0, len(source), lookups)
    for index in order.tolist():
        source.id(index), source.column("captions", index)
    return memory("Private_Dirty") - before


def worker(source: ShardVideos, lookups: int, queue: multiprocessing.Queue) -> None:
    queue.put(grown(source, lookups))


def grown_in_workers(source: ShardVideos, lookups: int) -> float:
    """Return the largest growth of four processes that share the index."""
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue = context.Queue()
    for _ in range(4):
        context.Process(target=worker, args=(source, lookups, queue)).start()
    return max(queue.get() for _ in range(4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the generated index")
    parser.add_argument("--videos", type=int, default=1_100_000, help="videos of the index")
    parser.add_argument("--shards", type=int, default=4_500, help="shards of the index")
    parser.add_argument("--words", type=int, default=500_000, help="different words in the captions")
    parser.add_argument("--lookups", type=int, default=200_000, help="videos that each worker looks up")
    args = rounds.parse(parser, rounds=1, videos=2_000, shards=8, words=100, lookups=500)
    write_index(args.root, args.videos, args.shards, args.words)
    size = (args.root / INDEX).stat().st_size
    print("| videos | size of the index | bytes a video | time to open | its words read | ", end="")
    print(f"memory of a worker after {args.lookups:,} look-ups |")
    print("|---|---|---|---|---|---|")
    for _ in range(args.rounds):
        started = time.perf_counter()
        source = ShardVideos(ShardIndex(args.root), "train", DEFAULT_STREAMS, AudioConfig())
        opened = time.perf_counter() - started
        words = source.index.words()
        listed = time.perf_counter() - started - opened
        added = grown(source, args.lookups) if args.tiny else grown_in_workers(source, args.lookups)
        print(
            f"| {len(source):,} | {size / 1e6:.0f} MB | {size / len(source):.0f} | {opened:.2f} s "
            f"| {len(words):,} in {listed:.2f} s | {added:.1f} MB |"
        )


if __name__ == "__main__":
    main()
