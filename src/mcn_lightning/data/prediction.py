"""The clips that ``predict`` embeds, with what each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.stored import NewTensor, StoredVideo
from mcn_lightning.data.text import WordVectorText
from mcn_lightning.data.videos import NarratedVideoDataset
from mcn_lightning.errors import InputError
from mcn_lightning.memory import Blocks

PredictSplit = Literal["train", "val", "test", "all"]


def splits_of(split: str, lists: Mapping[str, str | None]) -> list[str]:
    """Return the splits to embed; of two with the same list the first stands for both where all are asked for.

    Raises:
        InputError: if there is no such split.
    """
    if split not in get_args(PredictSplit):
        raise InputError(f"--split: expected one of {', '.join(get_args(PredictSplit))}, found {split!r}")
    if split != "all":
        return [split]
    first = {name: each for each, name in reversed(list(lists.items())) if name is not None}
    return [each for each, name in lists.items() if name is not None and first[name] == each]


class DescribedVideos(NarratedVideoDataset):
    """The clips of a split as in evaluation: every caption once, nothing augmented; each with what it is.

    ``ClipBatch.about`` of a clip has the ``split``, the ``video``, its ``index`` in the list, ``start`` and ``end`` in
    seconds (``None`` where the clip is a file of its own), the ``text`` (``None`` without), and with word vectors how
    many ``known_words`` of it there are.

    Args:
        videos: the split as it is trained or evaluated on.
        split: its name.
    """

    def __init__(self, videos: NarratedVideoDataset, split: str) -> None:
        vars(self).update(vars(videos))
        self.training, self.split = False, split
        self._blocks = Blocks()
        self._chosen: tuple[list[Clip], StoredVideo] | None = None

    def _choose(self, rng: np.random.Generator, name: str, video: StoredVideo) -> list[Clip]:
        clips = super()._choose(rng, name, video)
        self._chosen = clips, video
        return clips

    def _clips_of(self, epoch: int, index: int, new: NewTensor) -> ClipBatch:
        batch = super()._clips_of(epoch, index, new)
        assert self._chosen is not None  # set by _choose
        clips, video = self._chosen
        texts = [None] * len(clips) if video.captions is None or self.text is None else video.captions.texts(clips)
        counts = None
        if batch.words is not None and isinstance(self.text, WordVectorText):
            counts = (batch.words != 0).sum(dim=1).tolist()
        timed, about = getattr(video, "timed", True), list[dict[str, object]]()
        for number, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            place = {"split": self.split, "video": self.source.id(index), "index": index}
            span = {"start": clip.start if timed else None, "end": clip.end if timed else None, "text": text}
            about.append(place | span | ({} if counts is None or text is None else {"known_words": counts[number]}))
        return replace(batch, about=tuple(about))
