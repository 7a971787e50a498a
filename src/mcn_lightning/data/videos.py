"""Interfaces of an opened video and of the videos of a split, for every kind of storage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, VideoLengths, odd_streams
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.spectrograms import AudioConfig, check_frames_finite, clip_frames, copy_runs
from mcn_lightning.data.text import TextSource
from mcn_lightning.errors import InputError


class NewTensor(Protocol):
    """Allocates memory for a tensor of a batch."""

    def __call__(self, name: str, shape: Sequence[int], dtype: torch.dtype, max_rows: int = 0) -> Tensor:
        """Return an uninitialised tensor. ``max_rows`` is the largest number of rows of a video, if videos differ."""


def new_tensor(name: str, shape: Sequence[int], dtype: torch.dtype, max_rows: int = 0) -> Tensor:
    """Return fresh memory for a tensor."""
    return torch.empty(tuple(shape), dtype=dtype)


@dataclass(frozen=True)
class Sound:
    """The spectrograms of B clips of one video.

    Args:
        frames: frames of all clips, each frame once, ``(F, M)`` in the stored precision.
        start: first row of each clip, ``(B,)`` int64.
        length: number of frames of each clip, ``(B,)`` int64.
    """

    frames: Tensor
    start: Tensor
    length: Tensor


def read_sound(
    frames: Tensor, spans: Sequence[tuple[float, float]], config: AudioConfig, new: NewTensor, checked: bool = False
) -> Sound:
    """Read the spectrograms of B spans of a video.

    Args:
        frames: spectrogram of the video in dB, time-major, ``(columns, M)``.
        spans: start and end of each clip in seconds.
        config: how they are cut.
        new: allocates the memory.
        checked: whether all frames are known to be finite.

    Raises:
        InputError: if a used frame holds NaN or infinity.
    """
    columns, bands = frames.shape
    # clips of one video overlap, and each frame is copied to the batch once
    runs, start, length = clip_frames(columns, spans, config.num_frames, config.clamp_start)
    size = sum(stop - first for first, stop in runs)
    # not the largest possible size, as shared memory is taken at once; a video with more frames gets memory of its own
    max_rows = min(len(spans) * config.num_frames, 4 * size)
    out = copy_runs(frames, runs, new("frames", (size, bands), frames.dtype, max_rows=max_rows))
    if not checked:
        check_frames_finite(out, start, length, spans)
    return Sound(out, torch.from_numpy(np.array(start)), torch.from_numpy(np.array(length)))


def join_streams(streams: Sequence[Tensor], new: NewTensor) -> Tensor:
    """Concatenate the features of several streams, ``(B, width)`` each, to ``(B, C)``."""
    # float16 beside float32 becomes float32, so no stream loses digits
    dtype = streams[0].dtype
    for stream in streams[1:]:
        dtype = torch.promote_types(dtype, stream.dtype)
    out = new("video", (len(streams[0]), sum(stream.shape[1] for stream in streams)), dtype)
    return torch.cat([stream.to(dtype) for stream in streams], dim=1, out=out)


class HasLengths(Protocol):
    """A video whose parts have lengths."""

    @property
    def captions(self) -> Captions | None:
        """Its captions, or ``None`` for clips without captions."""

    @property
    def duration(self) -> float:
        """Seconds of the longest stream of features, infinite if none is read."""

    @property
    def lengths(self) -> tuple[Length, ...]:
        """The length of each stream, empty if not known."""


class StoredVideo(HasLengths, Protocol):
    """One opened video. A missing modality is ``None``."""

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream and what is wrong with its numbers. Only some numbers are read."""

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the maxima of all streams over B clips, ``(B, C)`` in the stored precision."""

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram frames of B spans in seconds."""


class Videos(ABC):
    """The videos of a split.

    Attributes:
        named: whether the ids are names and not positions in a list.
        repeated: number of videos that repeat the name of an earlier one. Their ids end in a count.
    """

    named: bool = True
    repeated: int = 0

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of videos, including unusable ones."""

    @abstractmethod
    def id(self, index: int) -> str:
        """Return the id of a video."""

    @abstractmethod
    def open(self, index: int) -> StoredVideo:
        """Open a video.

        Raises:
            InputError: if it cannot be used.
        """

    def all_texts(self) -> Iterable[str]:
        """Return every text, or every word, of the captions of all videos, including unusable ones."""
        return ()

    def some_texts(self, count: int) -> Iterable[str]:
        """Return about ``count`` captions, evenly spread over the videos, or all of them if there are fewer."""
        if not len(self):
            return
        # the number of captions is estimated from 16 videos: opening all could take minutes
        sample = [len(self.captions_at(index)) for index in np.linspace(0, len(self) - 1, 16).astype(int).tolist()]
        for index in range(0, len(self), max(1, round(len(self) * sum(sample) / len(sample) / count))):
            yield from self.captions_at(index)

    def captions_at(self, index: int) -> Sequence[str]:
        """Return the captions of a video, empty if it cannot be used. ``open`` gives the reason."""
        try:
            found = self.open(index).captions
        except InputError:
            return ()
        return () if found is None else list(found.text)

    def set_text(self, text: TextSource | None) -> None:  # noqa: B027 (most sources do not need it)
        """Set the text source that maps words to indices. It is called once, before worker processes start."""

    def repeated_names(self) -> list[str]:
        """Return the names that occur more than once."""
        return []

    def damage(self, index: int, error: Exception) -> str | None:
        """Return the damaged file after an error in reading a video, or ``None`` if no stored file can be the cause."""
        return None

    def dropped(self) -> Mapping[str, int]:
        """Return the number of dropped captions of usable videos, by reason."""
        return {}

    def lost(self) -> Sequence[BadVideo]:
        """Return the videos that are known to be unusable before any is read."""
        return ()

    def is_here(self) -> bool:
        """Tell whether all videos can be read without fetching files."""
        return True


def video_lengths(name: str, video: HasLengths) -> VideoLengths:
    """Return the lengths of the parts of a video."""
    return VideoLengths(name, video.lengths, None if video.captions is None else float(video.captions.end.max()))


def check_lengths(name: str, video: HasLengths, overrun: float) -> None:
    """Refuse a video whose streams have too different lengths, or whose captions end after its features.

    Args:
        name: of the video.
        video: opened.
        overrun: seconds by which captions may end after the features, and by which streams may always differ.

    Raises:
        InputError: naming the video or the file.
    """
    lengths = video_lengths(name, video)
    if (odd := odd_streams(lengths, overrun)) is not None:
        raise InputError(odd)
    # only the end: captions may stop long before a video does
    if lengths.captions is not None and lengths.captions > video.duration + overrun:
        span = f"captions up to {lengths.captions:.1f} s and features of {video.duration:.1f} s"
        allowed = f"at most {overrun:g} s (--data.clips.overrun) beyond the features"
        raise InputError(f"{name}: expected captions {allowed}, found {span}")
