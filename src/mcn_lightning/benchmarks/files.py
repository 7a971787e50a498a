"""Reading of the benchmarks' files with the streams, spectrograms and word vectors of the run's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from mcn_lightning.batch import BadVideo, ClipBatch
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.loading import collate
from mcn_lightning.data.sources.class_names import class_text
from mcn_lightning.data.sources.clip_pickles import PickledClips
from mcn_lightning.data.sources.clip_records import ClipFields
from mcn_lightning.data.sources.howto100m import VideoLayout
from mcn_lightning.data.text import TextConfig, open_text
from mcn_lightning.errors import InputError


class EvaluationText:
    """Word vectors of texts, which may have words that the training captions do not have.

    Args:
        config: options of the text.
        path: the word-vector file.
        texts: all texts that will be embedded. Only vectors of their words are read.
    """

    def __init__(self, config: TextConfig, path: Path, texts: Sequence[str]) -> None:
        self.source = open_text(config, path, texts)
        self.embedder = self.source.embedder()

    def vectors(self, texts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return word vectors ``(n, W, E)``, padded with rows of zeros."""
        # vectors, as these words need not be in the vocabulary of training
        return self.vectors_of_indices(
            torch.from_numpy(np.stack([self.source.indices(text) for text in texts])), device
        )

    def vectors_of_indices(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Return the word vectors ``(n, W, E)`` of word indices ``(n, W)`` int32."""
        self.embedder.to(device)
        return self.embedder(indices.to(device))

    def unknown(self, texts: Sequence[str]) -> int:
        """Return the number of texts without a known word."""
        return sum(not self.source.indices(text).any() for text in texts)


class EvaluationClips:
    """The clips of a benchmark pickle, in batches that are the same on every process.

    Captions are numbered. The first captions of the N clips are 0 to N - 1, all other captions follow.

    Args:
        source: the pickle.
        dataset: its clips in evaluation, with spectrograms of the benchmark's length.
        text: word vectors of the captions; ``None`` if text is not read.
        batch_size: clips of a batch.

    Attributes:
        ids: name of each of N clips.
        caption_clips: index of the clip of each caption; at least N entries.
        caption_numbers: position of each caption in its clip, from 0.
        classes: names of the classes, where there are any.
        labels: class of each clip, ``(N,)`` int64, where there are classes.

    Raises:
        InputError: if a clip cannot be used. All clips are checked.
    """

    def __init__(
        self, source: PickledClips, dataset: NarratedVideoDataset, text: EvaluationText | None, batch_size: int
    ) -> None:
        self.source, self.dataset, self.text, self.batch_size = source, dataset, text, batch_size
        self.ids = tuple(source.ids)
        records = [source.open(number).record for number in range(len(source))]  # raises if a clip cannot be used
        reads_audio = source.fields.audio is not None
        self.silent = tuple(reads_audio and record.audio is None for record in records)
        more = [(row, k) for row, record in enumerate(records) for k in range(1, len(record.texts))]
        # captions of a pickle with classes are class names, and each clip has one
        self._more = more if source.classes is None else []
        self.caption_clips = (*range(len(records)), *(row for row, _ in self._more))
        self.caption_numbers = (*(0 for _ in records), *(k for _, k in self._more))
        texts = [record.texts for record in records]
        pairs = zip(self.caption_clips, self.caption_numbers, strict=True)
        self.texts = tuple(texts[row][k] for row, k in pairs if texts[row])
        self.classes = tuple(source.classes or ())
        self.labels = torch.tensor([record.label for record in records if record.label is not None])
        self.splits = torch.tensor([record.split for record in records])
        self.changed = {"names that come more than once": source.repeated}
        self.changed |= {f"captions {reason}": count for reason, count in source.dropped().items()}
        if text is not None:
            what = "captions without a known word" if source.classes is None else "class names without a known word"
            self.changed[what] = text.unknown(self.texts if source.classes is None else self.class_texts())

    def class_texts(self) -> list[str]:
        """Return the name of each class as a text, in the order of the labels."""
        return [class_text(name) for name in self.classes]

    def batch(self, captions: Sequence[int], device: torch.device | str) -> ClipBatch:
        """Return a batch of clips with one caption each, ready for the network, with words as vectors.

        Args:
            captions: numbers of the captions; those below N are the first captions of the clips.
            device: of the batch.

        Raises:
            InputError: if a clip cannot be used.
        """
        clips = [self.caption_clips[number] for number in captions]
        # a clip is read once for all of its captions in the batch, and its rows are selected below
        once = list(dict.fromkeys(clips))
        found = self.dataset.__getitems__([(0, clip) for clip in once])
        for item in found:
            if isinstance(item, BadVideo):
                raise InputError(item.reason)
        batch = collate(found)
        # the rows of a clip begin with its first caption
        first = {clip: batch.items.index(f"{self.ids[clip]}:0") for clip in once}
        rows = [first[clip] + self.caption_numbers[number] for clip, number in zip(clips, captions, strict=True)]
        if rows != list(range(len(batch))):
            batch = batch.take(rows)
        batch = batch.to(device).ready()
        if batch.words is not None and self.text is not None:
            batch = replace(batch, words=self.text.vectors_of_indices(batch.words, device))
        return batch


@runtime_checkable
class FeatureData(Protocol):
    """A data module that describes its files, as ``NarratedVideos`` does."""

    root: Path
    layout: VideoLayout
    text_config: TextConfig


def evaluation_data(trainer: Trainer) -> EvaluationData:
    """Return the reader of benchmark files with the options of the run's data.

    Raises:
        InputError: if the data module does not describe its files.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, FeatureData):
        raise InputError(f"expected a data module with root, layout and text_config, found {data!r:.60}")
    return EvaluationData(data.root, data.layout, data.text_config)


class EvaluationData:
    """Opens the files of benchmarks with the options of the run's data.

    Args:
        root: folder that paths are relative to.
        layout: visual streams and spectrograms that the network takes.
        text: options of the captions' text.
    """

    def __init__(self, root: Path, layout: VideoLayout, text: TextConfig) -> None:
        self.root, self.layout, self.text_config = root, layout, text

    def text(self, texts: Sequence[str]) -> EvaluationText:
        """Open the word vectors of some texts.

        Raises:
            InputError: if they cannot be read, or no word of the texts is known.
        """
        return EvaluationText(self.text_config, self.root / self.text_config.source, texts)

    def clips(
        self,
        path: str,
        modalities: Sequence[str],
        audio_frames: int,
        batch_size: int,
        with_classes: bool = False,
        silent: bool = False,
    ) -> EvaluationClips:
        """Open a benchmark pickle and check all of its clips.

        Args:
            path: the pickle, relative to the root.
            modalities: to read, of video, audio and text.
            audio_frames: frames that spectrograms are cut or padded to.
            batch_size: clips of a batch.
            with_classes: whether the pickle has classes, whose names are the captions.
            silent: whether clips without sound are allowed, as silence.

        Raises:
            InputError: if the file or one of its clips cannot be used.
        """
        audio = replace(self.layout.audio, num_frames=audio_frames)
        fields = ClipFields(
            self.layout.streams if "video" in modalities else (),
            audio if "audio" in modalities else None,
            "text" in modalities,
        )
        source = PickledClips(self.root / path, fields, with_classes, silent, merge=not with_classes)
        text = self.text(source.texts()) if "text" in modalities else None
        # the clips of a pickle are cut already: none may grow by its neighbours
        config = ClipConfig(n_pair=1, min_time=0.0)
        dataset = NarratedVideoDataset(source, config, audio, None if text is None else text.source, training=False)
        return EvaluationClips(source, dataset, text, batch_size)
