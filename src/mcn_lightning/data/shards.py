"""The streaming format: memory-mapped safetensors shards with one index, read by the same draws as the layout.

A folder of shards holds ``index.safetensors`` and ``shard-00000.safetensors`` and so on. A shard has one tensor for each
kind of thing, with the videos one after the other:

=============== ==========================================================================================
``start``       seconds of each caption ``(captions,)`` float64; ``end`` alike
``clip``        start and end of each caption's clip ``(captions, 2)``; ``order``: the captions in it, in the order of
                their words; ``order_end`` ``(captions,)``
``text``        the captions in UTF-8, one after the other, uint8; ``text_end`` ``(captions,)`` int64
``word``        the words of each clip as numbers of the shard's ``vocabulary``, int32; ``word_end`` ``(captions,)``
``topic``       known topic of each caption ``(captions,)`` int64, where the data set has topics
``choice``      the texts that training draws from, uint8; ``choice_end`` ``(texts,)``, ``choices_end`` ``(captions,)``
``visual_<s>``  stream s: the maximum over the rows of each caption's clip ``(captions, width)``, or, where frames are
                kept, the rows of each video ``(rows, width)``; in the stored precision
``audio``       spectrogram, time-major ``(frames, M)``, in the stored precision
=============== ==========================================================================================

The index has for each split the tables ``<split>/<column>`` (see ``COLUMNS``), one row a video, the words of all captions,
and as metadata the options the shards were packed with and the size and SHA-256 of each shard. Both are mapped, never read whole: any number
of workers shares one copy in the page cache.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcn_lightning.data.batch import BadVideo, InputError
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.features import (
    FRAME_RATE,
    AudioConfig,
    VisualStream,
    max_rows,
    spectrogram_clips,
    unit_length,
)
from mcn_lightning.data.text import TextSource
from mcn_lightning.data.videos import NewTensor

FORMAT = "mcn-lightning shards 1"
INDEX = "index.safetensors"
BAD = -1
"""Shard number of a video that could not be packed."""
COLUMNS = {
    "shard": torch.int32,  # number of the shard, or BAD
    "caption": torch.int64,  # first caption in the shard
    "captions": torch.int32,  # how many
    "frame": torch.int64,  # first spectrogram frame in the shard
    "frames": torch.int32,  # how many
    "topics": torch.bool,  # whether its captions have topics
    "id_end": torch.int64,  # where the id ends among the ids; ``<split>/ids`` holds them in UTF-8
}
STREAM_COLUMNS = {
    "row": torch.int64,  # first row of a stream in the shard, where frames are kept, else 0
    "rows": torch.int32,  # how many rows the stream has
}
"""Columns that stand once for each visual stream s, as ``row_<s>`` and ``rows_<s>``."""


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class Mapped:
    """The tensors of a safetensors file, mapped into memory.

    Args:
        path: the file.

    Raises:
        InputError: if it is missing or not whole.
    """

    def __init__(self, path: Path) -> None:
        try:
            file = safe_open(path, framework="pt")
            self.metadata: dict[str, str] = file.metadata() or {}
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"{path}: expected a file of shards, found no file") from None
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: expected a whole safetensors file, found a damaged one ({error})") from None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class Strings(Sequence[str]):
    """Strings that lie one after the other in one array of bytes; decoded when asked for.

    Args:
        data: UTF-8 bytes, uint8.
        ends: where each string ends, ``(strings,)`` int64.
        first: number of the first string of this view.
        count: strings of this view.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, first: int, count: int) -> None:
        self.data, self.ends, self.first, self.count = data, ends, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < self.count:
            raise IndexError(index)
        at = self.first + index
        begin = int(self.ends[at - 1]) if at else 0
        return self.data[begin : int(self.ends[at])].tobytes().decode("utf-8", "surrogatepass")


class Choices(Sequence[Strings]):
    """For each caption of a video the texts that training draws from.

    Args:
        shard: the shard.
        first: first caption of the video in the shard.
        count: captions of the video.
    """

    def __init__(self, shard: Shard, first: int, count: int) -> None:
        self.shard, self.first, self.count = shard, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Strings:  # type: ignore[override]
        if not 0 <= index < self.count:
            raise IndexError(index)
        ends, at = self.shard.numpy("choices_end"), self.first + index
        begin = int(ends[at - 1]) if at else 0
        return Strings(self.shard.numpy("choice"), self.shard.numpy("choice_end"), begin, int(ends[at]) - begin)


