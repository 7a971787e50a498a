"""The files of the streaming format: memory-mapped safetensors shards with one index.

A folder of shards holds ``index.safetensors`` and ``shard-00000.safetensors`` and so on. A shard has one tensor for
each kind of thing, with the videos one after the other:

=============== ==========================================================================================
``start``       seconds of each caption ``(captions,)`` float64; ``end`` alike
``clip``        start and end of each caption's clip ``(captions, 2)``; ``order``: the captions in it, in the order of
                their words; ``order_end`` ``(captions,)``
``text``        the captions in UTF-8, one after the other, uint8; ``text_end`` ``(captions,)`` int64
``word``        the words of each clip as numbers of the shard's ``vocabulary``, int32; ``word_end`` ``(captions,)``
``topic``       known topic of each caption ``(captions,)`` int64, where the data set has topics
``choice``      texts from which training samples, uint8; ``choice_end`` ``(texts,)``, ``choices_end`` ``(captions,)``
``visual``      the maxima over the rows of each caption's clip, the streams side by side ``(captions, C)``, in the
                stored precision; or, where frames are kept, for each stream s the rows of each video, ``visual_<s>``
``audio``       spectrogram, time-major ``(frames, M)``, in the stored precision
=============== ==========================================================================================

The index has for each split the tables ``<split>/<column>`` (see ``COLUMNS``), one row a video; the words of all
captions, and for each shard the numbers of its vocabulary among them (``shard_word``, ``shard_word_end``); and as
metadata the options the shards were packed with, the size and SHA-256 of each shard, which videos were skipped and how
many captions were dropped (by split and reason). Both are mapped, never read
whole: any number of workers shares one copy in the page cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mcn_lightning.data.shards.header import ShardHeader
from mcn_lightning.data.shards.store import ShardStore
from mcn_lightning.errors import InputError

BAD = -1
"""Shard number of a video that could not be packed."""
COLUMNS = {
    "shard": torch.int32,  # number of the shard, or BAD
    "caption": torch.int64,  # first caption in the shard
    "captions": torch.int32,  # how many; -n: none, and n windows instead, one at each whole second (allow_missing)
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
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
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
        size: strings of this view.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray, first: int, size: int) -> None:
        self.data, self.ends, self.first, self.size = data, ends, first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        at = self.first + index
        begin = int(self.ends[at - 1]) if at else 0
        return self.data[begin : int(self.ends[at])].tobytes().decode("utf-8", "surrogatepass")


class Choices(Sequence[Strings]):
    """The texts from which training samples, for each caption of a video.

    Args:
        shard: the shard.
        first: first caption of the video in the shard.
        size: captions of the video.
    """

    def __init__(self, shard: Shard, first: int, size: int) -> None:
        self.shard, self.first, self.size = shard, first, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Strings:  # type: ignore[override]
        if not 0 <= index < self.size:
            raise IndexError(index)
        ends, at = self.shard.numpy("choices_end"), self.first + index
        begin = int(ends[at - 1]) if at else 0
        return Strings(self.shard.numpy("choice"), self.shard.numpy("choice_end"), begin, int(ends[at]) - begin)


class Shard(Mapped):
    """One shard, mapped."""

    def between(self, name: str, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of some captions, and where those of each begin and end ``(count + 1,)``."""
        ends = self.numpy(f"{name}_end")
        begin = int(ends[first - 1]) if first else 0
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
        ends = self.tables[f"{split}/id_end"].numpy()
        return Strings(self.tables[f"{split}/ids"].numpy(), ends, 0, len(ends))

    def words(self) -> list[str]:
        """Return every word of the captions once."""
        data, ends = self.tables["words"].numpy(), self.tables["word_end"].numpy()
        return list(Strings(data, ends, 0, len(ends)))

    def shard_words(self, number: int) -> np.ndarray:
        """Return the numbers, among all words, of the vocabulary of a shard, ``(words,)`` int32."""
        ends = self.tables["shard_word_end"].numpy()
        begin = int(ends[number - 1]) if number else 0
        return self.tables["shard_word"].numpy()[begin : int(ends[number])]
