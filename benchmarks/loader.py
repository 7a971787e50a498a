"""Videos a second of three readers in one run, on the same data and with the same number of processes.

    python benchmarks/loader.py --root DIR

(a) a plain reader of the layout, as the method's published description has it: three ``np.load`` a video, float32, a
Python loop over the clips, float word vectors, PyTorch's default collate; (b) this project's layout reader; (c) shards.
The data are generated in the real sizes at the first call (160 videos of 4 to 10 minutes, two streams of 2048 numbers,
float16: 1.2 GB) and packed. Prints a table, asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.files.word_vectors import read_word_vectors
from mcn_lightning.data.shards.job import PackConfig
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import TextConfig

N_PAIR, MIN_TIME, FRAMES, MAX_WORDS = 32, 10.0, 1000, 20


class PlainReader(Dataset[dict[str, torch.Tensor]]):
    """The plain reader; one item is one video."""

    def __init__(self, root: Path, videos: list[str]) -> None:
        self.root, self.videos = root, videos
        self.captions = json.loads((root / "captions.json").read_text())
        used = {word for entry in self.captions.values() for text in entry["text"] for word in text.split()}
        words, vectors = read_word_vectors(root / "word_vectors.txt", used)
        self.vectors = dict(zip(words, vectors, strict=True))

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        path = self.videos[index]
        name = path.rsplit("/", 1)[-1]
        folder = self.root / "features" / path
        flat = np.load(folder / f"{name}_2d.npz")["features"].astype(np.float32)
        deep = np.load(folder / f"{name}_3d.npz")["features"].astype(np.float32)
        sound = np.load(folder / f"{name}_spec.npz")["arr_0"].astype(np.float32)
        entry = self.captions[name]
        video = np.zeros((N_PAIR, flat.shape[1] + deep.shape[1]), dtype=np.float32)
        audio = np.zeros((N_PAIR, sound.shape[0], FRAMES), dtype=np.float32)
        frames = np.zeros(N_PAIR, dtype=np.int64)
        text = np.zeros((N_PAIR, MAX_WORDS, 300), dtype=np.float32)
        for row in range(N_PAIR):
            start, end, words = self._clip(entry, int(np.random.randint(len(entry["text"]))))
            video[row] = np.concatenate([self._pool(flat, start, end, 1.0), self._pool(deep, start, end, 1.5)])
            first, stop = (max((int(t * 16000) - 200) // 160, 0) for t in (start, end))
            cut = sound[:, first:stop][:, :FRAMES]
            audio[row, :, : cut.shape[1]], frames[row] = cut, cut.shape[1]
            known = [self.vectors[word] for word in re.findall(r"[\w']+", words) if word in self.vectors]
            if known:
                text[row, : len(known[:MAX_WORDS])] = np.stack(known[:MAX_WORDS])
        found = {"video": video, "audio": audio, "frames": frames, "text": text}
        return {key: torch.from_numpy(value) for key, value in found.items()}

    @staticmethod
    def _clip(entry: dict[str, Any], index: int) -> tuple[float, float, str]:
        first = last = index
        words, count = entry["text"][index], len(entry["text"])
        start, end = entry["start"][index], entry["end"][index]
        while end - start < MIN_TIME and (first > 0 or last < count - 1):
            before = end - entry["start"][first - 1] if first > 0 else np.inf
            after = entry["end"][last + 1] - start if last < count - 1 else np.inf
            if before <= after:
                first -= 1
                start, words = entry["start"][first], f"{words} {entry['text'][first]}"
            else:
                last += 1
                end, words = entry["end"][last], f"{words} {entry['text'][last]}"
        return start, end, words

    @staticmethod
    def _pool(rows: np.ndarray, start: float, end: float, rate: float) -> np.ndarray:
        window = rows[int(start * rate) : int(end * rate) + 1]
        if not len(window):
            return np.zeros(rows.shape[1], dtype=np.float32)
        pooled = window.max(axis=0)
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)


def plain_loader(root: Path, args: argparse.Namespace) -> DataLoader:
    videos = (root / "train.csv").read_text().splitlines()[1:]
    pin = torch.cuda.is_available()
    return DataLoader(
        PlainReader(root, videos), args.batch, True, num_workers=args.workers, pin_memory=pin, drop_last=True
    )


def datamodule(root: Path, args: argparse.Namespace, shards: str | None = None) -> NarratedVideos:
    data = NarratedVideos(
        str(root),
        text=TextConfig(source="word_vectors.txt", max_words=MAX_WORDS),
        audio=AudioConfig(num_frames=FRAMES),
        clips=ClipConfig(n_pair=N_PAIR, min_time=MIN_TIME),
        batch_size=args.batch,
        num_workers=args.workers,
        shards=shards,
    )
    data.setup("fit")
    return data


def rate(loader: DataLoader, epochs: int, batch_size: int, cut: bool = False) -> tuple[float, int]:
    """Return videos a second from the second batch of an epoch on (processes start with it), and bytes a video.

    With ``cut`` every batch is made ready, which in training is the device's work.
    """
    seen, size, seconds = 0, 0, 0.0
    for epoch in range(epochs + 1):  # the first pass warms the page cache and the reader's memory
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        batches = iter(loader)
        batch, started = next(batches), time.perf_counter()
        for following in batches:
            batch, seen = following, seen + (batch_size if epoch else 0)
            if cut:
                batch.ready()
        seconds += (time.perf_counter() - started) if epoch else 0.0
        tensors = batch.values() if isinstance(batch, dict) else batch._tensors().values()
        size = sum(tensor.nbytes for tensor in tensors) // batch_size
    return seen / seconds, size


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


def copy_rate() -> float:
    """Return bytes a second of a plain copy in memory, on one thread."""
    source, target = torch.ones(1 << 28, dtype=torch.uint8), torch.empty(1 << 28, dtype=torch.uint8)
    target.copy_(source)
    started = time.perf_counter()
    for _ in range(8):
        target.copy_(source)
    return 8 * (1 << 28) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for the generated data and the shards")
    parser.add_argument("--videos", type=int, default=160)
    parser.add_argument("--batch", type=int, default=16, help="videos of a batch")
    parser.add_argument("--workers", type=int, default=1, help="processes that read; 0 for the main process")
    parser.add_argument(
        "--epochs", type=int, default=3, help="passes over the data by (b); (a) makes one and (c) four times as many"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    root, shards = args.root / "layout", args.root / "shards"
    config = SyntheticConfig(
        videos=args.videos, held_out=1, seconds=420.0, length_spread=0.43, caption_seconds=4.0, widths=(2048, 2048),
        word_dim=300,
    )  # fmt: skip
    write_synthetic(root, config)
    print(datamodule(root, args).pack(PackConfig(str(shards))))
    packed = str(shards)
    layout_bytes, shard_bytes = bytes_read(root, args, shards)
    readers = [
        ("(a) plain reader", plain_loader(root, args), 1, layout_bytes, False),
        ("(b) layout", datamodule(root, args).train_dataloader(), args.epochs, layout_bytes, False),
        ("(b), cut on the CPU", datamodule(root, args).train_dataloader(), args.epochs, layout_bytes, True),
        ("(c) shards", datamodule(root, args, packed).train_dataloader(), 4 * args.epochs, shard_bytes, False),
        ("(c), cut on the CPU", datamodule(root, args, packed).train_dataloader(), 4 * args.epochs, shard_bytes, True),
    ]
    copy, base = copy_rate(), 0.0
    print(
        f"\ntorch {torch.__version__}, {args.workers} process(es) of one thread, batches of {args.batch} videos "
        f"of {N_PAIR} clips"
    )
    print(f"plain copy in memory, one thread: {copy / 1e9:.1f} GB/s\n")
    print("| reader | videos/s | against (a) | MB read a video | MB of a batch a video | share of a plain copy |")
    print("|---|---|---|---|---|---|")
    for name, loader, epochs, read, cut in readers:
        videos, size = rate(loader, epochs, args.batch, cut)
        base = base or videos
        print(
            f"| {name} | {videos:.1f} | {videos / base:.1f} | {read / 1e6:.2f} ({100 * read / layout_bytes:.0f} %) "
            f"| {size / 1e6:.2f} | {100 * videos * size / copy:.0f} % |"
        )


if __name__ == "__main__":
    main()
