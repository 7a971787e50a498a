"""Windows of fixed length over whole videos, with the captions that are spoken in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import Clip, all_windows
from mcn_lightning.data.dataset import DescribedVideos, NarratedVideoDataset
from mcn_lightning.data.videos import StoredVideo
from mcn_lightning.errors import InputError


class Window(Clip):
    """The seconds of a window. Its name differs from that of a caption."""

    def name(self, video: str) -> str:
        """Return its name among the clips of all videos, with the second at which it starts."""
        return f"{video}:w{self.number}"


class WindowedVideos(DescribedVideos):
    """Every video as consecutive windows. The text of a window is that of the captions whose middle lies in it.

    Args:
        videos: the split.
        split: its name.
        seconds: length of a window.
    """

    def __init__(self, videos: NarratedVideoDataset, split: str, seconds: float) -> None:
        super().__init__(videos, split)
        self.seconds = seconds
        self.source = _PlainVideos(videos.source)  # type: ignore[assignment]

    def _choose(self, rng: np.random.Generator, name: str, video: StoredVideo) -> list[Clip]:
        if not np.isfinite(video.duration):
            raise InputError(f"{name}: expected video or audio features for windows, found captions alone")
        middles = [] if video.captions is None else ((video.captions.start + video.captions.end) / 2).tolist()
        clips: list[Clip] = []
        for number, start, end, *_ in all_windows(video.duration, self.seconds):
            # by its middle, so that each caption belongs to one window
            inside = tuple(i for i, middle in enumerate(middles) if start <= middle < start + int(self.seconds))
            clips.append(Window(number, start, end, inside))
        self._chosen = clips, video
        return clips


@dataclass(frozen=True)
class _PlainVideo:
    """A video whose captions hold text only: words, queries and topics are stored by caption, not by window."""

    video: Any
    captions: Captions | None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.video, name)


class _PlainVideos:
    """The videos of a split, opened as ``_PlainVideo``."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_source":  # while it is unpickled in a worker there is no source yet
            raise AttributeError(name)
        return getattr(self._source, name)

    def open(self, index: int) -> _PlainVideo:
        """Open a video; see ``Videos``."""
        video = self._source.open(index)
        found = video.captions
        plain = None if found is None else Captions(found.start, found.end, list(found.text))
        return _PlainVideo(video, plain)


def check_windows(videos: NarratedVideoDataset) -> None:
    """Refuse videos that have no windows.

    Raises:
        InputError: if they are clips without times, or shards that hold the clips of captions only.
    """
    if not getattr(videos.source, "keep_frames", True):
        raise InputError(
            "--clips: expected captions, or shards packed with --pack.keep_frames true, found shards that hold the "
            "clips of captions only; pack again or leave --data.shards out"
        )
    for index in range(len(videos)):
        try:
            video = videos.source.open(index)
        except InputError:
            continue
        if not getattr(video, "timed", True):
            raise InputError("--clips: expected captions for a pickle of clips, found windows; each entry is one clip")
        return
