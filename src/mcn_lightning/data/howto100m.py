"""The release's folder layout: one folder a video with its feature files, one caption file for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mcn_lightning.data.batch import BadVideo, ClipBatch, InputError, Modality
from mcn_lightning.data.captions import Captions, captions_of
from mcn_lightning.data.clips import (
    Clip,
    ClipConfig,
    all_windows,
    check_captions,
    draw_captions,
    draw_windows,
    merge,
)
from mcn_lightning.data.features import (
    FRAME_RATE,
    AudioConfig,
    VisualStream,
    cut_spectrogram,
    mask_spectrogram,
    pool,
    read_spectrogram,
    read_visual,
)
from mcn_lightning.data.text import TextSource


def read_paths(path: Path, option: str) -> list[str]:
    """Read a list of videos: the header ``path``, then one line a video; a leading ``None/`` is dropped.

    Raises:
        InputError: if the file is absent, has another header, lists nothing or a video twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a list of videos ({option}), found none")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not lines or lines[0] != "path":
        raise InputError(f"{path}: expected the header 'path', found {lines[0] if lines else 'an empty file'}")
    videos = [line.removeprefix("None/") for line in lines[1:]]
    if not videos:
        raise InputError(f"{path}: expected one line a video after the header, found none")
    if len(set(videos)) < len(videos):
        twice = next(video for video in videos if videos.count(video) > 1)
        raise InputError(f"{path}: expected every video once, found {twice} more than once")
    return videos


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie, and how its clips are made.

    Args:
        features: root of the visual features.
        audio_root: root of the spectrograms.
        modalities: what is read.
        streams: visual streams.
        audio: spectrograms.
        clips: choice of clips.
    """

    features: Path
    audio_root: Path
    modalities: Sequence[Modality]
    streams: Sequence[VisualStream]
    audio: AudioConfig
    clips: ClipConfig


class NarratedVideoDataset(Dataset):
    """Narrated videos in the release's layout; an item is one video's clips.

    Args:
        paths: the videos, as listed in the csv.
        layout: where their files lie.
        captions: the raw entries of the caption file.
        text: turns captions into indices; ``None`` without text.
        seed: with the epoch and the video it decides every draw.
        train: draw clips; otherwise every caption makes one clip, and nothing is random.
    """

    def __init__(
        self,
        paths: Sequence[str],
        layout: Layout,
        captions: Mapping[str, Any],
        text: TextSource | None,
        seed: int,
        train: bool,
    ) -> None:
        self.paths, self.layout, self.captions = paths, layout, captions
        self.text, self.seed, self.train = text, seed, train

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch | BadVideo:
        """Return the clips of video ``index`` as drawn in ``epoch``, or why it cannot be used.

        Args:
            key: ``(epoch, index)``.
        """
        epoch, index = key
        video = self.paths[index].rsplit("/", 1)[-1]
        try:
            return self._read(self.paths[index], video, np.random.default_rng((self.seed, epoch, index)))
        except InputError as error:
            return BadVideo(video, str(error))

    def _read(self, path: str, video: str, rng: np.random.Generator) -> ClipBatch:
        layout = self.layout
        visual, spectrogram = [], None
        if "video" in layout.modalities:
            files = [layout.features / path / f"{video}{stream.suffix}.npz" for stream in layout.streams]
            visual = [read_visual(file, stream.width) for file, stream in zip(files, layout.streams, strict=True)]
        if "audio" in layout.modalities:
            file = layout.audio_root / path / f"{video}{layout.audio.suffix}.npz"
            spectrogram = read_spectrogram(file, layout.audio.bands)
        durations = [len(rows) / stream.rate for rows, stream in zip(visual, layout.streams, strict=False)]
        if spectrogram is not None:
            durations.append(spectrogram.shape[1] / FRAME_RATE)
        captions = None
        if layout.clips.kind == "captions":
            captions = captions_of(self.captions, video)
            check_captions(captions.start, captions.end, max(durations, default=np.inf), layout.clips.overrun)
        clips, numbers = self._choose(captions, max(durations, default=0.0), rng)
        try:
            return self._build(video, clips, numbers, captions, visual, spectrogram, rng)
        except InputError as error:
            raise InputError(f"{layout.features / path}: {error}") from None

    def _choose(
        self, captions: Captions | None, duration: float, rng: np.random.Generator
    ) -> tuple[list[Clip], Sequence[int]]:
        config = self.layout.clips
        if captions is None:
            clips = draw_windows(rng, duration, config) if self.train else all_windows(duration, config)
            return clips, range(len(clips))
        count = len(captions.text)
        numbers = draw_captions(rng, count, config) if self.train else np.arange(count)
        return [merge(captions.start, captions.end, int(n), config.min_time) for n in numbers], numbers.tolist()

    def _build(
        self,
        video: str,
        clips: list[Clip],
        numbers: Sequence[int],
        captions: Captions | None,
        visual: list[Tensor],
        spectrogram: Tensor | None,
        rng: np.random.Generator,
    ) -> ClipBatch:
        windows = np.array([(clip.start, clip.end) for clip in clips])
        fields: dict[str, Any] = {}
        if visual:
            pooled = [pool(rows, windows, stream.rate) for rows, stream in zip(visual, self.layout.streams, strict=True)]
            fields["video"] = torch.cat(pooled, dim=1)
        if spectrogram is not None:
            fields["audio"], fields["audio_frames"] = self._sound(spectrogram, windows, rng)
        if captions is not None and self.text is not None:
            texts = [" ".join(captions.text[i] for i in clip.captions) for clip in clips]
            fields["words"] = torch.from_numpy(np.stack([self.text.indices(text) for text in texts]))
        if captions is not None and captions.topic is not None:
            fields["labels"] = torch.from_numpy(captions.topic[list(numbers)])
        ids = tuple(f"{video}:{number}" for number in numbers)
        return ClipBatch(ids, clips_per_video=len(clips) if self.train else 1, **fields)

    def _sound(self, spectrogram: Tensor, windows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        config = self.layout.audio
        if self.train and config.time_shift:
            windows = windows + rng.uniform(-config.time_shift, config.time_shift, (len(windows), 1))
        cuts = [cut_spectrogram(spectrogram, window, config) for window in windows]
        if self.train:
            cuts = [(mask_spectrogram(clip, frames, config, rng), frames) for clip, frames in cuts]
        return torch.stack([clip for clip, _ in cuts]), torch.tensor([frames for _, frames in cuts])


def collate(items: Sequence[ClipBatch | BadVideo]) -> ClipBatch:
    """Join the clips of several videos; the bad ones are carried along in ``skipped``."""
    good = [item for item in items if isinstance(item, ClipBatch)]
    bad = tuple(item for item in items if isinstance(item, BadVideo))
    if not good:
        return ClipBatch((), skipped=bad)
    first = good[0]
    joined = {
        name: torch.cat([getattr(item, name) for item in good])
        for name in ("video", "audio", "audio_frames", "words", "labels")
        if getattr(first, name) is not None
    }
    ids = tuple(name for item in good for name in item.ids)
    return ClipBatch(ids, clips_per_video=first.clips_per_video, skipped=bad, **joined)


class ClipSampler(Sampler[tuple[int, int]]):
    """Every video once an epoch, as ``(epoch, index)``, so that a draw never depends on a worker.

    Args:
        videos: number of videos.
        seed: with the epoch it decides the order.
        shuffle: shuffle the videos; otherwise they come in the csv's order.
    """

    def __init__(self, videos: int, seed: int, shuffle: bool) -> None:
        self.videos, self.seed, self.shuffle, self.epoch = videos, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (Lightning calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.videos

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.videos)
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.videos)
        return ((self.epoch, int(index)) for index in order)
