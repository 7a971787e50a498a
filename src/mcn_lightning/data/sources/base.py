"""Base classes of video sources, and what a run reads of its videos."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.batch import Modality
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.text import TextConfig
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Reading:
    """What a run reads of its videos, from the options of the data.

    Args:
        modalities: modalities of a clip. The others are not read.
        streams: the visual streams, in the order in which their features are joined.
        audio: how spectrograms are stored and cut.
        text: which captions are read.
        clips: how clips are chosen.
        allow_missing: whether a video may lack modalities.
    """

    modalities: tuple[Modality, ...]
    streams: tuple[VisualStream, ...]
    audio: AudioConfig
    text: TextConfig
    clips: ClipConfig
    allow_missing: bool = False

    @property
    def read_streams(self) -> tuple[VisualStream, ...]:
        """The visual streams, empty without video."""
        return self.streams if "video" in self.modalities else ()

    @property
    def read_audio(self) -> AudioConfig | None:
        """How spectrograms are cut, or ``None`` without audio."""
        return self.audio if "audio" in self.modalities else None

    @property
    def captions(self) -> bool:
        """Whether clips are captions."""
        return self.clips.kind == "captions"

    def sizes(self) -> dict[str, int | tuple[str, ...]]:
        """Return the options of a network that depend on the data: ``modalities``, ``video_dim`` and so on."""
        found: dict[str, int | tuple[str, ...]] = {"modalities": self.modalities}
        if self.read_streams:
            found["video_dim"] = sum(stream.width for stream in self.read_streams)
        if self.read_audio is not None:
            found["audio_bands"] = self.read_audio.bands
        if "text" in self.modalities:
            found["text_dim"] = self.text.dim
        return found

    def min_time(self, split: str) -> float:
        """Return the minimum length, in seconds, to which the captions of a split grow."""
        return self.clips.min_time if split == "train" else self.clips.eval_min_time


class DataSource(ABC):
    """Source of the videos of some splits: one class for each kind of storage.

    Attributes:
        packable: whether the features of its videos can be packed into shards.
    """

    packable: bool = True

    @abstractmethod
    def name(self, split: str) -> str | None:
        """Return the name of a split, or ``None`` if it does not exist. Splits of one name have the same videos."""

    @abstractmethod
    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open splits of a run.

        Args:
            splits: splits to open if they exist.
            needed: splits that must exist.
            reading: what is read.

        Raises:
            InputError: if a needed split does not exist, or a split cannot be used.
        """

    @abstractmethod
    def label(self, split: str) -> str:
        """Return the name of a split in messages: the option and its value."""

    @abstractmethod
    def missing_message(self, split: str) -> str:
        """Return the message about a requested split that does not exist."""

    def require(self, split: str) -> None:  # noqa: B027 (most kinds have nothing to add)
        """Refuse a split that does not exist, after the others were opened.

        Raises:
            InputError: naming the option that should give it.
        """

    def all_texts(self, opened: Iterable[Videos]) -> Iterable[str]:
        """Return every text of the captions of opened splits, or every word of them."""
        distinct = {id(videos): videos for videos in opened}  # val and test may be the same videos
        return (text for videos in distinct.values() for text in videos.all_texts())

    def captions_checksum(self, opened: Iterable[Videos]) -> str:
        """Return a checksum of the captions of opened splits. Shards store it to detect changed captions."""
        digest = hashlib.sha256()
        for videos in opened:
            for index in range(len(videos)):
                try:
                    captions = videos.open(index).captions
                except InputError:
                    captions = None
                # surrogatepass: texts from JSON may hold lone surrogates
                digest.update(f"{videos.id(index)} {_plain(captions)}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _plain(captions: Captions | None) -> object:
    if captions is None:
        return None
    topics = None if captions.topics is None else captions.topics.tolist()
    return captions.start.tolist(), captions.end.tolist(), captions.all_texts(), topics


class ListedSource(DataSource):
    """A source with one file for each split in the folder of the data set, named by ``--data.train_csv`` and so on.

    Args:
        root: folder of the data set.
        lists: name of the file of each split, relative to ``root`` or absolute, or ``None`` for no such split.
    """

    def __init__(self, root: str | Path, lists: Mapping[str, str | None]) -> None:
        self.root, self.lists = Path(root), dict(lists)

    def name(self, split: str) -> str | None:
        """Return the file of a split."""
        return self.lists.get(split)

    def label(self, split: str) -> str:
        """Return the option and the file."""
        return f"--data.{split}_csv {self.lists[split]}"

    def missing_message(self, split: str) -> str:
        """Return the message about a requested split that does not exist."""
        return f"--data.{split}_csv: expected a list of videos, found none"

    def check_root(self) -> None:
        """Refuse a folder that does not exist.

        Raises:
            InputError: naming the option.
        """
        if not self.root.is_dir():
            raise InputError(f"--data.root {self.root}: expected a folder, found none")
