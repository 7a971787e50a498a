"""Videos whose features are stored as they are: rows of each visual stream, and a spectrogram."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from torch import Tensor

from mcn_lightning.batch import AbsentError
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.pooling import VisualStream, empty_rows, max_rows
from mcn_lightning.data.files.spectrograms import FRAME_RATE, AudioConfig
from mcn_lightning.data.videos import NewTensor, Sound, Videos, join_streams, read_sound
from mcn_lightning.errors import InputError

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class RawVideos(Videos):
    """The videos of a split, with their features as they are; such videos can be packed into shards."""

    @abstractmethod
    def open(self, index: int) -> RawVideo:
        """Open a video.

        Raises:
            InputError: if it cannot be used.
        """

    @abstractmethod
    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video, be its features usable or not."""

    @abstractmethod
    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the bytes of the visual features and of the spectrogram of a video as stored; 0 where absent."""

    def changed_at(self, index: int) -> int:
        """Return when the latest of its files was changed, in nanoseconds; 0 where that is not known."""
        return 0

    def all_texts(self) -> Iterable[str]:
        """Return every text of the captions of all videos, usable or not."""
        return (text for index in range(len(self)) for text in self.texts(index))

    def captions_at(self, index: int) -> Sequence[str]:
        """Return the captions of a video, be its features usable or not."""
        return self.texts(index)


class Absent:
    """What a video lacks, while it is opened.

    Args:
        allowed: it may lack something, as long as it has anything.
    """

    def __init__(self, allowed: bool) -> None:
        self.allowed, self.found = allowed, list[AbsentError]()

    def read(self, read: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value | None:
        """Return what is read; where it may be missing and is, ``None``, and take note of it."""
        try:
            return read(*args, **kwargs)
        except AbsentError as error:
            if not self.allowed:
                raise
            self.found.append(error)
            return None

    def checked(self, video: RawVideo) -> RawVideo:
        """Return a video.

        Raises:
            AbsentError: if all is missing.
        """
        parts = (video.frames, video.captions, *video.rows)
        if self.found and all(part is None for part in parts):
            raise self.found[0]
        return video


class RawVideo:
    """One video, opened.

    Args:
        captions: its captions; ``None`` for clips without captions.
        rows: rows of each visual stream, ``(rows, width)``; ``None`` for one that is missing; empty where video is not
            read.
        frames: spectrogram ``(M, columns)``; ``None`` where audio is not read or missing.
        streams: the visual streams.
        audio: how spectrograms are cut.
        places: what messages call each visual stream, and after these the spectrogram: its file.
    """

    def __init__(
        self,
        captions: Captions | None,
        rows: Sequence[Tensor | None],
        frames: Tensor | None,
        streams: Sequence[VisualStream],
        audio: AudioConfig,
        places: Sequence[str | Path],
    ) -> None:
        self.captions, self.rows, self.frames = captions, rows, frames
        self.streams, self.config, self.places = streams, audio, places

    @property
    def duration(self) -> float:
        """Seconds of the longest stream; infinite without any, since nothing bounds the captions then."""
        return max((length.seconds for length in self.lengths), default=float("inf"))

    @property
    def lengths(self) -> tuple[Length, ...]:
        """How long each stream lasts."""
        found = [
            Length(stream.suffix, str(place), len(rows), stream.rate, f"data.streams[{number}].rate")
            for number, (rows, stream, place) in enumerate(zip(self.rows, self.streams, self.places, strict=False))
            if rows is not None
        ]
        if self.frames is not None:
            found.append(Length(self.config.suffix, str(self.places[-1]), self.frames.shape[1], FRAME_RATE))
        return tuple(found)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream, and what is wrong with its numbers; see ``StoredVideo``."""
        rows = [each for each in self.rows if each is not None]
        found = content_faults(rows, None if self.frames is None else self.frames.T)
        return list(zip((length.name for length in self.lengths), found, strict=True))

    def maxima(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Return the maximum over the rows of each clip, ``(B, width)`` for each stream, in the stored precision.

        Zeros for a stream that is missing, as for a clip without a row.

        Raises:
            InputError: if a used row holds NaN or infinity.
        """
        spans, found = [(clip.start, clip.end) for clip in clips], []
        for stream, rows, place in zip(self.streams, self.rows, self.places, strict=False):
            try:
                found.append(max_rows(empty_rows(stream) if rows is None else rows, spans, stream.rate))
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
        return found

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the visual features of B clips, ``(B, C)``; see ``StoredVideo``."""
        return join_streams(self.maxima(clips), new) if any(rows is not None for rows in self.rows) else None

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram frames of B spans; see ``StoredVideo``."""
        if self.frames is None:
            return None
        try:
            return read_sound(self.frames.T, spans, self.config, new)
        except InputError as error:
            raise InputError(f"{self.places[-1]}: {error}") from None
