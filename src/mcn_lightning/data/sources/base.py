"""Where the videos of a data set come from: what a run reads, and the base class of all kinds of sources."""

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
    """What a run reads of its videos, by the options of the data.

    Args:
        modalities: what a clip has; nothing is read for the others.
        streams: the visual streams, in the order in which their features are joined.
        audio: how spectrograms are stored and cut.
        text: which captions are read.
        clips: how clips are chosen.
        allow_missing: a video may lack modalities.
    """

    modalities: tuple[Modality, ...]
    streams: tuple[VisualStream, ...]
    audio: AudioConfig
    text: TextConfig
    clips: ClipConfig
    allow_missing: bool = False

    @property
    def read_streams(self) -> tuple[VisualStream, ...]:
        """The visual streams; none without video."""
        return self.streams if "video" in self.modalities else ()

    @property
    def read_audio(self) -> AudioConfig | None:
        """How spectrograms are cut; ``None`` without audio."""
        return self.audio if "audio" in self.modalities else None

    @property
    def captions(self) -> bool:
        """Whether clips are captions."""
        return self.clips.kind == "captions"

    def sizes(self) -> dict[str, int | tuple[str, ...]]:
        """Return what a network has to know of these data: its fields ``modalities``, ``video_dim`` and so on."""
        found: dict[str, int | tuple[str, ...]] = {"modalities": self.modalities}
        if self.read_streams:
            found["video_dim"] = sum(stream.width for stream in self.read_streams)
        if self.read_audio is not None:
            found["audio_bands"] = self.read_audio.bands
        if "text" in self.modalities:
            found["text_dim"] = self.text.dim
        return found

    def min_time(self, split: str) -> float:
        """Return the seconds to which the captions of a split grow."""
        return self.clips.min_time if split == "train" else self.clips.eval_min_time


class DataSource(ABC):
    """Where the videos of some splits come from: one class for each kind of storage.

    Attributes:
        packable: the features of its videos can be packed into shards.
    """

    packable: bool = True

    @abstractmethod
    def name(self, split: str) -> str | None:
        """Return what a split is called; ``None`` where there is none. Splits of one name have the same videos."""

    @abstractmethod
    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open splits of a run.

        Args:
            splits: those to open, as far as they are there.
            needed: those that must be there.
            reading: what is read.

        Raises:
            InputError: if a split that is needed is not there, or cannot be used.
        """

    @abstractmethod
    def label(self, split: str) -> str:
        """Return what messages call a split: the option, and what it was given."""

    @abstractmethod
    def absent(self, split: str) -> str:
        """Return the message about a requested split that does not exist."""

    def require(self, split: str) -> None:  # noqa: B027 (most kinds have nothing to add)
        """Refuse a split that is not there, once the others are open.

        Raises:
            InputError: naming the option that should give it.
        """

    def all_texts(self, opened: Iterable[Videos]) -> Iterable[str]:
        """Return every text of the captions of splits that it opened, or every word of them."""
        return (text for videos in {id(each): each for each in opened}.values() for text in videos.all_texts())

    def captions_checksum(self, opened: Iterable[Videos]) -> str:
        """Return a checksum of the captions of splits that it opened: shards know by it whether they are of these."""
        digest = hashlib.sha256()
        for videos in opened:
            for index in range(len(videos)):
                try:
                    captions = videos.open(index).captions
                except InputError:
                    captions = None
                digest.update(f"{videos.id(index)} {_plain(captions)}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def _plain(captions: Captions | None) -> object:
    if captions is None:
        return None
    topics = None if captions.topics is None else captions.topics.tolist()
    return captions.start.tolist(), captions.end.tolist(), captions.all_texts(), topics


class ListedSource(DataSource):
    """A source whose splits are files below the folder of the data set, given by ``--data.train_csv`` and so on.

    Args:
        root: folder of the data set.
        lists: name of the file of each split, relative to ``root`` or absolute; ``None`` for no such split.
    """

    def __init__(self, root: str | Path, lists: Mapping[str, str | None]) -> None:
        self.root, self.lists = Path(root), dict(lists)

    def name(self, split: str) -> str | None:
        """Return the file of a split."""
        return self.lists.get(split)

    def label(self, split: str) -> str:
        """Return the option and the file."""
        return f"--data.{split}_csv {self.lists[split]}"

    def absent(self, split: str) -> str:
        """Return the message about a requested split that does not exist."""
        return f"--data.{split}_csv: expected a list of videos, found none"

    def check_root(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            InputError: naming the option.
        """
        if not self.root.is_dir():
            raise InputError(f"--data.root {self.root}: expected a folder, found none")
