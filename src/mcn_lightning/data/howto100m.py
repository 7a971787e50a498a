"""Narrated videos in the layout of the HowTo100M feature release, as a torch data set of clips."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, get_worker_info

from mcn_lightning.data.batch import MODALITIES, BadVideo, ClipBatch, InputError, Modality
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import Clip, ClipConfig, all_clips, all_windows, draw_clips, draw_windows
from mcn_lightning.data.features import (
    DEFAULT_STREAMS,
    FRAME_RATE,
    AudioConfig,
    VisualStream,
    augment_audio,
    pool_clips,
    read_rows,
    read_spectrogram,
    spectrogram_clips,
)
from mcn_lightning.data.text import TextSource


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
        path: a text file with the header ``path`` and one line a video; a leading ``None/`` is dropped.

    Returns:
        The path of each video below the feature folder; its last part is the video's id.

    Raises:
        InputError: if the file is missing, has another header, names no video, or one twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise InputError(f"{path}: expected a list of videos with the header 'path', found no file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a list of videos with the header 'path', found {error}") from None
    header = rows[0] if rows else []
    if "path" not in header:
        raise InputError(f"{path}: expected the header 'path', found '{','.join(header)}'")
    column = header.index("path")
    if short := [row for row in rows if row and len(row) <= column]:
        raise InputError(f"{path}: expected a path in each line, found '{','.join(short[0])}'")
    videos = [row[column].strip().removeprefix("None/") for row in rows[1:] if row and row[column].strip()]
    if not videos:
        raise InputError(f"{path}: expected one video a line, found none")
    seen: set[str] = set()
    for video in map(video_id, videos):
        if video in seen:
            raise InputError(f"{path}: expected each video once, found {video} twice")
        seen.add(video)
    return videos


def video_id(path: str) -> str:
    """Return the id of a video: the last part of its path."""
    return path.rsplit("/", 1)[-1]


class NarratedVideoDataset(Dataset[ClipBatch | BadVideo]):
    """The clips of narrated videos: one item is one video, whose clips come as a small batch.

    A video that cannot be used gives a ``BadVideo`` and no exception, so that a long training run can go on.

    Args:
        videos: path of each video below the feature folder.
        captions: captions of each video by its id, or why they cannot be used; not needed for windows without text.
        layout: where the features are, and which are read.
        clips: how clips are chosen.
        text: what turns text into indices; not needed where ``layout.modalities`` has no text.
        seed: every draw comes from (seed, epoch, index of the video) and from nothing else.
        training: draw ``n_pair`` clips and augment; otherwise every caption once, or consecutive windows.
    """

    def __init__(
        self,
        videos: Sequence[str],
        captions: Mapping[str, Captions | BadVideo],
        layout: VideoLayout,
        clips: ClipConfig,
        text: TextSource | None = None,
        seed: int = 0,
        training: bool = True,
    ) -> None:
        self.videos = list(videos)
        self.captions = captions
        self.layout = layout
        self.clips = clips
        self.text = text
        self.seed = seed
        self.training = training

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch | BadVideo:
        """Return the clips of a video.

        Args:
            key: epoch, and index of the video.
        """
        epoch, index = key
        try:
            return self._clips_of(epoch, index)
        except InputError as error:
            return BadVideo(video_id(self.videos[index]), str(error))

    def check(self, index: int) -> None:
        """Open the files of a video and look its captions up, without reading its features.

        Args:
            index: which video.

        Raises:
            InputError: if a file is missing, damaged or of another width, or the captions cannot be used.
        """
        self._read(index)
        self._captions(video_id(self.videos[index]))

    def _clips_of(self, epoch: int, index: int) -> ClipBatch:
        video = video_id(self.videos[index])
        rng = np.random.default_rng((self.seed, epoch, index))
        visual, frames = self._read(index)
        captions = self._captions(video)
        clips = self._choose(rng, video, captions, _duration(visual, self.layout.streams, frames))
        audio, audio_frames = self._audio(frames, clips, rng, index)
        return ClipBatch(
            ids=tuple(f"{video}:{clip.number}" for clip in clips),
            video=self._visual(visual, clips, index),
            audio=audio,
            audio_frames=audio_frames,
            words=self._words(captions, clips, rng),
            labels=None if captions is None or captions.topics is None else _labels(captions.topics, clips),
            clips_per_video=self.clips.n_pair if self.training else 1,
        )

    def _read(self, index: int) -> tuple[list[Tensor], Tensor | None]:
        """Open the features of a video: visual rows of each stream, and the spectrogram."""
        visual, frames = [], None
        if "video" in self.layout.modalities:
            visual = [read_rows(self._path(index, stream), stream.width) for stream in self.layout.streams]
        if "audio" in self.layout.modalities:
            frames = read_spectrogram(self._path(index, self.layout.audio), self.layout.audio.bands)
        return visual, frames

    def _path(self, index: int, what: VisualStream | AudioConfig) -> Path:
        root = self.layout.audio_root if isinstance(what, AudioConfig) else self.layout.features
        path = self.videos[index]
        return root / path / f"{video_id(path)}{what.suffix}.npz"

    def _captions(self, video: str) -> Captions | None:
        if self.clips.kind == "windows":
            return None
        captions = self.captions.get(video)
        if captions is None:
            raise InputError(f"captions of {video}: expected an entry for this video, found none")
        if isinstance(captions, BadVideo):
            raise InputError(captions.reason)
        return captions

    def _choose(self, rng: np.random.Generator, video: str, captions: Captions | None, duration: float) -> list[Clip]:
        config = self.clips
        if captions is None:
            return draw_windows(rng, duration, config) if self.training else all_windows(duration, config.min_time)
        last = float(captions.end.max())
        if last > duration + config.overrun:
            span = f"captions up to {last:.1f} s and features of {duration:.1f} s"
            allowed = f"at most {config.overrun:g} s (--data.clips.overrun) beyond the features"
            raise InputError(f"{video}: expected captions {allowed}, found {span}")
        start, end = captions.start.tolist(), captions.end.tolist()
        return draw_clips(rng, start, end, config) if self.training else all_clips(start, end, config.eval_min_time)

    def _visual(self, visual: list[Tensor], clips: list[Clip], index: int) -> Tensor | None:
        if not visual:
            return None
        spans = [(clip.start, clip.end) for clip in clips]
        pooled = []
        for stream, rows in zip(self.layout.streams, visual, strict=True):
            try:
                pooled.append(pool_clips(rows, spans, stream.rate))
            except InputError as error:
                raise InputError(f"{self._path(index, stream)}: {error}") from None
        return torch.cat(pooled, dim=1)

    def _audio(
        self, frames: Tensor | None, clips: list[Clip], rng: np.random.Generator, index: int
    ) -> tuple[Tensor | None, Tensor | None]:
        if frames is None:
            return None, None
        config = self.layout.audio
        shift = np.zeros(len(clips))
        if self.training and config.time_shift > 0:
            shift = rng.uniform(-config.time_shift, config.time_shift, len(clips))
        spans = [(max(clip.start + by, 0.0), max(clip.end + by, 0.0)) for clip, by in zip(clips, shift, strict=True)]
        try:
            cut, lengths = spectrogram_clips(frames, spans, config.num_frames, config.pad_value, config.clamp_start)
        except InputError as error:
            raise InputError(f"{self._path(index, config)}: {error}") from None
        return augment_audio(cut, lengths, config, rng) if self.training else (cut, lengths)

    def _words(self, captions: Captions | None, clips: list[Clip], rng: np.random.Generator) -> Tensor | None:
        if self.text is None or captions is None:
            return None
        text: Sequence[str] = captions.text
        if self.training and captions.choices is not None:
            text = [choices[rng.integers(len(choices))] for choices in captions.choices]
        texts = [" ".join(text[number] for number in clip.order) for clip in clips]
        return torch.from_numpy(np.stack([self.text.indices(each) for each in texts]))


def _duration(visual: list[Tensor], streams: Sequence[VisualStream], frames: Tensor | None) -> float:
    """Return the seconds of the longest stream; without any stream, nothing bounds the captions."""
    seconds = [len(rows) / stream.rate for rows, stream in zip(visual, streams, strict=False)]
    if frames is not None:
        seconds.append(frames.shape[1] / FRAME_RATE)
    return max(seconds, default=float("inf"))


def _labels(topics: np.ndarray, clips: list[Clip]) -> Tensor:
    return torch.from_numpy(topics[[clip.number for clip in clips]])


def collate(items: Sequence[ClipBatch | BadVideo]) -> ClipBatch:
    """Join the clips of several videos into one batch.

    Args:
        items: the clips of each video, or why it could not be used.

    Returns:
        A batch of all clips, the unusable videos under ``skipped``; of length 0 where no video could be used.
    """
    good = [item for item in items if isinstance(item, ClipBatch)]
    skipped = tuple(item for item in items if isinstance(item, BadVideo))
    if not good:
        return ClipBatch(ids=(), skipped=skipped)
    return ClipBatch(
        ids=tuple(name for item in good for name in item.ids),
        video=_join([item.video for item in good]),
        audio=_join([item.audio for item in good]),
        audio_frames=_join([item.audio_frames for item in good]),
        words=_join([item.words for item in good]),
        labels=_join([item.labels for item in good]),
        clips_per_video=good[0].clips_per_video,
        skipped=skipped,
    )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Concatenate along the clips; None where any video lacks the column."""
    present = [part for part in parts if part is not None]
    if len(present) < len(parts):
        return None
    if get_worker_info() is None:
        return torch.cat(present)
    # in a worker, straight into the shared memory in which the batch travels: one copy of it less
    shape = (sum(len(part) for part in present), *present[0].shape[1:])
    size = int(np.prod(shape)) * present[0].element_size()
    out = torch.empty(0, dtype=present[0].dtype).set_(torch.UntypedStorage._new_shared(size), 0, shape)  # type: ignore
    return torch.cat(present, out=out)


