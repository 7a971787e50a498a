"""The LightningDataModule: splits of a data set in the release's layout as batches of clips."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from mcn_lightning.data.batch import MODALITIES, ClipBatch, InputError, Modality
from mcn_lightning.data.captions import captions_of, read_captions
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.features import DEFAULT_STREAMS, AudioConfig, VisualStream
from mcn_lightning.data.howto100m import ClipSampler, Layout, NarratedVideoDataset, collate, read_paths
from mcn_lightning.data.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.text import SentenceEncoder, TextConfig, TextSource, WordVectors

logger = logging.getLogger(__name__)


class NarratedVideos(LightningDataModule):
    """Narrated videos in the release's layout.

    Args:
        root: folder of the data set; other names below are relative to it.
        train_csv: list of training videos.
        val_csv: list of held-out videos, or none.
        test_csv: list of test videos; val_csv when none is given.
        captions: captions, JSON or pickle.
        features: folder of the visual features.
        audio_root: folder of the spectrograms; the features' folder when none is given.
        modalities: what is read, of video, audio, text.
        streams: visual streams, concatenated in this order.
        audio: spectrograms.
        text: words and their vectors.
        clips: choice of clips.
        synthetic: generate the data set under root first, unless it is there.
        batch_size: videos in a training batch; the batch holds batch_size x clips.n_pair clips.
        eval_batch_size: videos in an evaluation batch.
        num_workers: processes that read; 0 reads in the main process.
        seed: with epoch and video it decides every draw (set from seed_everything).
        max_bad_share: share of the training videos that may be unreadable before the run stops.
    """

    def __init__(
        self,
        root: str,
        train_csv: str = "train.csv",
        val_csv: str | None = "val.csv",
        test_csv: str | None = None,
        captions: str = "captions.json",
        features: str = "features",
        audio_root: str | None = None,
        modalities: Sequence[Modality] = MODALITIES,
        streams: Sequence[VisualStream] = DEFAULT_STREAMS,
        audio: AudioConfig = AudioConfig(),  # noqa: B008 (frozen)
        text: TextConfig = TextConfig(),  # noqa: B008 (frozen)
        clips: ClipConfig = ClipConfig(),  # noqa: B008 (frozen)
        synthetic: SyntheticConfig | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 16,
        num_workers: int = 2,
        seed: int = 0,
        max_bad_share: float = 0.01,
    ) -> None:
        super().__init__()
        if clips.kind == "windows" and "text" in modalities:
            raise InputError("--data.clips.kind: windows have no text; expected --data.modalities without text")
        for name, value, least in (("batch_size", batch_size, 1), ("eval_batch_size", eval_batch_size, 1),
                                   ("num_workers", num_workers, 0)):  # fmt: skip
            if value < least:
                raise InputError(f"--data.{name}: expected at least {least}, found {value}")
        self.root = Path(root)
        self.lists = {"train": train_csv, "val": val_csv, "test": test_csv or val_csv}
        self.captions_file, self.text_config, self.synthetic = captions, text, synthetic
        feature_root = self.root / features
        self.layout = Layout(
            feature_root, self.root / audio_root if audio_root else feature_root, modalities, streams, audio, clips
        )
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.seed, self.max_bad_share = seed, max_bad_share
        self.text: TextSource | None = None
        self.datasets: dict[str, NarratedVideoDataset] = {}
        self._bad: set[str] = set()

    def prepare_data(self) -> None:
        """Generate the data set if it is a generated one."""
        if self.synthetic is not None:
            write_synthetic(self.root, self.synthetic)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists, the captions and the word vectors of the words in them.

        Raises:
            InputError: if one of the files is absent or unusable.
        """
        if self.datasets:
            return
        if not self.root.is_dir():
            raise InputError(f"--data.root: expected a folder, found none at {self.root}")
        lists = {split: name for split, name in self.lists.items() if name is not None}
        paths = {split: read_paths(self.root / name, f"--data.{split}_csv") for split, name in lists.items()}
        entries: Any = {}
        if self.layout.clips.kind == "captions":
            entries = read_captions(self.root / self.captions_file)
        if "text" in self.layout.modalities:
            self.text = self._read_text(entries, {path for split in paths.values() for path in split})
        for split, videos in paths.items():
            self.datasets[split] = NarratedVideoDataset(
                videos, self.layout, entries, self.text, self.seed, train=split == "train"
            )

    def _read_text(self, entries: Any, paths: set[str]) -> TextSource:
        config = self.text_config
        if config.kind != "word_vectors":
            return SentenceEncoder(config, self.root)
        texts = []
        for path in sorted(paths):
            try:
                texts.extend(captions_of(entries, path.rsplit("/", 1)[-1]).text)
            except InputError:
                continue  # the video is reported when it is read
        return WordVectors(config, self.root / config.source, texts)

    def text_embedder(self) -> nn.Module | None:
        """Return the frozen module that turns word indices into vectors, or ``None`` without text."""
        return self.text.embedder() if self.text is not None else None

    def _loader(self, split: str) -> DataLoader:
        if split not in self.datasets:
            raise InputError(f"--data.{split}_csv: expected a list of videos, found none")
        dataset, train = self.datasets[split], split == "train"
        batch_size = self.batch_size if train else self.eval_batch_size
        if train and len(dataset) < batch_size:
            raise InputError(f"--data.batch_size: expected at most the {len(dataset)} training videos, found {batch_size}")
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=ClipSampler(len(dataset), self.seed, shuffle=train),
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=train,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        """Return the training batches; the last, smaller batch of an epoch is left out."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader | list:
        """Return the held-out clips, or nothing when there is no list of them."""
        return self._loader("val") if self.lists["val"] is not None else []

    def test_dataloader(self) -> DataLoader:
        """Return the test clips."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader:
        """Return the clips to embed: the test clips."""
        return self._loader("test")

    def on_before_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Count and log the bad videos of a batch.

        Raises:
            InputError: in evaluation at once, in training when more than ``max_bad_share`` of the videos is bad.
        """
        training = self.trainer is not None and self.trainer.training
        for bad in batch.skipped:
            if not training:
                raise InputError(f"video {bad.video}: {bad.reason}")
            if bad.video not in self._bad:
                self._bad.add(bad.video)
                logger.warning("skipped video %s (%d so far): %s", bad.video, len(self._bad), bad.reason)
            total = len(self.datasets["train"])
            if len(self._bad) > self.max_bad_share * total:
                raise InputError(
                    f"{len(self._bad)} of {total} training videos are bad, more than --data.max_bad_share "
                    f"{self.max_bad_share:g}; the last: video {bad.video}: {bad.reason}"
                )
        return batch
