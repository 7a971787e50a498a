"""Videos with unpooled features: rows of each visual stream, and a spectrogram."""

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
from mcn_lightning.errors import naming

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class RawVideos(Videos):
    """The videos of a split with unpooled features, which can be packed into shards."""

    @abstractmethod
    def open(self, index: int) -> RawVideo:
        """Open a video.

        Raises:
            InputError: if it cannot be used.
        """

    @abstractmethod
    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video, even if its features cannot be used."""

    @abstractmethod
    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the stored bytes of the visual features and of the spectrogram of a video, 0 if absent."""

    def changed_at(self, index: int) -> int:
        """Return the latest time at which a file of a video changed, in nanoseconds, or 0 if unknown."""
        return 0

    def all_texts(self) -> Iterable[str]:
        """Return every text of the captions of all videos, usable or not."""
        return (text for index in range(len(self)) for text in self.texts(index))

    def captions_at(self, index: int) -> Sequence[str]:
        """Return the captions of a video, even if its features cannot be used."""
        return self.texts(index)


class PartReader:
    """Reads the parts of one video, some of which may be missing.

    Args:
        allow_missing: whether parts may be missing, as long as one is present.
    """

    def __init__(self, allow_missing: bool) -> None:
        self.allow_missing, self.errors = allow_missing, list[AbsentError]()

    def read(self, read: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value | None:
        """Return a part, or ``None`` if it is missing and may be."""
        try:
            return read(*args, **kwargs)
        except AbsentError as error:
            if not self.allow_missing:
                raise
            self.errors.append(error)
            return None

    def check(self, video: RawVideo) -> RawVideo:
        """Return a video that has at least one part.

        Raises:
            AbsentError: if all parts are missing.
        """
        parts = (video.frames, video.captions, *video.rows)
        if self.errors and all(part is None for part in parts):
            raise self.errors[0]
        return video


class RawVideo:
    """One video, opened.

    Args:
        captions: its captions, or ``None`` for clips without captions.
        rows: rows of each visual stream, ``(rows, width)``, or ``None`` for a missing one. Empty if video is not read.
        frames: spectrogram ``(M, columns)``, or ``None`` if audio is missing or not read.
        streams: the visual streams.
        audio: how spectrograms are cut.
        files: file of each visual stream and then of the spectrogram, for messages.
    """

    def __init__(
        self,
        captions: Captions | None,
        rows: Sequence[Tensor | None],
        frames: Tensor | None,
        streams: Sequence[VisualStream],
        audio: AudioConfig,
        files: Sequence[str | Path],
    ) -> None:
        self.captions, self.rows, self.frames = captions, rows, frames
        self.streams, self.config, self.files = streams, audio, files

    @property
    def duration(self) -> float:
        """Seconds of the longest stream. Without streams it is infinite, as captions have no bounds then."""
        return max((length.seconds for length in self.lengths), default=float("inf"))

    @property
    def lengths(self) -> tuple[Length, ...]:
        """The length of each stream."""
        found = [
            Length(stream.suffix, str(file), len(rows), stream.rate, f"data.streams[{number}].rate")
            for number, (rows, stream, file) in enumerate(zip(self.rows, self.streams, self.files, strict=False))
            if rows is not None
        ]
        if self.frames is not None:
            found.append(Length(self.config.suffix, str(self.files[-1]), self.frames.shape[1], FRAME_RATE))
        return tuple(found)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream and what is wrong with its numbers; see ``StoredVideo``."""
        rows = [part for part in self.rows if part is not None]
        found = content_faults(rows, None if self.frames is None else self.frames.T)
        return list(zip((length.name for length in self.lengths), found, strict=True))

    def maxima(self, clips: Sequence[Clip]) -> list[Tensor]:
        """Return the maximum over the rows of each clip, ``(B, width)`` for each stream, in the stored precision.

        A missing stream gives zeros, as a clip without rows does.

        Raises:
            InputError: if a used row holds NaN or infinity.
        """
        spans, found = [(clip.start, clip.end) for clip in clips], []
        for stream, rows, file in zip(self.streams, self.rows, self.files, strict=False):
            with naming(str(file)):
                found.append(max_rows(empty_rows(stream) if rows is None else rows, spans, stream.rate))
        return found

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the visual features of B clips, ``(B, C)``; see ``StoredVideo``."""
        return join_streams(self.maxima(clips), new) if any(rows is not None for rows in self.rows) else None

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram frames of B spans; see ``StoredVideo``."""
        if self.frames is None:
            return None
        with naming(str(self.files[-1])):
            return read_sound(self.frames.T, spans, self.config, new)
