"""Narrated videos in the layout of the HowTo100M feature release."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.batch import MODALITIES, AbsentError, BadVideo, Modality
from mcn_lightning.data.captions import Captions, read_captions, total_reasons
from mcn_lightning.data.files.arrays import feature_file
from mcn_lightning.data.files.caption_files import caption_files
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS, VisualStream, read_rows
from mcn_lightning.data.files.spectrograms import AudioConfig, read_spectrogram
from mcn_lightning.data.shards.store import checksum
from mcn_lightning.data.sources.base import ListedSource, Reading
from mcn_lightning.data.sources.raw import PartReader, RawVideo, RawVideos
from mcn_lightning.data.sources.video_lists import read_video_list, video_id
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError, naming


@dataclass(frozen=True)
class VideoLayout:
    """The folders of the features of a video, and which features are read.

    Args:
        features: folder of the visual features.
        audio_root: folder of the spectrograms.
        streams: visual streams, in the order in which their features are joined.
        audio: how spectrograms are stored, cut and augmented.
        modalities: modalities of a clip. The others are not read.
    """

    features: Path
    audio_root: Path
    streams: Sequence[VisualStream] = DEFAULT_STREAMS
    audio: AudioConfig = AudioConfig()  # noqa: RUF009 (frozen)
    modalities: Sequence[Modality] = MODALITIES


class HowTo100M(ListedSource):
    """The layout of the release: lists of videos, one file of captions, and a file for each stream of each video.

    Args:
        root: folder of the data set. The other names are relative to it, or absolute.
        lists: name of the list of each split, or ``None`` for no such split.
        captions: captions of all videos.
        features: folder of the visual features.
        audio_root: folder of the spectrograms, by default ``features``.
    """

    def __init__(
        self,
        root: str | Path,
        lists: Mapping[str, str | None],
        captions: str = "captions.json",
        features: str = "features",
        audio_root: str | None = None,
    ) -> None:
        super().__init__(root, lists)
        self.captions, self.features = self.root / captions, self.root / features
        self.audio_root = self.root / (audio_root or features)

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Read the lists that are needed or exist, and the captions of all their videos at once.

        Raises:
            InputError: if the folder, a list or the captions are missing or unusable.
        """
        self.check_root()
        videos = {split: self._list(split, split in needed) for split in splits}
        captions = self._read_captions(videos, reading)
        layout = VideoLayout(self.features, self.audio_root, reading.streams, reading.audio, reading.modalities)
        return {
            split: LayoutVideos(paths, captions, layout, reading.allow_missing)
            for split, paths in videos.items()
            if paths
        }

    def require(self, split: str) -> None:
        """Refuse a list that does not exist."""
        self.check_root()
        self._list(split, required=True)

    def _list(self, split: str, required: bool) -> list[str]:
        """Read the list of a split. It is empty if the file does not exist and is not required."""
        name = self.lists[split]
        if name is None or not (required or (self.root / name).is_file()):
            return []
        with naming(f"--data.{split}_csv"):
            return read_video_list(self.root / name)

    def _read_captions(
        self, videos: Mapping[str, Sequence[str]], reading: Reading
    ) -> dict[str, Captions | BadVideo] | None:
        """Read the captions of the videos of all splits. For windows, return ``None``."""
        if not reading.captions or not any(videos.values()):
            return None
        # only those of the lists: the captions of the release have over a million videos
        wanted = {video_id(path) for paths in videos.values() for path in paths}
        with naming("--data.captions"):
            captions = read_captions(self.captions, wanted, reading.text.train_column, reading.text.eval_column)
        unusable = [entry for entry in captions.values() if isinstance(entry, BadVideo)]
        if len(unusable) == len(captions):
            raise InputError(f"--data.captions: no video has captions that can be used; first: {unusable[0].reason}")
        return captions

    def captions_checksum(self, opened: Iterable[Videos]) -> str:
        """Return the checksum of the captions file, or of the checksums of all files in a folder."""
        if not self.captions.is_dir():
            return checksum(self.captions)
        lines = (f"{video} {checksum(path)}" for video, path in caption_files(self.captions).items())
        # sorted, as file systems list a folder in any order
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class LayoutVideos(RawVideos):
    """The videos of a list, read from the layout's files.

    Args:
        videos: path of each video in the feature folder.
        captions: captions of each video by its id, or why they cannot be used. ``None`` for clips without captions.
        layout: folders of the features, and which features are read.
        allow_missing: whether a video may lack captions, a spectrogram, or files of visual features.
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
        return tuple(stream.width for stream in self._streams)

    @property
    def _streams(self) -> Sequence[VisualStream]:
        return self.layout.streams if "video" in self.layout.modalities else ()

    def path(self, index: int, feature: VisualStream | AudioConfig) -> Path:
        """Return the feature file of a video, ``.npz`` or ``.npy``, in its own folder or in the parent folder."""
        root = self.layout.audio_root if isinstance(feature, AudioConfig) else self.layout.features
        path = self.videos[index]
        name = f"{video_id(path)}{feature.suffix}"
        own = feature_file(root / path / name)
        if own.is_file():
            return own
        # without a folder for each video: path/ID_2d.npz
        shared = feature_file((root / path).with_name(name))
        return shared if shared.is_file() else own

    def open(self, index: int) -> RawVideo:
        """Open the files of a video and look up its captions, without reading its features.

        Raises:
            InputError: if a file is missing, damaged or of another width, or the captions cannot be used.
        """
        layout, parts = self.layout, PartReader(self.allow_missing)
        files = [self.path(index, stream) for stream in self._streams]
        rows = [parts.read(read_rows, path, stream.width) for path, stream in zip(files, self._streams, strict=True)]
        frames = None
        if "audio" in layout.modalities:
            files.append(self.path(index, layout.audio))
            frames = parts.read(read_spectrogram, files[-1], layout.audio.bands)
        captions = parts.read(self._captions, self.id(index))
        return parts.check(RawVideo(captions, rows, frames, self._streams, layout.audio, files))

    def _files(self, index: int) -> tuple[list[Path], list[Path]]:
        """Return the existing files of the visual features and of the spectrogram of a video."""
        visual = [self.path(index, stream) for stream in self._streams]
        audio = [self.path(index, self.layout.audio)] if "audio" in self.layout.modalities else []
        return [path for path in visual if path.is_file()], [path for path in audio if path.is_file()]

    def stored_bytes(self, index: int) -> tuple[int, int]:
        """Return the bytes of the visual feature files and of the spectrogram file of a video, 0 if absent."""
        visual, audio = (sum(path.stat().st_size for path in paths) for paths in self._files(index))
        return visual, audio

    def changed_at(self, index: int) -> int:
        """Return the latest time at which a feature file of a video changed, in nanoseconds, or 0 if there is none."""
        visual, audio = self._files(index)
        return max((path.stat().st_mtime_ns for path in (*visual, *audio)), default=0)

    def dropped(self) -> Mapping[str, int]:
        """Return the number of dropped captions by reason. Captions of unusable videos are not counted."""
        entries = [(self.captions or {}).get(self.id(index)) for index in range(len(self))]
        return total_reasons(entry.dropped for entry in entries if isinstance(entry, Captions))

    def texts(self, index: int) -> list[str]:
        """Return every text of the captions of a video, even if its features cannot be used."""
        entry = None if self.captions is None else self.captions.get(self.id(index))
        return entry.all_texts() if isinstance(entry, Captions) else []

    def _captions(self, video: str) -> Captions | None:
        if self.captions is None:
            return None
        captions = self.captions.get(video)
        if captions is None:
            raise AbsentError(f"captions of {video}: expected an entry for this video, found none")
        if isinstance(captions, BadVideo):
            # the error as it was when the captions were read, since allow_missing forgives only what is absent
            raise (AbsentError if captions.absent else InputError)(captions.reason)
        return captions
