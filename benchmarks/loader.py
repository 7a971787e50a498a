"""Videos a second of readers that take turns, on the same data and with the same number of processes.

    pip install h5py webdataset mosaicml-streaming litdata     # each has its rows where it is installed
    OMP_NUM_THREADS=1 python benchmarks/loader.py --root DIR --workers 0

(a) a plain reader of the layout, as the method's published description has it: three ``np.load`` a video, float32, a
Python loop over the clips, float word vectors, PyTorch's default collate; (b) this project's layout reader; (c) shards;
(d) shards with the rows of the features, not pooled beforehand. The formats of other loaders come with the rows ("raw")
and pooled beforehand: see loader_parts/peers.py. The bytes of a video are those of its sampled clips for (c), and all
that is stored of it for the others.

The data are generated in the real sizes at the first call (160 videos of 4 to 10 minutes, two streams of 2048 numbers,
float16: 1.2 GB) and packed; each format takes 2 GB more. Prints a table, asserts nothing.

Without processes of readers (--workers 0) rates are those of the processor's time, which other programs do not change;
else they are those of the clock.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rounds
import torch
from loader_parts import peers
from loader_parts.plain import FRAMES, MAX_WORDS, MIN_TIME, N_PAIR, PlainReader
from torch.utils.data import DataLoader

from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig


class Reader(NamedTuple):
    """A reader of the comparison.

    Args:
        open: makes its loader.
        epochs: passes over the data in a round.
        bytes: read of a video.
        cut: whether its batches are made ready, which in training is the device's work.
    """

    open: Callable[[], DataLoader]
    epochs: int
    bytes: float
    cut: bool = False


def plain_loader(root: Path, args: argparse.Namespace) -> DataLoader:
    videos = (root / "train.csv").read_text().splitlines()[1:]
    pin = torch.cuda.is_available()
    return DataLoader(
        PlainReader(root, videos), args.batch, True, num_workers=args.workers, pin_memory=pin, drop_last=True
    )


def datamodule(root: Path, args: argparse.Namespace, shards: str | None = None) -> NarratedVideos:
    data = NarratedVideos(
        str(root),
        streams=[replace(stream, width=args.width) for stream in DEFAULT_STREAMS],
        text=TextConfig(source="word_vectors.txt", max_words=MAX_WORDS),
        audio=AudioConfig(num_frames=FRAMES),
        clips=ClipConfig(n_pair=N_PAIR, min_time=MIN_TIME),
        batch_size=args.batch,
        num_workers=args.workers,
        shards=shards,
    )
    data.setup("fit")
    return data


def rate(loader: DataLoader, reader: Reader, args: argparse.Namespace) -> rounds.Measured:
    """Return videos a second, and the bytes of a batch a video.

    With processes of readers, time counts from the second batch of an epoch on: they start with it.
    """
    clock = time.perf_counter if args.workers else time.process_time
    seen, size, seconds = 0, 0, 0.0
    for epoch in range(reader.epochs):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        started = clock()
        for number, batch in enumerate(loader):
            if reader.cut:
                batch.ready()
            if number or not args.workers:
                seen += args.batch
            else:
                started = clock()
        seconds += clock() - started
        tensors = batch.values() if isinstance(batch, dict) else batch._tensors().values()
        size = sum(tensor.nbytes for tensor in tensors) // args.batch
    return {"rate": seen / seconds, "size": size}


def bytes_read(root: Path, args: argparse.Namespace, shards: Path) -> tuple[float, float]:
    """Return the bytes that a video takes in the layout, and those of its drawn clips in the shards, on average."""
    files = list((root / "features" / "train").rglob("*.npz"))
    layout = sum(path.stat().st_size for path in files)
    dataset = datamodule(root, args, str(shards)).datasets["train"]
    count, read = len(dataset), 0
    for index in range(count):
        item = dataset[(0, index)]
        numbers = {int(name.rsplit(":", 1)[1]) for name in item.ids}
        read += len(numbers) * item.video.shape[1] * 2  # float16 pooled vectors
        captions = dataset.source.open(index).captions
        covered = np.zeros(int(captions.end.max() * 100) + 2, dtype=bool)
        for clip in dataset._choose(np.random.default_rng((0, 0, index)), "", dataset.source.open(index)):
            first = int(clip.start * 100)
            covered[first : min(int(clip.end * 100), first + FRAMES)] = True
        read += int(covered.sum()) * 40 * 2
    return layout / count, read / count


def copy_rate(size: int) -> float:
    """Return bytes a second of a plain copy in memory, on one thread."""
    source, target = torch.ones(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8)
    target.copy_(source)
    started = time.process_time()
    for _ in range(8):
        target.copy_(source)
    return 8 * size / (time.process_time() - started)


def readers(root: Path, args: argparse.Namespace) -> dict[str, Reader]:
    """Write what is not there yet, and return all readers; the plain one makes one pass where (c) makes many."""
    layout, shards, often = root / "layout", root / "shards", args.epochs
    size = args.width
    config = SyntheticConfig(
        videos=args.videos, held_out=1, seconds=args.seconds, length_spread=0.43, caption_seconds=4.0,
        widths=(size, size), word_dim=300,
    )  # fmt: skip
    write_synthetic(layout, config)
    with_rows = root / "shards-rows"
    for folder in (shards, with_rows):
        print(datamodule(layout, args).pack(PackConfig(str(folder), keep_frames=folder == with_rows)))
    read, packed = bytes_read(layout, args, shards)

    def plain() -> DataLoader:
        return plain_loader(layout, args)

    def ours() -> DataLoader:
        return datamodule(layout, args).train_dataloader()

    def of_shards(folder: Path = shards) -> DataLoader:
        return datamodule(layout, args, str(folder)).train_dataloader()

    found = {
        "(a) plain reader": Reader(plain, 1, read),
        "(b) layout": Reader(ours, often, read),
        "(b), cut on the CPU": Reader(ours, often, read, True),
        "(c) shards": Reader(of_shards, 4 * often, packed),
        "(c), cut on the CPU": Reader(of_shards, 4 * often, packed, True),
    }
    size = sum(path.stat().st_size for path in with_rows.glob("*")) / args.videos
    for name, cut in (("(d) shards with all rows", False), ("(d), cut on the CPU", True)):
        found[name] = Reader(lambda: of_shards(with_rows), often, size, cut)
    for name, (make, folder) in peers.prepare(root, layout, args.batch, args.workers).items():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found[name] = Reader(make, 4 * often if name.endswith("pooled") else 1, size / args.videos)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the generated data and the shards")
    parser.add_argument("--videos", type=int, default=160)
    parser.add_argument("--seconds", type=float, default=420.0, help="length of a video, on average")
    parser.add_argument("--width", type=int, default=2048, help="of each of the two visual streams")
    parser.add_argument("--batch", type=int, default=16, help="videos of a batch")
    parser.add_argument("--workers", type=int, default=1, help="processes that read; 0 for the main process")
    parser.add_argument(
        "--epochs", type=int, default=1, help="passes over the data by (b); (a) makes one and (c) four times as many"
    )
    args = rounds.parse(parser, videos=4, seconds=30.0, width=8, batch=2, workers=0)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # what MDS gives; it is read alone
    compared = readers(args.root, args)
    loaders = {name: reader.open() for name, reader in compared.items()}
    for name, reader in compared.items():  # the first pass warms the page cache and the reader's memory
        rate(loaders[name], reader._replace(epochs=1), args)
    found = rounds.take_turns(list(compared), args.rounds, lambda name: rate(loaders[name], compared[name], args))
    copy = copy_rate(1 << (16 if args.tiny else 28))
    print(
        f"\ntorch {torch.__version__}, {args.workers} process(es) of one thread, batches of {args.batch} videos "
        f"of {N_PAIR} clips, {args.videos} videos, medians of {args.rounds}"
    )
    print(f"plain copy in memory, one thread: {copy / 1e9:.1f} GB/s\n")
    print("| reader | videos/s | against (a) | against (c), cut on the CPU ", end="")
    print("| MB of a video | MB of its batch | share of a plain copy |")
    print("|---|---|---|---|---|---|---|")
    for name, runs in found.items():
        videos, size, read = rounds.median(runs, "rate"), rounds.median(runs, "size"), compared[name].bytes
        ratios = [rounds.ratio(runs, found[other], "rate") for other in ("(a) plain reader", "(c), cut on the CPU")]
        print(
            f"| {name} | {videos:.1f} | {' | '.join(ratios)} | {read / 1e6:.2f} "
            f"| {size / 1e6:.2f} | {100 * videos * size / copy:.0f} % |"
        )


if __name__ == "__main__":
    main()
