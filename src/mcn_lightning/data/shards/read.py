"""The videos of a folder of shards. Their batches equal those of the unpacked files bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.pooling import VisualStream, empty_rows, max_rows
from mcn_lightning.data.files.spectrograms import FRAME_RATE, AudioConfig
from mcn_lightning.data.shards.files import BAD, Choices, Shard, ShardIndex, Strings, column_names
from mcn_lightning.data.shards.header import shard_name
from mcn_lightning.data.shards.store import ShardStore, StoreError
from mcn_lightning.data.text import TextSource
from mcn_lightning.data.videos import NewTensor, Sound, Videos, join_streams, read_sound
from mcn_lightning.errors import InputError

OPEN_SHARDS = 4096
"""Number of shards that a process keeps open. One takes 18 kB of memory, and opening it a quarter of a millisecond."""


class ShardVideos(Videos):
    """The videos of a split in shards, a video source for ``NarratedVideoDataset``.

    Args:
        index: the index of the folder.
        split: name of the split.
        streams: visual streams to read, all of them or none.
        audio: how spectrograms are cut, or ``None`` to read none.
        captions: whether clips are captions.
        text: maps words to indices, or ``None`` without text.
        allow_missing: whether a video may lack modalities, if it was packed without them.
    """

    def __init__(
        self,
        index: ShardIndex,
        split: str,
        streams: Sequence[VisualStream],
        audio: AudioConfig | None,
        captions: bool = True,
        text: TextSource | None = None,
        allow_missing: bool = False,
    ) -> None:
        self.allow_missing = allow_missing
        self.index, self.split = index, split
        self.set_text(text)
        self.streams, self.audio, self.with_captions = tuple(streams), audio, captions
        self._open()

    def _open(self) -> None:
        self.keep_frames = bool(self.index.options["keep_frames"])
        names = column_names(len(self.index.options["streams"]))
        self._columns = {name: self.index.tables[f"{self.split}/{name}"].numpy() for name in names}
        self._ids = self.index.ids(self.split)
        self._shards: dict[int, Shard] = {}
        self._broken: dict[int, str] = {}

    def __getstate__(self) -> tuple[ShardStore, dict[str, object]]:
        """Pickle without the memory maps. The process that gets a copy opens them itself."""
        names = ("split", "streams", "audio", "with_captions", "text", "_table", "allow_missing")
        return self.index.store, {name: getattr(self, name) for name in names}

    def __setstate__(self, state: tuple[ShardStore, dict[str, object]]) -> None:
        store, attributes = state
        self.index = ShardIndex(store)
        self.__dict__.update(attributes)
        self._open()

    def __len__(self) -> int:
        return len(self._columns["shard"])

    def id(self, index: int) -> str:
        """Return the id of a video."""
        return self._ids[index]

    def open(self, index: int) -> ShardVideo:
        """Open a video in its shard.

        Raises:
            InputError: if it could not be packed, or its shard is missing or damaged.
        """
        number = int(self._columns["shard"][index])
        if number == BAD:
            # JSON has only text as keys
            raise InputError(self.index.reasons[self.split][str(index)])
        return ShardVideo(self, self._shard(number), index).check()

    def damage(self, index: int, error: Exception) -> str | None:
        """Return the damaged shard. Values that packing never writes show that its contents have changed."""
        number = int(self._columns["shard"][index])
        path, expected = self.index.folder / shard_name(number), self.index.shards[number]["sha256"]
        return f"{path}: expected contents with SHA-256 {expected}, found others ({error}); copy it anew"

    def fetch(self) -> None:
        """Fetch the shards of these videos that are not on this machine; see ``ShardHeader.fetch``."""
        self.index.fetch(self._shard_numbers())

    def is_here(self) -> bool:
        """Tell whether all shards of these videos are on this machine, or missing at the URL."""
        return all(number in self.index.gone or self.index.is_here(number) for number in self._shard_numbers())

    def _shard_numbers(self) -> list[int]:
        shards = self._columns["shard"]
        return np.unique(shards[shards != BAD]).tolist()

    def lost(self) -> list[BadVideo]:
        """Return the videos that could not be packed, or whose shard is missing or of another size."""
        shards = self._columns["shard"]
        broken = {number: self.index.broken(number) for number in self._shard_numbers()}
        lost = [number for number, reason in broken.items() if reason is not None]
        return [
            BadVideo(self.id(index), broken.get(int(shards[index])) or self.index.reasons[self.split][str(index)])
            for index in np.flatnonzero(np.isin(shards, [BAD, *lost])).tolist()
        ]

    def dropped(self) -> Mapping[str, int]:
        """Return the number of captions that packing dropped, by reason."""
        return self.index.dropped.get(self.split, {}) if self.with_captions else {}

    def all_texts(self) -> list[str]:
        """Return every word of the captions of all splits, once."""
        return self.index.words()

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""
        return tuple(stream.width for stream in self.streams)

    def set_text(self, text: TextSource | None) -> None:
        """Set the text source that maps words to indices. It is called once, before worker processes start."""
        self.text = text
        # one look-up for each word of the data set, and none while batches are read
        self._table = None if text is None else text.word_table(self.index.words())

    @property
    def knows_words(self) -> bool:
        """Whether ``word_indices`` returns indices."""
        return self._table is not None

    def word_indices(self, numbers: np.ndarray, index: int) -> np.ndarray | None:
        """Return the indices of words, 0 for unknown ones, or ``None`` if the text source needs the text.

        Args:
            numbers: positions of the words in the vocabulary of the video's shard.
            index: index of the video.
        """
        if self._table is None:
            return None
        return self._table[self.index.shard_words(int(self._columns["shard"][index]))[numbers]]

    def _shard(self, number: int) -> Shard:
        if (shard := self._shards.get(number)) is not None:
            return shard
        if number not in self._broken:
            reason = self.index.broken(number)
            if reason is None:
                try:
                    # the oldest one goes; a map that a batch still uses stays until the batch is gone
                    if len(self._shards) >= OPEN_SHARDS:
                        del self._shards[next(iter(self._shards))]
                    return self._shards.setdefault(number, Shard(self.index.path(number)))
                except StoreError:  # not remembered, as the connection may be back at the next video
                    raise
                except InputError as error:
                    reason = f"{error}; its SHA-256 should be {self.index.shards[number]['sha256']}"
            self._broken[number] = reason
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

    def clips(self, indices: Iterable[int], min_time: float, widest: bool = True) -> dict[int, Clip]:
        """Return the stored clips of captions. With ``keep_frames`` they are computed, for any ``min_time``."""
        video = self.video
        if video.source.keep_frames:
            return super().clips(indices, min_time, widest)
        spans = video.shard.numpy("clip")[video.first : video.first + len(self)].tolist()
        if self.choices is None and video.source.knows_words:  # the words of a clip are stored in their order
            return {i: Clip(i, *spans[i]) for i in indices}
        order, bounds = video.shard.between("order", video.first, len(self))
        members, ends = order.tolist(), bounds.tolist()
        return {i: Clip(i, spans[i][0], spans[i][1], tuple(members[ends[i] : ends[i + 1]])) for i in indices}

    def texts(self, clips: Sequence[Clip]) -> list[str]:
        """Return the text of some clips, with the captions in the stored order."""
        if self.video.source.keep_frames:
            return super().texts(clips)
        order, bounds = self.video.shard.between("order", self.video.first, len(self))
        members, ends = order.tolist(), bounds.tolist()
        return [" ".join(self.text[n] for n in members[ends[clip.number] : ends[clip.number + 1]]) for clip in clips]

    def word_rows(self, clips: Sequence[Clip], max_words: int) -> np.ndarray | None:
        """Return the first word indices of some clips, ``(B, W)`` int32, or ``None`` if the text is needed."""
        source, shard = self.video.source, self.video.shard
        if source.keep_frames:
            return None
        ends = shard.numpy("word_end")
        chosen = np.array([clip.number for clip in clips]) + self.video.first
        # for caption 0 this reads the last end, which the next line replaces
        begin = ends[chosen - 1]
        begin[chosen == 0] = 0
        count = ends[chosen] - begin
        stop = count.cumsum()
        # the clip that each word belongs to; all clips at once, as a loop over them costs most of the reading
        row = np.arange(len(clips)).repeat(count)
        numbers = shard.numpy("word")[np.arange(len(row)) + (begin - stop + count)[row]]
        indices = source.word_indices(numbers, self.video.index)
        if indices is None:
            return None
        known = np.flatnonzero(indices)
        row = row[known]
        first = np.searchsorted(row, np.arange(len(clips)))  # position of each clip's first known word
        column = np.arange(len(row)) - first[row]
        inside = column < max_words
        rows = np.zeros((len(clips), max_words), dtype=np.int32)
        rows[row[inside], column[inside]] = indices[known[inside]]
        return rows


class ShardVideo:
    """One video in a shard.

    Args:
        source: the split.
        shard: its shard.
        index: index of the video in the split.
    """

    def __init__(self, source: ShardVideos, shard: Shard, index: int) -> None:
        self.source, self.shard, self.index = source, shard, index
        self.frames = source.column("frames", index)
        self.rows = [source.column(f"rows_{number}", index) for number in range(len(source.streams))]
        self.first = source.column("caption", index)
        self.captions = self._captions() if source.with_captions else None

    @property
    def duration(self) -> float:
        """Seconds of the longest stream that is read, infinite without streams."""
        seconds = [rows / stream.rate for rows, stream in zip(self.rows, self.source.streams, strict=False)]
        if self.source.audio is not None:
            seconds.append(self.frames / FRAME_RATE)
        return max(seconds, default=0.0) or float("inf")

    @property
    def lengths(self) -> tuple[Length, ...]:
        """The length of each stream."""
        source, name, found = self.source, self.source.id(self.index), []
        for number, stream in enumerate(source.streams):
            if (rows := self.rows[number]) == 0:
                continue
            option = f"data.streams[{number}].rate"
            found.append(Length(stream.suffix, f"{name}{stream.suffix}", rows, stream.rate, option))
        if source.audio is not None and self.frames:
            found.append(Length(source.audio.suffix, f"{name}{source.audio.suffix}", self.frames, FRAME_RATE))
        return tuple(found)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream and what is wrong with its numbers; see ``StoredVideo``."""
        stored = list(self._stored_rows()) if any(self.rows) else []
        rows = [part for part, count in zip(stored, self.rows, strict=False) if count]
        if not self.source.keep_frames:  # clips over the whole video have equal maxima, which is no fault
            rows = [maxima.amax(dim=0, keepdim=True) for maxima in rows]
        first, has_sound = self.source.column("frame", self.index), self.source.audio is not None and self.frames
        frames = self.shard["audio"][first : first + self.frames] if has_sound else None
        return list(zip((length.name for length in self.lengths), content_faults(rows, frames), strict=True))

    def _stored_rows(self) -> Sequence[Tensor]:
        """Return the stored rows of each visual stream, or its maxima over the clips of captions."""
        if not self.source.keep_frames:
            # a negative count stands for windows of a video without captions
            maxima = self.shard["visual"][self.first : self.first + abs(self.source.column("captions", self.index))]
            return maxima.split(self.source.widths, dim=1)
        found = []
        for number, (stream, count) in enumerate(zip(self.source.streams, self.rows, strict=True)):
            first = self.source.column(f"row_{number}", self.index)
            found.append(self.shard[f"visual_{number}"][first : first + count] if count else empty_rows(stream))
        return found

    def check(self) -> ShardVideo:
        """Return this video.

        Raises:
            InputError: if a required part or all parts are missing.
        """
        source = self.source
        present = {
            **{f"features{stream.suffix}": rows > 0 for rows, stream in zip(self.rows, source.streams, strict=False)},
            **({"a spectrogram": self.frames > 0} if source.audio is not None else {}),
            **({"captions": self.captions is not None} if source.with_captions else {}),
        }
        missing = [name for name, found in present.items() if not found]
        if missing and not (source.allow_missing and len(missing) < len(present)):
            raise InputError(f"{source.id(self.index)}: expected {missing[0]}, found none; it was packed without")
        return self

    def _captions(self) -> Captions | None:
        source, shard = self.source, self.shard
        count = source.column("captions", self.index)
        if count <= 0:
            return None
        rows = slice(self.first, self.first + count)
        return ShardCaptions(
            video=self,
            start=shard.numpy("start")[rows],
            end=shard.numpy("end")[rows],
            text=Strings(shard.numpy("text"), shard.numpy("text_end"), self.first, count),
            topics=shard.numpy("topic")[rows] if source.column("topics", self.index) else None,
            choices=Choices(shard, self.first, count) if "choice" in shard.tensors else None,
        )

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the visual features of B clips, ``(B, C)``; see ``StoredVideo``."""
        if not any(self.rows):
            return None
        if not self.source.keep_frames:
            stored, chosen = self.shard["visual"], [self.first + clip.number for clip in clips]
            out = new("video", (len(clips), stored.shape[1]), stored.dtype)
            if not 0 <= min(chosen) <= max(chosen) < len(stored):
                raise IndexError(f"captions {min(chosen)} to {max(chosen)} of {len(stored)}")
            # mode "clip" is faster than "raise", which is why the line above checks the range
            np.take(stored.numpy(), chosen, axis=0, out=out.numpy(), mode="clip")
            return out
        spans, pooled = [(clip.start, clip.end) for clip in clips], []
        for rows, stream in zip(self._stored_rows(), self.source.streams, strict=True):
            pooled.append(max_rows(rows, spans, stream.rate))
        return join_streams(pooled, new)

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram frames of B spans; see ``StoredVideo``."""
        source, config = self.source, self.source.audio
        if config is None or not self.frames:
            return None
        first = source.column("frame", self.index)
        frames = self.shard["audio"][first : first + self.frames]
        # checked: packing refused numbers that are not finite
        return read_sound(frames, spans, config, new, checked=True)