class Shard(Mapped):
    """One shard, mapped."""

    @cached_property
    def vocabulary(self) -> list[str]:
        """Every word of its captions once."""
        ends = self.numpy("vocabulary_end")
        return list(Strings(self.numpy("vocabulary"), ends, 0, len(ends)))

    def between(self, name: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of some captions, and where those of each begin and end ``(count + 1,)``."""
        ends = self.numpy(f"{name}_end")
        begin = int(ends[first - 1]) if first else 0
        bounds = np.concatenate([[0], ends[first : first + count] - begin])
        return self.numpy(name)[begin : begin + int(bounds[-1])], bounds

    def numpy(self, name: str) -> np.ndarray:
        """Return a tensor as a NumPy array over the same memory."""
        return self.tensors[name].numpy()


class ShardIndex:
    """The index of a folder of shards.

    Args:
        folder: the folder.

    Raises:
        InputError: if there is no index, or it is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / INDEX
        if not path.is_file():
            raise InputError(
                f"{path}: expected the index of finished shards, found no file; mcn-lightning prepare writes it last"
            )
        self.tables = Mapped(path)
        try:
            about = json.loads(self.tables.metadata["index"])
            if about["format"] != FORMAT:
                raise ValueError(about["format"])
            self.fingerprint: str = about["fingerprint"]
            self.options: dict[str, Any] = about["options"]
            self.shards: list[dict[str, Any]] = about["shards"]
            self.reasons: dict[str, dict[str, str]] = about["skipped"]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: expected an index of {FORMAT}, found something else ({error})") from None

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.options["splits"])

    def ids(self, split: str) -> Strings:
        """Return the ids of the videos of a split."""
        ends = self.tables[f"{split}/id_end"].numpy()
        return Strings(self.tables[f"{split}/ids"].numpy(), ends, 0, len(ends))

    def words(self) -> list[str]:
        """Return every word of the captions once."""
        data, ends = self.tables["words"].numpy(), self.tables["word_end"].numpy()
        return list(Strings(data, ends, 0, len(ends)))

    def check_options(
        self,
        options: dict[str, Any],
        streams: Sequence[VisualStream],
        min_times: dict[str, float],
        captions: bool,
    ) -> None:
        """Refuse options that these shards cannot serve.

        Args:
            options: options that must be those of packing, by name.
            streams: visual streams wanted.
            min_times: seconds to which captions grow, by split; of no consequence where frames are kept.
            captions: whether clips are captions.

        Raises:
            InputError: naming the first option that differs.
        """
        packed = self.options
        wanted = options | {"streams": [dataclasses.asdict(stream) for stream in streams]}
        names = {"streams": "streams", "bands": "audio.bands", "train_column": "text.train_column"}
        for option, value in wanted.items():
            if packed[option] != value and not (option == "streams" and "video" not in packed["modalities"]):
                raise InputError(
                    f"--data.{names[option]}: expected {packed[option]}, which {self.folder} was packed with, "
                    f"found {value}; pack again to change it"
                )
        if not packed["keep_frames"]:
            for split, kind in packed["splits"].items():
                if captions and kind["min_time"] != min_times[split]:
                    option = "min_time" if split == "train" else "eval_min_time"
                    raise InputError(
                        f"--data.clips.{option}: expected {kind['min_time']:g}, which {self.folder} was packed with, "
                        f"found {min_times[split]:g}; pack again, or once with --pack.keep_frames true"
                    )

    def broken(self, number: int) -> str | None:
        """Return what is wrong with a shard at first sight (missing, or of another size), or ``None``."""
        expected, path = self.shards[number], self.folder / shard_name(number)
        try:
            size = path.stat().st_size
        except OSError:
            size = None
        if size == expected["bytes"]:
            return None
        found = "no file" if size is None else f"{size} bytes"
        return (
            f"{path}: expected {expected['bytes']} bytes with SHA-256 {expected['sha256']}, found {found}; "
            "pack again, or copy it anew"
        )

    def verify(self, number: int) -> str | None:
        """Return what is wrong with a shard by its checksum, or ``None``."""
        if (wrong := self.broken(number)) is not None:
            return wrong
        path, expected = self.folder / shard_name(number), self.shards[number]["sha256"]
        found = checksum(path)
        return None if found == expected else f"{path}: expected SHA-256 {expected}, found {found}; copy it anew"


