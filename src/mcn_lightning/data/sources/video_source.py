"""The door for a source of one's own: ``VideoSource``, and how what it reads is checked."""

from __future__ import annotations

import inspect
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.batch import AbsentError
from mcn_lightning.data.captions import Captions, parse_captions
from mcn_lightning.data.sources.base import DataSource, Reading
from mcn_lightning.data.sources.raw import Absent, RawVideo, RawVideos
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError, os_reason


@dataclass(frozen=True)
class Video:
    """What a source of one's own reads of one video. What it has not is ``None``.

    Args:
        streams: the features of each visual stream, in the order of ``--data.streams``: floating-point numbers
            ``(rows, width)``, with the rate and width that the option gives.
        spectrogram: log-mel spectrogram in dB, at most 0, ``(bands, frames)``, 100 frames a second.
        captions: ``{"start": [...], "end": [...], "text": [...]}`` with times in seconds, and perhaps ``topic``, whole
            numbers; or ``Captions``.
    """

    streams: Sequence[np.ndarray | Tensor | None] = ()
    spectrogram: np.ndarray | Tensor | None = None
    captions: Captions | Mapping[str, object] | None = None


class NoVideoError(InputError):
    """``read`` of a source of one's own gave something else than a ``Video``."""


class VideoSource(DataSource):
    """A source of one's own: write ``ids`` and ``read``.

    ``--data.source my_file.MyVideos`` takes it, and ``--data.source.NAME VALUE`` gives a parameter of its ``__init__``.
    Processes that read get a pickled copy of it: open files in ``read``, not before.
    """

    @abstractmethod
    def ids(self, split: str) -> Sequence[str]:
        """Return the ids of the videos of a split, each once, always in the same order.

        Args:
            split: "train", "val" or "test". Without test videos, those of "val" are tested.

        Returns:
            The ids; empty where there is no such split.
        """

    @abstractmethod
    def read(self, split: str, video: str) -> Video:
        """Read one video.

        An ``OSError``, ``KeyError`` or ``ValueError`` means that this video cannot be used, and ``FileNotFoundError``
        that it is not there. A few such videos are skipped and counted: see ``--data.max_bad_share``.

        Args:
            split: "train", "val" or "test".
            video: its id.
        """

    def texts(self, split: str, video: str) -> Iterable[str]:
        """Return the captions of a video, from which the vocabulary is made before training.

        By default the video is read for them. Write this method where captions can be read faster than videos.
        """
        captions = self.read_video(split, video).captions
        if isinstance(captions, Captions):
            return captions.all_texts()
        columns = [column for column in (captions or {}).values() if isinstance(column, list | tuple | np.ndarray)]
        items = [item for column in columns for item in column]
        several = [text for item in items if isinstance(item, list | tuple) for text in item]
        return [text for text in (*items, *several) if isinstance(text, str)]

    def read_video(self, split: str, video: str) -> Video:
        """Return what ``read`` gives, which must be a ``Video``.

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
            InputError: if a method takes other arguments, or the ids are not texts that come once.
        """
        for name, names in (("ids", ("split",)), ("read", ("split", "video"))):
            method = getattr(self, name)
            try:
                inspect.signature(method).bind(*names)
            except TypeError as error:
                called = f"{type(self).__name__}.{name}"
                raise InputError(
                    f"--data.source: expected {called}(self, {', '.join(names)}), found {called}"
                    f"{inspect.signature(method)} ({error})"
                ) from None
        found = self.ids(split)
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise InputError(f"{self.label(split)}: expected a list of ids from ids, found {found!r:.60}")
        ids = list(found)
        wrong = [video for video in ids if not isinstance(video, str) or not video]
        twice = [video for video, times in Counter(ids).items() if times > 1] if not wrong else []
        if wrong or twice:
            text = f"{wrong[0]!r}" if wrong else f"{twice[0]} more than once"
            raise InputError(f"{self.label(split)}: expected the id of each video once, as text, found {text}")
        return ids

    def name(self, split: str) -> str | None:
        """Return what a split is called; without test videos, those of "val" are tested."""
        if split == "test" and not self.ids_of("test"):
            split = "val"
        return split if self.ids_of(split) else None

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the splits that have videos.

        Raises:
            InputError: if a split that is needed has none, or its ids cannot be used.
        """
        names = {split: self.name(split) for split in splits}
        for split in needed:
            if split in names and names[split] is None:
                raise InputError(self.absent(split))
        return {split: SourceVideos(self, split, name, reading) for split, name in names.items() if name is not None}

    def label(self, split: str) -> str:
        """Return what messages call a split."""
        return f"--data.source {type(self).__name__}: {split}"

    def absent(self, split: str) -> str:
        """Return the message about a requested split without videos."""
        return f"{self.label(split)}: expected videos, found none"


class SourceVideos(RawVideos):
    """The videos of a split of one's own source, checked.

    Args:
        source: the source.
        split: which split of the run, for messages.
        name: what the source calls it.
        reading: what is read.

    Raises:
        InputError: if the ids cannot be used.
    """

    def __init__(self, source: VideoSource, split: str, name: str, reading: Reading) -> None:
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
        """Read a video and check what is in it.

        Raises:
            InputError: if it cannot be read, or what is read is not as ``Video`` says.
        """
        reading, video = self.reading, self._read(index)
        absent, where = Absent(reading.allow_missing), self.ids[index]
        streams, audio = reading.read_streams, reading.read_audio
        if streams and len(video.streams) != len(streams):
            expected = f"expected {len(streams)} visual streams, as --data.streams has"
            raise InputError(f"{where}: {expected}, found {len(video.streams)}")
        rows = [
            absent.read(_array, part, f"{where}{stream.suffix}", (None, stream.width))
            for part, stream in zip(video.streams if streams else (), streams, strict=True)
        ]
        frames = None
        if audio is not None:
            frames = absent.read(_array, video.spectrogram, f"{where}{audio.suffix}", (audio.bands, None))
        captions = absent.read(self._captions, video, where) if reading.captions else None
        places = [f"{where}{suffix}" for suffix in (*(stream.suffix for stream in streams), reading.audio.suffix)]
        return absent.checked(RawVideo(captions, rows, frames, streams, reading.audio, places))

    def _read(self, index: int) -> Video:
        where = self.ids[index]
        try:
            return self.source.read_video(self.name, where)
        except InputError:
            raise
        except FileNotFoundError as error:
            raise AbsentError(f"{error.filename or where}: expected a file of the video {where}, found none") from None
        except _UNREADABLE as error:
            what = os_reason(error) if isinstance(error, OSError) else " ".join(str(error).split())
            raise InputError(
                f"{where}: expected a video that can be read, found {type(error).__name__}: {what}"
            ) from None

    def _captions(self, video: Video, where: str) -> Captions:
        if isinstance(video.captions, Captions):
            return video.captions
        try:
            return parse_captions(video.captions, self.reading.text.train_column, self.reading.text.eval_column)
        except AbsentError as error:
            raise AbsentError(f"captions of {where}: {error}") from None
        except InputError as error:
            raise InputError(f"captions of {where}: {error}") from None

    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video; none of one that cannot be read, which is told elsewhere."""
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
        if empty and self.ids:  # the vocabulary would blame the captions
            try:
                self._read(0)
            except NoVideoError:
                raise
            except InputError:
                return

    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the bytes of the visual features and of the spectrogram of a video in memory; 0 where absent."""
        try:
            video = self.open(index)
        except InputError:
            return 0, 0
        visual = sum(rows.nbytes for rows in video.rows if rows is not None)
        return visual, 0 if video.frames is None else video.frames.nbytes


_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)
"""What the libraries that read files raise for a file that is damaged, or has not what was expected."""


def _array(value: np.ndarray | Tensor | None, where: str, shape: tuple[int | None, int | None]) -> Tensor:
    """Return an array as a tensor.

    Args:
        value: floating-point numbers.
        where: video and stream, for messages.
        shape: what is expected; ``None`` for any size of at least 1.

    Raises:
        AbsentError: if there is none.
        InputError: if it is something else, or of another shape.
    """
    expected = f"expected floating-point numbers of shape ({', '.join(str(size or 'any') for size in shape)})"
    if value is None:
        raise AbsentError(f"{where}: {expected}, found none")
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize <= 8:
        native = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("="))
        value = torch.from_numpy(native if native.flags.writeable else native.copy())
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise InputError(f"{where}: {expected}, found {getattr(value, 'dtype', type(value).__name__)}")
    if (
        value.ndim != 2
        or 0 in value.shape
        or any(size not in (None, n) for size, n in zip(shape, value.shape, strict=True))
    ):
        raise InputError(f"{where}: {expected}, found {tuple(value.shape)}")
    return value
