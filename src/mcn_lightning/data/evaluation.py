"""The benchmarks' own files, read in the form that a run's data has: its streams, spectrograms and word vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.batch import BadVideo, ClipBatch, InputError
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.howto100m import VideoLayout
from mcn_lightning.data.retrieval import PickledClips, class_text
from mcn_lightning.data.text import TextConfig, open_text
from mcn_lightning.data.videos import NarratedVideoDataset, collate


class EvaluationText:
    """The vectors of some texts, which need not be among those that the network was trained with.

    Args:
        config: how texts become vectors.
        path: the word-vector file.
        texts: all texts that vectors will be asked for.
    """

    def __init__(self, config: TextConfig, path: Path, texts: Sequence[str]) -> None:
        self.source = open_text(config, path, texts)
        self.embedder = self.source.embedder()

    def vectors(self, texts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return word vectors ``(n, W, E)``, zero rows after the words of each text."""
        return self.of_indices(torch.from_numpy(np.stack([self.source.indices(text) for text in texts])), device)

    def of_indices(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Return the word vectors ``(n, W, E)`` of word indices ``(n, W)`` int32."""
        self.embedder.to(device)
        return self.embedder(indices.to(device))

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many of the texts have no word that is known."""
        return sum(not self.source.indices(text).any() for text in texts)


class EvaluationClips:
    """The clips of a benchmark pickle in batches that are the same whoever asks for them.

    Args:
        source: the pickle.
        config: of the spectrograms, already at the benchmark's length.
        text: vectors of the captions; ``None`` where text is not read.
        batch_size: clips of a batch.

    Raises:
        InputError: if a clip cannot be used; all of them are looked at.
    """

    def __init__(
        self, source: PickledClips, dataset: NarratedVideoDataset, text: EvaluationText | None, batch_size: int
    ) -> None:
        self.source, self.dataset, self.text, self.batch_size = source, dataset, text, batch_size
        self.ids = tuple(source.ids)
        records = [source.record(number) for number in range(len(source))]
        self.silent = tuple(record.audio is None for record in records)
        self.texts = tuple(record.text for record in records)
        self.labels = None if source.classes is None else torch.tensor([record.label for record in records])
        self.splits = torch.tensor([record.split for record in records])
        for number in range(len(source)):
            source.open(number)  # refuses silence where it is not wanted

    def class_texts(self) -> list[str]:
        """Return the name of each class as words, in the order of the labels."""
        return [class_text(name) for name in self.source.classes or ()]

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.ids) // self.batch_size)

    def size(self, number: int) -> int:
        """Return the clips of a batch."""
        return min(self.batch_size, len(self.ids) - number * self.batch_size)

    def batch(self, number: int, device: torch.device | str) -> ClipBatch:
        """Return a batch as the network takes it, its words as vectors.

        Raises:
            InputError: if a clip cannot be used.
        """
        first = number * self.batch_size
        found = self.dataset.__getitems__([(0, index) for index in range(first, first + self.size(number))])
        for item in found:
            if isinstance(item, BadVideo):
                raise InputError(item.reason)
        batch = collate(found).to(device).ready()
        if batch.words is not None and self.text is not None:
            batch = replace(batch, words=self.text.of_indices(batch.words, device))
        return batch


class EvaluationData:
    """Opens the files of benchmarks.

    Args:
        root: folder that their paths are relative to.
        layout: the streams and spectrograms that the network knows.
        text: how captions become vectors.
    """

    def __init__(self, root: Path, layout: VideoLayout, text: TextConfig) -> None:
        self.root, self.layout, self.text_config = root, layout, text

    def text(self, texts: Sequence[str]) -> EvaluationText:
        """Open the source of word vectors for some texts.

        Raises:
            InputError: if it cannot be read, or knows no word of them.
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
        """Open a benchmark pickle and look at all of its clips.

        Args:
            path: the pickle, relative to the root.
            modalities: those that are read, of video, audio and text.
            audio_frames: frames that spectrograms are cut or padded to.
            batch_size: clips of a batch.
            with_classes: the pickle has classes, whose names are the captions.
            silent: clips without sound are silence and not an error.

        Raises:
            InputError: if the file or one of its clips cannot be used.
        """
        audio = replace(self.layout.audio, num_frames=audio_frames)
        source = PickledClips(
            self.root / path,
            self.layout.streams if "video" in modalities else (),
            audio if "audio" in modalities else None,
            "text" in modalities,
            with_classes,
            silent,
        )
        text = self.text(source.texts()) if "text" in modalities else None
        config = ClipConfig(n_pair=1, min_time=0.0)
        dataset = NarratedVideoDataset(source, config, audio, None if text is None else text.source, training=False)
        return EvaluationClips(source, dataset, text, batch_size)