class ClipSampler(DistributedSampler[tuple[int, int]]):
    """The order of the videos of an epoch, as (epoch, index) pairs.

    It is a ``DistributedSampler`` so that Lightning leaves it alone. Every video comes once; with several processes,
    the shares are made equal: in training the last few videos of the shuffled order are left out, otherwise the first
    few come a second time (evaluation counts each clip id once).

    Args:
        count: videos of the data set.
        seed: the order is a function of (seed, epoch) only.
        shuffle: draw an order for each epoch; otherwise as listed.
        rank: which share this process takes.
        world: number of shares.
    """

    def __init__(self, count: int, seed: int = 0, shuffle: bool = True, rank: int = 0, world: int = 1) -> None:
        indices = range(count)
        super().__init__(indices, world, rank, shuffle, seed, drop_last=shuffle)  # type: ignore[arg-type]
        self._skip = 0

    def skip(self, videos: int) -> None:
        """Leave out the first videos of this share in the next pass only, which a resumed run has already seen."""
        self._skip = videos

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(count).tolist()
        else:
            order = list(range(count))
        order = (order * -(-self.total_size // count))[: self.total_size]
        share = order[self.rank : self.total_size : self.num_replicas][self._skip :]
        self._skip = 0
        return iter([(self.epoch, index) for index in share])
