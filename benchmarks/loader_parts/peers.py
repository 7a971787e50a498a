"""The same videos in the formats of other loaders, where these are installed: HDF5, WebDataset, MDS and LitData.

One record is one video. "Raw" records hold the rows of the visual features and the spectrogram, as the files of the
layout do. "Pooled" records hold the maximum over each caption instead, and a spectrogram whose frames are adjacent in
memory. Both hold the seconds that each caption grows to and the numbers of its words, so no reader does this again.
What is done with a record is the same for all formats: the maxima are PyTorch's, and a batch is written once.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from loader_parts.plain import FRAMES, MAX_WORDS, N_PAIR, frame_of, grow

Record = dict[str, np.ndarray]
CHUNK = 64_000_000
"""Bytes of a chunk or shard, about, where a format has these."""


class Records:
    """The records of the training videos of a layout.

    Args:
        root: folder of the layout.
        pooled: whether the features are pooled beforehand.
    """

    def __init__(self, root: Path, pooled: bool) -> None:
        self.root, self.pooled = root, pooled
        self.captions = json.loads((root / "captions.json").read_text())
        words = {word for entry in self.captions.values() for text in entry["text"] for word in split_words(text)}
        self.numbers = {word: number for number, word in enumerate(sorted(words), 1)}
        self.paths = (root / "train.csv").read_text().splitlines()[1:]

    def __call__(self, path: str) -> Record:
        """Return the record of a video."""
        name = path.rsplit("/", 1)[-1]
        stem, entry = self.root / "features" / path / name, self.captions[name]
        flat, deep = (np.load(f"{stem}_{kind}.npz")["features"] for kind in ("2d", "3d"))
        sound = np.load(f"{stem}_spec.npz")["arr_0"]
        grown = [grow(entry, index) for index in range(len(entry["text"]))]
        spans = np.array([(start, end) for start, end, _ in grown])
        words = np.zeros((len(grown), MAX_WORDS), dtype=np.int32)
        for row, (_, _, text) in zip(words, grown, strict=True):
            known = [self.numbers[word] for word in split_words(text)][:MAX_WORDS]
            row[: len(known)] = known
        if not self.pooled:
            return {"flat": flat, "deep": deep, "sound": sound, "spans": spans, "words": words}
        pooled = [np.concatenate([maximum(rows, *span, rate).numpy() for rows, rate in ((flat, 1.0), (deep, 1.5))])
                  for span in spans]  # fmt: skip
        sound = np.ascontiguousarray(sound.T)
        return {"pooled": np.stack(pooled), "sound": sound, "spans": spans, "words": words}


def split_words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def maximum(rows: np.ndarray, start: float, end: float, rate: float) -> Tensor:
    """Return the maximum over the rows of some seconds, in their precision; zeros where there is no row."""
    window = torch.from_numpy(rows[int(start * rate) : int(end * rate) + 1])
    return window.amax(dim=0) if len(window) else window.new_zeros(rows.shape[1])


def clips_of(record: Record) -> dict[str, Any]:
    """Return random clips of a record; those of the spectrogram as a list of views, for ``join``."""
    spans = record["spans"]
    chosen = np.random.randint(len(spans), size=N_PAIR)
    if "pooled" in record:
        pooled = torch.from_numpy(record["pooled"][chosen])
        streams, sound = list(pooled.split(pooled.shape[1] // 2, dim=1)), record["sound"]
    else:
        rates = (("flat", 1.0), ("deep", 1.5))
        streams = [torch.stack([maximum(record[name], *spans[row], rate) for row in chosen]) for name, rate in rates]
        sound = record["sound"].T
    windows = [[frame_of(seconds) for seconds in spans[number]] for number in chosen]
    return {
        "video": torch.cat([F.normalize(stream.float(), dim=1, eps=1e-30) for stream in streams], dim=1),
        "audio": [sound[first : min(stop, first + FRAMES)] for first, stop in windows],
        "words": torch.from_numpy(record["words"][chosen]),
    }


def join(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the batch of some videos; PyTorch's default would write each spectrogram a second time."""
    cuts = [cut for item in items for cut in item["audio"]]
    audio = np.zeros((len(cuts), FRAMES, cuts[0].shape[1]), dtype=cuts[0].dtype)
    for row, cut in zip(audio, cuts, strict=True):
        row[: len(cut)] = cut
    joined = {name: torch.cat([item[name] for item in items]) for name in ("video", "words")}
    frames = torch.tensor([len(cut) for cut in cuts])
    return joined | {"audio": torch.from_numpy(audio), "frames": frames}


