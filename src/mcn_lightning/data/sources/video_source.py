"""Video sources of users: the base class ``VideoSource``, and the checks of the videos that it reads."""

from __future__ import annotations

import inspect
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from mcn_lightning.batch import AbsentError
from mcn_lightning.data.captions import Captions, parse_captions
from mcn_lightning.data.files.arrays import Shape, as_float_tensor, check_shape
from mcn_lightning.data.sources.base import DataSource, Reading
from mcn_lightning.data.sources.raw import PartReader, RawVideo, RawVideos
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError, naming, one_line, os_reason


@dataclass(frozen=True)
class Video:
    """Contents of one video of a user's source. A missing part is ``None``.

    Args:
        streams: the features of each visual stream, in the order of ``--data.streams``: floating-point numbers
            ``(rows, width)``, with the rate and width of the option.
        spectrogram: log-mel spectrogram in dB, at most 0, ``(bands, frames)``, 100 frames a second.
        captions: ``{"start": [...], "end": [...], "text": [...]}`` with times in seconds, or ``Captions``. ``topic`` is
            optional and holds whole numbers.
    """

    streams: Sequence[np.ndarray | Tensor | None] = ()
    spectrogram: np.ndarray | Tensor | None = None
    captions: Captions | Mapping[str, object] | None = None


class NoVideoError(InputError):
    """``read`` of a user's source returned something other than a ``Video``."""


class VideoSource(DataSource):
    """Base class of a user's source: write ``ids`` and ``read``.

    ``--data.source my_file.MyVideos`` selects it, and ``--data.source.NAME VALUE`` sets a parameter of its
    ``__init__``. Worker processes get a pickled copy of the object: open files in ``read``, not before.
    """

    @abstractmethod
    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of the videos of a split, each once, always in the same order.

        Args:
            split: "train", "val" or "test". Without test videos, those of "val" are tested.

        Returns:
            The ids, empty if there is no such split.
        """

    @abstractmethod
    def read(self, split: str, video: str) -> Video:
        """Read one video.

        An ``OSError``, ``KeyError`` or ``ValueError`` means that this video cannot be used. ``FileNotFoundError`` means
        that it does not exist. A few such videos are skipped and counted: see ``--data.max_bad_share``.

        Args:
            split: "train", "val" or "test".
            video: its id.
        """

    def texts(self, split: str, video: str) -> Iterable[str]:
        """Return the captions of a video, from which the vocabulary is made before training.

        By default the video is read for them. Write this method if captions can be read faster than videos.
        """
        captions = self.read_video(split, video).captions
        if isinstance(captions, Captions):
            return captions.all_texts()
        columns = [column for column in (captions or {}).values() if isinstance(column, list | tuple | np.ndarray)]
        items = [item for column in columns for item in column]
        nested = [text for item in items if isinstance(item, list | tuple) for text in item]
        return [text for text in (*items, *nested) if isinstance(text, str)]

    def read_video(self, split: str, video: str) -> Video:
        """Return the ``Video`` of ``read``.

        Raises:
            NoVideoError: if it is something else.
        """
        found = self.read(split, video)
        if not isinstance(found, Video):
            kind = type(self).__name__
            raise NoVideoError(f"{video}: expected a Video from {kind}.read, found {type(found).__name__}")
        return found

    def ids_of(self, split: str) -> list[str]:
        """Return the ids of a split.

        Raises:
            InputError: if a method takes other arguments, or the ids are not distinct texts.
        """
        for name, arguments in (("ids", ("split",)), ("read", ("split", "video"))):
            signature = inspect.signature(getattr(self, name))
            try:
                # by position, as they are called
                signature.bind(*arguments)
            except TypeError as error:
                method = f"{type(self).__name__}.{name}"
                expected = f"{method}(self, {', '.join(arguments)})"
                raise InputError(f"--data.source: expected {expected}, found {method}{signature} ({error})") from None
        found = self.ids(split)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise InputError(f"{self.label(split)}: expected a list of ids from ids, found {found!r:.60}")
        ids = list(found)
        faults = [repr(video) for video in ids if not isinstance(video, str) or not video]
        if not faults:  # ids of other types may not be hashable
            faults = [f"{video} more than once" for video, times in Counter(ids).items() if times > 1]
        if faults:
            raise InputError(f"{self.label(split)}: expected the id of each video once, as text, found {faults[0]}")
        return ids

    def name(self, split: str) -> str | None:
        """Return the name of a split. Without test videos, those of "val" are tested."""
        if split == "test" and not self.ids_of("test"):
            split = "val"
        return split if self.ids_of(split) else None

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the splits that have videos.

        Raises:
            InputError: if a needed split has none, or its ids cannot be used.
        """
        names = {split: self.name(split) for split in splits}
        for split in needed:
            if split in names and names[split] is None:
                raise InputError(self.missing_message(split))
        return {split: SourceVideos(self, name, reading) for split, name in names.items() if name is not None}

    def label(self, split: str) -> str:
        """Return the name of a split in messages."""
        return f"--data.source {type(self).__name__}: {split}"

    def missing_message(self, split: str) -> str:
        """Return the message about a requested split without videos, with the texts and paths that the source has."""
        given = [f"{name} {value}" for name, value in vars(self).items() if isinstance(value, str | Path)]
        found = f"none ({', '.join(given)}): check the path" if given else "none"
        return f"{self.label(split)}: expected videos, found {found}"