class ShardVideos:
    """The videos of a split, read from shards; a video source for ``NarratedVideoDataset``.

    Args:
        index: the index of the folder.
        split: which split.
        streams: visual streams to read, all of them or none.
        audio: how spectrograms are cut; ``None`` to read none.
        captions: whether clips are captions.
        text: gives words their indices; ``None`` where there is no text.
    """

    def __init__(
        self,
        index: ShardIndex,
        split: str,
        streams: Sequence[VisualStream],
        audio: AudioConfig | None,
        captions: bool = True,
        text: TextSource | None = None,
    ) -> None:
        self.index, self.split, self.text = index, split, text
        self.streams, self.audio, self.with_captions = tuple(streams), audio, captions
        self._open()

    def _open(self) -> None:
        streams = range(len(self.index.options["streams"]))
        names = [*COLUMNS, *(f"{name}_{number}" for name in STREAM_COLUMNS for number in streams)]
        self._columns = {name: self.index.tables[f"{self.split}/{name}"].numpy() for name in names}
        self._ids = self.index.ids(self.split)
        self._shards: dict[int, Shard] = {}
        self._tables: dict[int, np.ndarray | None] = {}
        self._broken: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is mapped behind: a process that gets a copy maps it itself."""
        kept = ("split", "streams", "audio", "with_captions", "text")
        return {name: getattr(self, name) for name in kept} | {"folder": self.index.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.index = ShardIndex(state.pop("folder"))
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._columns["shard"])

    def id(self, index: int) -> str:
        """Return the id of a video."""
        return self._ids[index]

    def open(self, index: int) -> ShardVideo:
        """Find a video in its shard.

        Raises:
            InputError: if it could not be packed, or its shard is missing or damaged.
        """
        number = int(self._columns["shard"][index])
        if number == BAD:
            raise InputError(self.index.reasons[self.split][str(index)])
        return ShardVideo(self, self._shard(number), index)

    def lost(self) -> list[BadVideo]:
        """Return the videos that could not be packed or whose shard is missing or of another size."""
        reasons = {BAD: ""} | {number: self.index.broken(number) for number in np.unique(self._columns["shard"]).tolist()
                               if number != BAD}  # fmt: skip
        bad = [index for index, number in enumerate(self._columns["shard"].tolist()) if reasons[number] is not None]
        packing = self.index.reasons[self.split]
        return [BadVideo(self.id(i), reasons[int(self._columns["shard"][i])] or packing[str(i)]) for i in bad]

    def word_table(self, index: int) -> np.ndarray | None:
        """Return the index of each word in the vocabulary of a video's shard, or ``None``; see ``TextSource``."""
        number = int(self._columns["shard"][index])
        if number not in self._tables:
            words = self._shard(number).vocabulary if self.text is not None else None
            self._tables[number] = None if words is None else self.text.word_table(words)
        return self._tables[number]

    def _shard(self, number: int) -> Shard:
        if (shard := self._shards.get(number)) is not None:
            return shard
        if number not in self._broken:
            wrong = self.index.broken(number)
            if wrong is None:
                try:
                    return self._shards.setdefault(number, Shard(self.index.folder / shard_name(number)))
                except InputError as error:
                    wrong = f"{error}; its SHA-256 should be {self.index.shards[number]['sha256']}"
            self._broken[number] = wrong
        raise InputError(self._broken[number])

    def column(self, name: str, index: int) -> int:
        """Return an entry of the tables."""
        return int(self._columns[name][index])