def options(workers: int) -> dict[str, Any]:
    return {"num_workers": workers, "collate_fn": join, "drop_last": True}


class HDF5Videos(Dataset[dict[str, Any]]):
    """A group of one file for each video."""

    def __init__(self, path: Path) -> None:
        import h5py

        self.path, self._file = path, None
        with h5py.File(path) as file:
            self.names = list(file)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import h5py

        self._file = self._file or h5py.File(self.path)  # each process has its own
        return clips_of({name: value[()] for name, value in self._file[self.names[index]].items()})


def write_hdf5(folder: Path, records: Records) -> None:
    import h5py

    with h5py.File(folder / "videos.h5", "w") as file:
        for path in records.paths:
            for name, value in records(path).items():
                file[f"{path.replace('/', '-')}/{name}"] = value


def read_hdf5(folder: Path, batch: int, workers: int) -> DataLoader:
    return DataLoader(HDF5Videos(folder / "videos.h5"), batch, True, **options(workers))


def write_webdataset(folder: Path, records: Records) -> None:
    import webdataset

    most = max(len(records.paths) // 8, 1)  # several, so that each process has one
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=most, verbose=0) as writer:
        for path in records.paths:
            arrays = {f"{name}.npy": value for name, value in records(path).items()}
            writer.write({"__key__": path.replace("/", "-")} | arrays)


def read_webdataset(folder: Path, batch: int, workers: int) -> DataLoader:
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    videos = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False, seed=0).decode()
    return DataLoader(videos.map(_of_webdataset), batch, **options(workers))


def _of_webdataset(sample: dict[str, Any]) -> dict[str, Any]:
    return clips_of({name[: -len(".npy")]: value for name, value in sample.items() if name.endswith(".npy")})


def write_mds(folder: Path, records: Records) -> None:
    from streaming import MDSWriter

    kinds = {name: f"ndarray:{value.dtype}" for name, value in records(records.paths[0]).items()}
    with MDSWriter(out=str(folder), columns=kinds, size_limit=CHUNK) as writer:
        for path in records.paths:
            writer.write(records(path))


def read_mds(folder: Path, batch: int, workers: int) -> DataLoader:
    from streaming import StreamingDataset

    class Videos(StreamingDataset):
        def __getitem__(self, index: int) -> dict[str, Any]:
            return clips_of(super().__getitem__(index))

    videos = Videos(local=str(folder), batch_size=batch, shuffle=True)
    return DataLoader(videos, batch, **options(workers))


def write_litdata(folder: Path, records: Records) -> None:
    import litdata

    litdata.optimize(records, records.paths, str(folder), chunk_bytes=CHUNK, num_workers=1, start_method="fork",
                     verbose=False)  # fmt: skip


def read_litdata(folder: Path, batch: int, workers: int) -> DataLoader:
    import litdata

    class Videos(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return clips_of(super().__getitem__(index))

    videos = Videos(str(folder), shuffle=True, drop_last=True)
    return litdata.StreamingDataLoader(videos, batch_size=batch, **options(workers))


class Peer(NamedTuple):
    """How a format is written and read, and the module that it needs."""

    module: str
    write: Callable[[Path, Records], None]
    read: Callable[[Path, int, int], DataLoader]


PEERS = {
    "HDF5": Peer("h5py", write_hdf5, read_hdf5),
    "WebDataset": Peer("webdataset", write_webdataset, read_webdataset),
    "MosaicML streaming": Peer("streaming", write_mds, read_mds),
    "LitData": Peer("litdata", write_litdata, read_litdata),
}


def installed() -> dict[str, Peer]:
    """Return the formats whose package can be imported, and say why another cannot."""
    found = {}
    for name, peer in PEERS.items():
        try:
            importlib.import_module(peer.module)
            found[name] = peer
        except ImportError as error:
            print(f"without {name}: {error}")
    return found


def prepare(root: Path, layout: Path, batch: int, workers: int) -> dict[str, tuple[Callable[[], DataLoader], Path]]:
    """Write the videos in each format that is installed, unless they are there, and return what opens a loader."""
    found: dict[str, tuple[Callable[[], DataLoader], Path]] = {}
    for name, peer in installed().items():
        for kind in ("raw", "pooled"):
            folder = root / f"{peer.module}-{kind}"
            if not (done := folder.with_suffix(".done")).exists():
                folder.mkdir(parents=True)
                peer.write(folder, Records(layout, kind == "pooled"))
                done.touch()
            found[f"{name}, {kind}"] = functools.partial(peer.read, folder, batch, workers), folder
    return found