class SourceVideos(RawVideos):
    """The videos of a split of a user's source, checked.

    Args:
        source: the source.
        name: name of the split in the source.
        reading: what is read.

    Raises:
        InputError: if the ids cannot be used.
    """

    def __init__(self, source: VideoSource, name: str, reading: Reading) -> None:
        self.source, self.name, self.reading = source, name, reading
        self.ids = source.ids_of(name)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""
        return tuple(stream.width for stream in self.reading.read_streams)

    def id(self, index: int) -> str:
        """Return the id of a video."""
        return self.ids[index]

    def open(self, index: int) -> RawVideo:
        """Read a video and check its contents.

        Raises:
            InputError: if it cannot be read, or differs from the description of ``Video``.
        """
        reading, video = self.reading, self._read(index)
        parts, where = PartReader(reading.allow_missing), self.ids[index]
        streams, audio = reading.read_streams, reading.read_audio
        if streams and len(video.streams) != len(streams):
            expected = f"expected {len(streams)} visual streams, as --data.streams has"
            raise InputError(f"{where}: {expected}, found {len(video.streams)}")
        rows = [
            parts.read(_array, part, f"{where}{stream.suffix}", ("rows", stream.width))
            for part, stream in zip(video.streams if streams else (), streams, strict=True)
        ]
        frames = None
        if audio is not None:
            frames = parts.read(_array, video.spectrogram, f"{where}{audio.suffix}", (audio.bands, "frames"))
        captions = parts.read(self._captions, video, where) if reading.captions else None
        # a user's source has no files: messages name the video and the part
        names = [f"{where}{suffix}" for suffix in (*(stream.suffix for stream in streams), reading.audio.suffix)]
        return parts.check(RawVideo(captions, rows, frames, streams, reading.audio, names))

    def _read(self, index: int) -> Video:
        where = self.ids[index]
        try:
            return self.source.read_video(self.name, where)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise AbsentError(f"{error.filename or where}: expected a file of the video {where}, found none") from None
        except _UNREADABLE as error:
            reason = os_reason(error) if isinstance(error, OSError) else one_line(error)
            found = f"{type(error).__name__}: {reason}"
            raise InputError(f"{where}: expected a video that can be read, found {found}") from None

    def _captions(self, video: Video, where: str) -> Captions:
        if isinstance(video.captions, Captions):
            return video.captions
        with naming(f"captions of {where}"):
            return parse_captions(video.captions, self.reading.text.train_column, self.reading.text.eval_column)

    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video, empty if it cannot be read. ``open`` gives the reason."""
        if not self.reading.captions:
            return []
        try:
            return list(self.source.texts(self.name, self.ids[index]))
        except (InputError, *_UNREADABLE):
            return []

    def all_texts(self) -> Iterable[str]:
        """Return every text of the captions of all videos.

        Raises:
            NoVideoError: if there is none, as no video is a ``Video``.
        """
        empty = True
        for text in super().all_texts():
            empty = False
            yield text
        if empty and self.ids:  # without this check, the message of the vocabulary would name the captions
            try:
                self._read(0)
            except NoVideoError:
                raise
            except InputError:
                return

    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the bytes in memory of the visual features and of the spectrogram of a video, 0 if absent."""
        try:
            video = self.open(index)
        except InputError:
            return 0, 0
        visual = sum(rows.nbytes for rows in video.rows if rows is not None)
        return visual, 0 if video.frames is None else video.frames.nbytes


_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)
"""Exceptions of libraries for files that are damaged or lack something."""


def _array(value: np.ndarray | Tensor | None, where: str, shape: Shape) -> Tensor:
    """Return an array of floating-point numbers as a tensor.

    Raises:
        AbsentError: if there is none.
        InputError: if it is something else, or of another shape.
    """
    expected = f"{where}: expected floating-point numbers"
    if value is None:
        raise AbsentError(f"{expected}, found none")
    found = as_float_tensor(value, expected)
    check_shape(found, shape, expected)
    return found
