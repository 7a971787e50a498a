"""The files of the streaming format: memory-mapped safetensors shards with one index.

A folder of shards holds ``index.safetensors``, ``shard-00000.safetensors`` and so on. A shard has these tensors, in
each of which the videos follow one another:

=============== ==========================================================================================
``start``       start of each caption in seconds ``(captions,)`` float64, and ``end``
``clip``        start and end of each caption's clip ``(captions, 2)``; ``order``: the captions in it, in the order of
                their words; ``order_end`` ``(captions,)``
``text``        the captions in UTF-8, concatenated, uint8; ``text_end`` ``(captions,)`` int64
``word``        the words of each clip as indices into the shard's ``vocabulary``, int32; ``word_end`` ``(captions,)``
``topic``       known topic of each caption ``(captions,)`` int64, if the data set has topics
``choice``      texts from which training samples, uint8; ``choice_end`` ``(texts,)``, ``choices_end`` ``(captions,)``
``visual``      the maxima over the rows of each caption's clip, all streams concatenated ``(captions, C)``, in the
                stored precision; with ``keep_frames``, the rows of each video for each stream s, ``visual_<s>``
``audio``       spectrogram, time-major ``(frames, M)``, in the stored precision
=============== ==========================================================================================

The index has the tables ``<split>/<column>`` for each split (see ``COLUMNS``), with one row a video. It has the words
of all captions, and the indices of each shard's vocabulary among them (``shard_word``, ``shard_word_end``). Its
metadata are the options of packing, the size and SHA-256 of each shard, and by split the skipped videos and the counts
of dropped captions. Index and shards are memory-mapped, so that all workers share one copy in the page cache.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcn_lightning.data.shards.header import ShardHeader
from mcn_lightning.data.shards.store import ShardStore
from mcn_lightning.files import reading

Slice = TypeVar("Slice")
BAD = -1
"""Shard number of a video that could not be packed."""
COLUMNS = {
    "shard": torch.int32,  # number of the shard, or BAD
    "caption": torch.int64,  # first caption in the shard
    "captions": torch.int32,  # their number; -n: none, but n windows, one at each whole second (allow_missing)
    "frame": torch.int64,  # first spectrogram frame in the shard
    "frames": torch.int32,  # their number
    "topics": torch.bool,  # whether its captions have topics
    "id_end": torch.int64,  # end of the id in ``<split>/ids``, which holds all ids in UTF-8
}
STREAM_COLUMNS = {
    "row": torch.int64,  # first row of a stream in the shard with ``keep_frames``, else 0
    "rows": torch.int32,  # number of rows of the stream
}
"""Columns of each visual stream s, as ``row_<s>`` and ``rows_<s>``."""


def column_names(streams: int) -> list[str]:
    """Return the columns of the index for a number of visual streams."""
    return [*COLUMNS, *(f"{name}_{number}" for name in STREAM_COLUMNS for number in range(streams))]


class Mapped:
    """The tensors of a safetensors file, memory-mapped.

    Args:
        path: the file.

    Raises:
        InputError: if it is missing or not whole.
    """

    def __init__(self, path: Path) -> None:
        with reading(path, "a whole safetensors file", SafetensorError):
            file = safe_open(path, framework="pt")
            self.metadata: dict[str, str] = file.metadata() or {}
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]


class _Slices(Sequence[Slice]):
    """A view of consecutive slices, each made when it is read.

    Args:
        ends: end of each slice, ``(slices,)`` int64.
        first: index of the first slice of this view.
        size: number of slices in this view.
    """

    def __init__(self, ends: np.ndarray, first: int, size: int) -> None:
        self.ends, self.first, self.size = ends, first, size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> Slice: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Slice]: ...
    def __getitem__(self, index: int | slice) -> Slice | Sequence[Slice]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.size))]
        if not 0 <= index < self.size:
            raise IndexError(index)
        position = self.first + index
        return self._slice(int(self.ends[position - 1]) if position else 0, int(self.ends[position]))

    @abstractmethod
    def _slice(self, begin: int, end: int) -> Slice:
        """Return one slice."""


class Strings(_Slices[str]):
    """Strings that are concatenated in one array of bytes.

    Args:
        data: UTF-8 bytes, uint8.
        ends: end of each string, ``(strings,)`` int64.
        first: index of the first string of this view.
        size: number of strings in this view, by default all.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, first: int = 0, size: int | None = None) -> None:
        super().__init__(ends, first, len(ends) - first if size is None else size)
        self.data = data

    def _slice(self, begin: int, end: int) -> str:
        # surrogatepass, as in bytes_of: captions from JSON may hold lone surrogates
        return self.data[begin:end].tobytes().decode("utf-8", "surrogatepass")


class Choices(_Slices[Strings]):
    """The texts from which training samples, for each caption of a video.

    Args:
        shard: the shard.
        first: first caption of the video in the shard.
        size: number of captions of the video.
    """

    def __init__(self, shard: Shard, first: int, size: int) -> None:
        super().__init__(shard.numpy("choices_end"), first, size)
        self.shard = shard

    def _slice(self, begin: int, end: int) -> Strings:
        return Strings(self.shard.numpy("choice"), self.shard.numpy("choice_end"), begin, end - begin)


class Shard(Mapped):
    """One memory-mapped shard."""

    def between(self, name: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of some captions, and the bounds of each caption's items ``(count + 1,)``."""
        ends = self.numpy(f"{name}_end")
        begin = int(ends[first - 1]) if first else 0
        # bounds within this video's items, as the stored ends count the items of the whole shard
        bounds = np.concatenate([[0], ends[first : first + count] - begin])
        return self.numpy(name)[begin : begin + int(bounds[-1])], bounds

    def numpy(self, name: str) -> np.ndarray:
        """Return a tensor as a NumPy array over the same memory."""
        return self.tensors[name].numpy()


class ShardIndex(ShardHeader):
    """The whole index of shards; its arguments are those of ``ShardHeader``."""

    def __init__(self, where: str | Path | ShardStore, cache: str | Path | None = None) -> None:
        super().__init__(where, cache)
        self.tables = Mapped(self.index_path)

    @property
    def splits(self) -> list[str]:
        """Names of the splits."""
        return list(self.options["splits"])

    def ids(self, split: str) -> Strings:
        """Return the ids of the videos of a split."""
        return Strings(self.tables[f"{split}/ids"].numpy(), self.tables[f"{split}/id_end"].numpy())

    def words(self) -> list[str]:
        """Return every word of the captions once."""
        return list(Strings(self.tables["words"].numpy(), self.tables["word_end"].numpy()))

    def shard_words(self, number: int) -> np.ndarray:
        """Return the indices of the vocabulary of a shard among all words, ``(words,)`` int32."""
        ends = self.tables["shard_word_end"].numpy()
        begin = int(ends[number - 1]) if number else 0
        return self.tables["shard_word"].numpy()[begin : int(ends[number])]