@dataclass(frozen=True, kw_only=True)
class ShardCaptions(Captions):
    """The captions of a video in a shard, whose clips and words are stored.

    Args:
        video: the video.
    """

    video: ShardVideo

    def clip(self, index: int, min_time: float) -> Clip:
        """Return the clip of a caption as it was packed; grown anew where frames are kept, for any ``min_time``."""
        if self.video.source.index.options["keep_frames"]:
            return super().clip(index, min_time)
        order, ends = self._order
        start, end = self._clips[index]
        return Clip(index, start, end, tuple(order[ends[index] : ends[index + 1]]))

    @cached_property
    def _clips(self) -> list[list[float]]:
        first = self.video.first
        return self.video.shard.numpy("clip")[first : first + len(self)].tolist()

    @cached_property
    def _order(self) -> tuple[list[int], list[int]]:
        order, bounds = self.video.shard.between("order", self.video.first, len(self))
        return order.tolist(), bounds.tolist()

    def word_rows(self, clips: Sequence[Clip], max_words: int) -> np.ndarray | None:
        """Return the first word indices of some of its clips, ``(B, W)`` int32; ``None`` where the text is needed."""
        table = self.video.source.word_table(self.video.index)
        if table is None or self.video.source.index.options["keep_frames"]:
            return None
        numbers, bounds = self.video.shard.between("word", self.video.first, len(self))
        indices = table[numbers]
        known = indices != 0
        kept = np.append(indices[known], np.int32(0))  # the last one: no word
        bounds = np.concatenate([[0], known.cumsum()])[bounds]
        drawn = np.fromiter((clip.number for clip in clips), np.int64, len(clips))
        place = bounds[drawn][:, None] + np.arange(max_words)
        return kept[np.where(place < bounds[drawn + 1][:, None], place, len(kept) - 1)]


class ShardVideo:
    """One video in a shard.

    Args:
        source: the split.
        shard: its shard.
        index: which video of the split.
    """

    def __init__(self, source: ShardVideos, shard: Shard, index: int) -> None:
        self.source, self.shard, self.index = source, shard, index
        self.frames = source.column("frames", index)
        self.first = source.column("caption", index)
        self.captions = self._captions() if source.with_captions else None

    @property
    def duration(self) -> float:
        """Seconds of the longest stream that is read; infinite without any."""
        seconds = [self.source.column(f"rows_{n}", self.index) / s.rate for n, s in enumerate(self.source.streams)]
        if self.source.audio is not None:
            seconds.append(self.frames / FRAME_RATE)
        return max(seconds, default=float("inf"))

    def _captions(self) -> Captions:
        source, shard = self.source, self.shard
        count = source.column("captions", self.index)
        here = slice(self.first, self.first + count)
        return ShardCaptions(
            video=self,
            start=shard.numpy("start")[here],
            end=shard.numpy("end")[here],
            text=Strings(shard.numpy("text"), shard.numpy("text_end"), self.first, count),
            topics=shard.numpy("topic")[here] if source.column("topics", self.index) else None,
            choices=Choices(shard, self.first, count) if "choice" in shard.tensors else None,
        )

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the visual features of B clips, ``(B, C)`` float32; see ``StoredVideo``."""
        parts, drawn = [], torch.tensor([self.first + clip.number for clip in clips])
        for number, stream in enumerate(self.source.streams):
            stored = self.shard[f"visual_{number}"]
            if self.source.index.options["keep_frames"]:
                first = self.source.column(f"row_{number}", self.index)
                rows = stored[first : first + self.source.column(f"rows_{number}", self.index)]
                pooled = max_rows(rows, [(clip.start, clip.end) for clip in clips], stream.rate)
            else:
                pooled = stored.index_select(0, drawn)
            parts.append(pooled)
        if not parts:
            return None
        return unit_length(parts, new("video", (len(clips), sum(part.shape[1] for part in parts)), torch.float32))

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> tuple[Tensor, Tensor] | None:
        """Return the spectrograms of B spans and their frames before padding; see ``StoredVideo``."""
        source, config = self.source, self.source.audio
        if config is None:
            return None
        first = source.column("frame", self.index)
        frames = self.shard["audio"][first : first + self.frames].T
        out = new("audio", (len(spans), config.num_frames, len(frames)), frames.dtype).transpose(1, 2)  # time-major
        return spectrogram_clips(
            frames, spans, config.num_frames, config.pad_value, config.clamp_start, checked=True, out=out
        )
