"""Narrated videos in the layout of the HowTo100M feature release."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from mcn_lightning.batch import MODALITIES, AbsentError, BadVideo, Modality
from mcn_lightning.data.captions import Captions, total_reasons
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.arrays import feature_file
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS, VisualStream, max_rows, nothing_of, read_rows
from mcn_lightning.data.files.spectrograms import FRAME_RATE, AudioConfig, read_spectrogram
from mcn_lightning.data.videos import NewTensor, Sound, join_streams, read_sound
from mcn_lightning.errors import InputError
from mcn_lightning.text_files import read_lines

Value = TypeVar("Value")


@dataclass(frozen=True)
class VideoLayout:
    """Where the features of a video are, and which of them are read.

    Args:
        features: folder of the visual features.
        audio_root: folder of the spectrograms.
        streams: visual streams, in the order in which their features are joined.
        audio: how spectrograms are stored, cut and augmented.
        modalities: what a clip has; nothing is read for the others.
    """

    features: Path
    audio_root: Path
    streams: Sequence[VisualStream] = DEFAULT_STREAMS
    audio: AudioConfig = AudioConfig()  # noqa: RUF009 (frozen)
    modalities: Sequence[Modality] = MODALITIES


def read_video_list(path: Path) -> list[str]:
    """Read the list of videos of a split.

    Args:
        path: comma-separated values with the column ``path`` or ``video_id``, or both, and one line a video. A leading
            ``None/`` and the ending of a video or feature file (``.mp4``, ``.webm``, ``.npy``, ...) are dropped.

    Returns:
        The path of each video below the feature folder; its last part is the video's id.

    Raises:
        InputError: if the file is missing, has another header, names no video or some twice, or a line is short.
    """
    what = "a list of videos with the header 'path' or 'video_id'"
    try:
        rows = list(csv.reader(read_lines(path, what), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"{path}: expected {what}, found {error}") from None
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [header.index(name) for name in ("path", "video_id") if name in header]
    if not columns:
        raise InputError(f"{path}: expected the header 'path' or 'video_id', found '{','.join(header)}'")
    videos = []
    for row in rows[1:]:
        if len(row) <= max(columns) or not all(row[column].strip() for column in columns):
            raise InputError(
                f"{path}: expected {' and '.join(map(header.__getitem__, columns))}, found '{','.join(row)}'"
            )
        videos.append(_place_of(path, *(row[column].strip() for column in columns)))
    if not videos:
        raise InputError(f"{path}: expected one video a line, found none")
    if again := {video: times for video, times in Counter(map(video_id, videos)).items() if times > 1}:
        named = ", ".join(f"{video} {times} times" for video, times in list(again.items())[:3])
        more = f" and {len(again) - 3} more" if len(again) > 3 else ""
        raise InputError(f"{path}: expected each video once, found {len(again)} more than once: {named}{more}")
    return videos


def _place_of(path: Path, place: str, video: str | None = None) -> str:
    """Return the path of a video below the feature folder, which ends in its id.

    Args:
        path: the list, for messages.
        place: what the list has for the video.
        video: its id, where the list has both.
    """
    place = _ENDINGS.sub("", place.replace("\\", "/").removeprefix("None/").removeprefix("./"))
    if video is None or video_id(place) == video:
        return place
    if not video_id(place).startswith(video):  # ID_2d.npy
        raise InputError(f"{path}: expected a path that ends in its video_id {video}, found {place}")
    return place.removesuffix(video_id(place)) + video


_ENDINGS = re.compile(r"\s*(\.(npy|npz|mp4|webm|mkv|avi|mov|m4v|flv|3gp))+$", re.IGNORECASE)


def video_id(path: str) -> str:
    """Return the id of a video: the last part of its path."""
    return path.rsplit("/", 1)[-1]


class LayoutVideos:
    """The videos of a list, read from the layout's files; a video source for ``NarratedVideoDataset``.

    Args:
        videos: path of each video below the feature folder.
        captions: captions of each video by its id, or why they cannot be used; ``None`` for clips without captions.
        layout: where the features are, and which are read.
        allow_missing: a video may lack captions, a spectrogram, or files of visual features.
    """

    def __init__(
        self,
        videos: Sequence[str],
        captions: Mapping[str, Captions | BadVideo] | None,
        layout: VideoLayout,
        allow_missing: bool = False,
    ) -> None:
        self.allow_missing = allow_missing
        self.videos = list(videos)
        self.captions = captions
        self.layout = layout

    def __len__(self) -> int:
        return len(self.videos)

    def id(self, index: int) -> str:
        """Return the id of a video."""
        return video_id(self.videos[index])

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""
        return tuple(stream.width for stream in self.layout.streams) if "video" in self.layout.modalities else ()

    def path(self, index: int, what: VisualStream | AudioConfig) -> Path:
        """Return the feature file of a video, ``.npz`` or ``.npy``, in a folder of its own or beside the others."""
        root = self.layout.audio_root if isinstance(what, AudioConfig) else self.layout.features
        path = self.videos[index]
        name = f"{video_id(path)}{what.suffix}"
        own = feature_file(root / path / name)
        if own.is_file():
            return own
        beside = feature_file((root / path).with_name(name))  # no folder of its own
        return beside if beside.is_file() else own

    def open(self, index: int) -> LayoutVideo:
        """Open the files of a video and look its captions up, without reading its features.

        Raises:
            InputError: if a file is missing, damaged or of another width, or the captions cannot be used.
        """
        layout, visual = self.layout, list[Tensor | None]()
        absent: list[AbsentError] = []
        if "video" in layout.modalities:
            visual = [self._if_there(absent, read_rows, self.path(index, s), s.width) for s in layout.streams]
        frames = None
        if "audio" in layout.modalities:
            frames = self._if_there(absent, read_spectrogram, self.path(index, layout.audio), layout.audio.bands)
        captions = self._if_there(absent, self._captions, self.id(index))
        if absent and frames is None and captions is None and all(rows is None for rows in visual):
            raise absent[0]
        return LayoutVideo(self, index, captions, visual, frames)

    def _if_there(self, absent: list[AbsentError], read: Callable[..., Value], *arguments: Any) -> Value | None:
        """Return what is read; where it may be missing and is, ``None``, and take note of it."""
        try:
            return read(*arguments)
        except AbsentError as error:
            if not self.allow_missing:
                raise
            absent.append(error)
            return None

    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the bytes of the visual feature files and of the spectrogram file of a video; 0 where absent."""
        layout = self.layout
        visual = [self.path(index, stream) for stream in layout.streams] if "video" in layout.modalities else []
        audio = [self.path(index, layout.audio)] if "audio" in layout.modalities else []
        return _total_size(visual), _total_size(audio)

    def changed_at(self, index: int) -> int:
        """Return when the latest of the feature files of a video was changed, in nanoseconds; 0 where there is none."""
        layout = self.layout
        visual = [self.path(index, stream) for stream in layout.streams] if "video" in layout.modalities else []
        paths = [*visual, *([self.path(index, layout.audio)] if "audio" in layout.modalities else [])]
        return max((path.stat().st_mtime_ns for path in paths if path.is_file()), default=0)

    def damage(self, index: int, error: Exception) -> str | None:
        """Return nothing: what is read from these files is checked."""
        return None

    def dropped(self) -> Mapping[str, int]:
        """Return how many captions of its videos were dropped, by reason; those of a video without any other are not
        counted: it is unusable as a whole.
        """
        entries = [(self.captions or {}).get(self.id(index)) for index in range(len(self))]
        return total_reasons(entry.dropped for entry in entries if isinstance(entry, Captions))

    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video, be its features usable or not."""
        entry = None if self.captions is None else self.captions.get(self.id(index))
        return entry.all_texts() if isinstance(entry, Captions) else []

    def _captions(self, video: str) -> Captions | None:
        if self.captions is None:
            return None
        captions = self.captions.get(video)
        if captions is None:
            raise AbsentError(f"captions of {video}: expected an entry for this video, found none")
        if isinstance(captions, BadVideo):
            raise (AbsentError if captions.absent else InputError)(captions.reason)
        return captions


def _total_size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file())


class LayoutVideo:
    """One video of the layout, opened.

    Args:
        source: where it comes from.
        index: which video.
        captions: its captions; ``None`` for clips without captions.
        rows: rows of each visual stream, ``None`` for one that is missing; empty where video is not read.
        frames: spectrogram ``(M, columns)``; ``None`` where audio is not read or missing.
    """

    def __init__(
        self,
        source: LayoutVideos,
        index: int,
        captions: Captions | None,
        rows: list[Tensor | None],
        frames: Tensor | None,
    ) -> None:
        self.source = source
        self.index = index
        self.captions = captions
        self.rows = rows
        self.frames = frames

    @property
    def duration(self) -> float:
        """Seconds of the longest stream; infinite without any, since nothing bounds the captions then."""
        streams = self.source.layout.streams
        pairs = zip(self.rows, streams, strict=False)
        seconds = [len(rows) / stream.rate for rows, stream in pairs if rows is not None]
        if self.frames is not None:
            seconds.append(self.frames.shape[1] / FRAME_RATE)
        return max(seconds, default=float("inf"))

    @property
    def lengths(self) -> tuple[Length, ...]:
        """How long each stream lasts."""
        source, found = self.source, []
        for number, (rows, stream) in enumerate(zip(self.rows, source.layout.streams, strict=False)):
            if rows is None:
                continue
            where, option = str(source.path(self.index, stream)), f"data.streams[{number}].rate"
            found.append(Length(stream.suffix, where, len(rows), stream.rate, option))
        if self.frames is not None:
            audio = source.layout.audio
            found.append(Length(audio.suffix, str(source.path(self.index, audio)), self.frames.shape[1], FRAME_RATE))
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
        for stream, rows in zip(self.source.layout.streams, self.rows, strict=False):
            try:
                found.append(max_rows(nothing_of(stream) if rows is None else rows, spans, stream.rate))
            except InputError as error:
                raise InputError(f"{self.source.path(self.index, stream)}: {error}") from None
        return found

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the visual features of B clips, ``(B, C)``; see ``StoredVideo``."""
        return join_streams(self.maxima(clips), new) if any(rows is not None for rows in self.rows) else None

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram frames of B spans; see ``StoredVideo``."""
        if self.frames is None:
            return None
        config = self.source.layout.audio
        try:
            return read_sound(self.frames.T, spans, config, new)
        except InputError as error:
            raise InputError(f"{self.source.path(self.index, config)}: {error}") from None
