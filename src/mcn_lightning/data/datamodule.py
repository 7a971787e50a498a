"""The LightningDataModule: the splits of a data set as batches of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.utils.data import DataLoader

from mcn_lightning.batch import MODALITIES, ClipBatch, Modality
from mcn_lightning.data.checks.inspection import inspect_splits
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.dataset import DescribedVideos, NarratedVideoDataset, PredictSplit, splits_of
from mcn_lightning.data.epoch import EpochPosition
from mcn_lightning.data.files.pooling import DEFAULT_STREAMS, VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.loading import ClipSampler, CopyStream, Keys, OverfitSampler, make_loader, one_empty_batch
from mcn_lightning.data.options import (
    check_overfit,
    check_pickles,
    check_ranges,
    check_training_batch,
    make_reading,
    videos_per_process,
)
from mcn_lightning.data.shards.job import PackConfig, PackReport
from mcn_lightning.data.skipped import MissingModalities, SkippedVideos
from mcn_lightning.data.sources.base import SPLITS, DataSource
from mcn_lightning.data.sources.howto100m import VideoLayout
from mcn_lightning.data.sources.kinds import packed_in, stored_at
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.data.splits import Splits, cannot_be_evaluated
from mcn_lightning.data.text import TextConfig, TextSource
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import as_config

_NEEDED = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class NarratedVideos(LightningDataModule):
    """Narrated videos in the layout of the HowTo100M feature release.

    In Python, streams, audio, text, clips and synthetic may also be plain dicts of their options.

    Args:
        root: folder of the data set. The names below are relative to it, or absolute. Required without ``source``.
        train_csv: list of the training videos, with the header ``path``. Or a pickle of clips (.pkl), such as those of
            YouCook2 and MSR-VTT. Each clip is then a video of one clip.
        val_csv: the same for validation videos; none for no validation.
        test_csv: the same for test videos, by default ``val_csv``.
        captions: captions with their seconds: JSON, pickle or CSV, YouCook2's or COOT's JSON, or a folder with
            <video id>.vtt, .srt or .json for each video.
        features: folder of the visual features.
        audio_root: folder of the spectrograms, by default ``features``.
        modalities: which of video, audio and text are read. No batch has the others.
        streams: visual streams, joined in this order: suffix of the file, rate in rows a second, width of a row
            (--data.streams.help shows them).
        audio: how spectrograms are stored, cut and augmented.
        text: how captions become vectors.
        clips: how the clips of a video are chosen.
        source: your own source in place of lists, captions and features: see ``VideoSource``. Only the text source is
            still read from ``root``.
        shards: folder that ``lightning prepare`` wrote, relative to the working directory, or its URL (``s3://``,
            ``gs://``, ``hf://`` and others). It replaces captions and features, and needs the lists of packing. Only
            the text source is still read from ``root``.
        shards_cache: folder for shards that come from a URL, by default ``~/.cache/mcn-lightning/shards``.
        synthetic: generate the data set in ``root`` first, unless it exists (--data.synthetic.help shows the options).
        batch_size: videos of a training batch in each process, 128 by default. The batch holds ``clips.n_pair`` clips
            of each.
        global_batch_size: videos of a training batch of all processes together, in place of ``batch_size``. Their
            number divides it.
        eval_batch_size: videos of an evaluation batch in each process. The batch holds every caption of each.
        epoch_end: use of the training videos after the last full batch of an epoch: drop skips them, pad fills the
            batch with videos from the start of the epoch.
        num_workers: processes that read; 0 reads in the main process.
        timeout: seconds to wait for a batch of these processes before the run stops with a message; 0 has no limit.
        seed: determines all random numbers, with the epoch and the video.
        max_bad_share: largest share of unusable training videos, 0 to 1, before the run stops.
        allow_missing: a video may lack modalities: captions, a spectrogram, or the files of visual features. It trains
            with those it has, and is evaluated in the directions that it can serve. Otherwise such a video is unusable.
    """

    def __init__(
        self,
        root: str | None = None,
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
        source: DataSource | None = None,
        shards: str | None = None,
        shards_cache: str | None = None,
        synthetic: SyntheticConfig | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        eval_batch_size: int = 16,
        epoch_end: Literal["drop", "pad"] = "drop",
        num_workers: int = 2,
        timeout: float = 600.0,
        seed: int = 0,
        max_bad_share: float = 0.01,
        allow_missing: bool = False,
    ) -> None:
        super().__init__()
        # the options before any path, so that a wrong option is told even where the data are missing
        reading = make_reading(modalities, streams, audio, text, clips, allow_missing)
        synthetic = None if synthetic is None else as_config(SyntheticConfig, synthetic, "--data.synthetic")
        lists = {"train": train_csv, "val": val_csv, "test": test_csv or val_csv}
        check_pickles(lists, reading.audio)
        check_ranges(batch_size=batch_size, global_batch_size=global_batch_size, eval_batch_size=eval_batch_size,
                     num_workers=num_workers, timeout=timeout, seed=seed, max_bad_share=max_bad_share)  # fmt: skip
        if root is None and source is None:
            raise InputError("--data.root: expected a value, found none; give it")
        self.root = Path(root or ".")
        self.layout = VideoLayout(
            self.root / features,
            self.root / (audio_root or features),
            reading.streams,
            reading.audio,
            reading.modalities,
        )
        stored = stored_at(self.root, lists, captions, features, audio_root)
        self._stored = stored if source is None else dict.fromkeys(SPLITS, source)
        sources = self._stored if shards is None else packed_in(shards, self._stored, shards_cache)
        self.splits = Splits(sources, reading, self.root, seed)
        self.text_config, self.clip_config, self.synthetic = reading.text, reading.clips, synthetic
        self._batch_size, self.global_batch_size = batch_size, global_batch_size
        self.eval_batch_size, self.num_workers = eval_batch_size, num_workers
        self.epoch_end, self.timeout = epoch_end, timeout
        self.seed = seed
        self.predict_split: PredictSplit = "test"
        self._skipped = SkippedVideos(max_bad_share)
        self._missing = MissingModalities(modalities)
        self._position, self._copies = EpochPosition(), CopyStream()

    @property
    def batch_size(self) -> int:
        """Videos of a training batch in each process of the trainer; see ``divide_batch``."""
        return self.divide_batch(self._processes)

    @batch_size.setter
    def batch_size(self, videos: int) -> None:
        self._batch_size, self.global_batch_size = videos, None

    def divide_batch(self, processes: int) -> int:
        """Return the videos of a training batch in each of some processes.

        Raises:
            InputError: if they cannot share ``global_batch_size``.
        """
        return videos_per_process(self._batch_size, self.global_batch_size, processes)

    @property
    def datasets(self) -> dict[str, NarratedVideoDataset]:
        """The data set of each split, after ``setup``."""
        return self.splits.datasets

    @property
    def lists(self) -> dict[str, str | None]:
        """The name of each split, such as its list, or ``None`` if it does not exist."""
        return self.splits.names

    @property
    def text(self) -> TextSource | None:
        """The text source, or ``None`` without text, after ``setup``."""
        return self.splits.text

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities of a clip: some of video, audio and text."""
        return tuple(self.layout.modalities)

    @property
    def video_dim(self) -> int:
        """C, the sum of the widths of all visual streams, 0 without video."""
        return sum(stream.width for stream in self.splits.reading.read_streams)

    def input_sizes(self) -> dict[str, int | tuple[str, ...]]:
        """Return the options of a network that depend on the data: ``modalities``, ``video_dim`` and so on."""
        return self.splits.reading.sizes()

    def text_embedder(self) -> nn.Module | None:
        """Return the frozen module that maps word indices to vectors, or ``None`` without text, after ``setup``."""
        return None if self.text is None else self.text.embedder()

    def prepare_data(self) -> None:
        """Generate a synthetic data set."""
        # a stage that only benchmarks serve should not write a data set first
        evaluated = {TrainerFn.VALIDATING: "val", TrainerFn.TESTING: "test"}.get(self._activity or TrainerFn.FITTING)
        if self.synthetic is not None and not (evaluated and self._has_only_benchmarks(evaluated)):
            write_synthetic(self.root, self.synthetic)

    def setup(self, stage: str | None = None) -> None:
        """Read the lists, the captions and the vectors of their words, once for all stages.

        The word indices of all splits belong to one table, so the first call reads all lists that exist. Only those
        that the stage needs must exist.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            InputError: if the folder or a file is missing or unusable.
        """
        needed = _NEEDED.get(stage or "fit", ())
        if stage == "predict":
            needed = tuple(splits_of(self.predict_split, self.lists))
        if stage in ("validate", "test") and self._has_only_benchmarks(needed[0]):
            return  # the stage does not use these data, and reading the captions of a million videos takes long
        # setup is called for each stage, but the counts are of the whole run
        opened = bool(self.datasets)
        self.splits.open(needed)
        if not opened:
            self._skipped.total = len(self.datasets.get("train", ()))
            self._skipped.add(self.splits.lost())
            for line in self.splits.lines():
                rank_zero_info(line)
            if self.trainer is None or self.trainer.is_global_zero:  # all processes have the same captions: log once
                self._skipped.captions = self.dropped_captions("train")
        for split in needed if stage == "predict" else ():
            if dropped := self.dropped_captions(split):
                rank_zero_info(f"{split} is embedded without {dropped}")

    def dropped_captions(self, split: str) -> str:
        """Return how many captions of a split were dropped and why, as text, empty for none, after ``setup``."""
        return self.splits.dropped_captions(split)

    def pack(self, config: PackConfig) -> PackReport:
        """Pack every split that has a list into shards, after generating synthetic data; see ``Splits``."""
        self.prepare_data()
        return self.splits.pack(self._stored, config)

    def inspect(self) -> None:
        """Read every video of every list once, and print a report.

        Raises:
            InputError: if training could not start, for the first reason.
        """
        self.prepare_data()
        self.splits.open(("train",))
        inspect_splits(self.splits, self._skipped.max_share)
        # checks what only a loader can tell, such as too few videos for a batch
        self.train_dataloader()
        print("training can start")

    def check_held_out(self) -> None:
        """Open the files of every validation video, as an unusable one would end the training later.

        Raises:
            InputError: if a video cannot be evaluated.
        """
        self.splits.check_held_out()

    def has_topics(self, split: str) -> bool:
        """Tell whether the topics of a split's captions are known, by its first video that can be read."""
        return self.splits.has_topics(split)

    def train_dataloader(self) -> DataLoader:
        """Return the training batches.

        Raises:
            InputError: if a process has too few videos for one batch.
        """
        sampler = self._sampler("train")
        name = "batch_size" if self.global_batch_size is None else "global_batch_size"
        check_training_batch(sampler, self.clip_config.n_pair, f"--data.{name} {getattr(self, name)}")
        self._position.begin(sampler, self.trainer)
        if note := sampler.note():
            rank_zero_info(note)
        loader = self._loader("train", sampler, self.batch_size)
        check_overfit(self._overfits(), len(loader), "training", f"--data.{name}")
        return loader

    def pass_dataloader(self, share: float) -> DataLoader:
        """Return one pass over this process's part of a share of the training videos, sampled for each epoch.

        Args:
            share: of the training videos, in (0, 1].
        """
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        sampler = self._sampler("train")
        # Lightning does not know this loader, so it would stay in epoch 0
        sampler.set_epoch(epoch)
        return self._loader("train", sampler.some(share), self.batch_size, persistent=False)

    def val_dataloader(self) -> DataLoader | list:
        """Return the validation clips. In training, the list is empty if there is no validation split."""
        if self._has_only_benchmarks("val"):
            return one_empty_batch()
        if self.lists["val"] is None and self._activity != TrainerFn.VALIDATING:
            return []
        loader = self._loader("val", self._sampler("val"), self.eval_batch_size)
        check_overfit(self._overfits(), len(loader), "validation", "--data.eval_batch_size")
        return loader

    def _overfits(self) -> float:
        """Return ``--trainer.overfit_batches`` in training: a number of batches or their share, 0 for all."""
        # Lightning ignores the option outside of fit
        return getattr(self.trainer, "overfit_batches", 0) if self._activity == TrainerFn.FITTING else 0

    def test_dataloader(self) -> DataLoader:
        """Return the test clips."""
        if self._has_only_benchmarks("test"):
            return one_empty_batch()
        return self._loader("test", self._sampler("test"), self.eval_batch_size)

    def _has_only_benchmarks(self, split: str) -> bool:
        """Tell whether a split does not exist, and benchmarks among the callbacks have their own data."""
        callbacks: Any = getattr(self.trainer, "callbacks", ())
        return self.lists[split] is None and any(getattr(callback, "brings_data", False) for callback in callbacks)

    def predict_dataloader(self) -> DataLoader | list[DataLoader]:
        """Return the clips of ``predict_split`` as in evaluation. For "all", there is one loader for each split."""
        splits, size = splits_of(self.predict_split, self.lists), self.eval_batch_size
        loaders = [self._loader(split, self._sampler(split, False), size, described=True) for split in splits]
        return loaders if self.predict_split == "all" else loaders[0]

    def _sampler(self, split: str, training: bool | None = None) -> ClipSampler:
        if split not in self.datasets:
            raise InputError(self.splits.sources[split].missing_message(split))
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        count, training = len(self.datasets[split]), split == "train" if training is None else training
        # evaluation: no video may be left out, and what "pad" repeats is counted once by its id
        batch, end = (self.batch_size, self.epoch_end) if training else (1, "pad")
        if self._overfits():
            return OverfitSampler(count, self.seed, False, rank, world, batch, end)
        return ClipSampler(count, self.seed, training, rank, world, batch, end)

    def _loader(
        self, split: str, keys: Keys, batch_size: int, persistent: bool = True, described: bool = False
    ) -> DataLoader:
        dataset = DescribedVideos(self.datasets[split], split) if described else self.datasets[split]
        return make_loader(
            dataset, keys, batch_size, self.num_workers, self.timeout, self.seed, self._processes, persistent
        )

    def on_before_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Count unusable videos, and stop if there are too many.

        Raises:
            InputError: in training when more than ``max_bad_share`` of the videos are bad; in evaluation at the first.
        """
        if self.trainer is not None and self.trainer.training:
            self._skipped.begin(self.trainer.current_epoch)
            self._skipped.add(batch.skipped)
            self._missing.add(self.trainer.current_epoch, batch)
        elif batch.skipped and self._predicts_train(dataloader_idx):
            # training videos may be unusable, also where they are embedded
            self._skipped.add(batch.skipped)
        elif batch.skipped:
            # metrics without some of the videos would not be those of the data set
            raise cannot_be_evaluated(batch.skipped[0])
        return batch

    def _predicts_train(self, loader: int) -> bool:
        return self._activity == TrainerFn.PREDICTING and splits_of(self.predict_split, self.lists)[loader] == "train"

    def transfer_batch_to_device(self, batch: ClipBatch, device: torch.device, dataloader_idx: int) -> ClipBatch:
        """Copy a batch to the device. On a GPU the copy runs beside the step before."""
        return self._copies.move(batch, device)

    def on_after_batch_transfer(self, batch: ClipBatch, dataloader_idx: int) -> ClipBatch:
        """Normalise the visual features and cut the spectrograms, now that they are on the device."""
        return batch.ready()

    def teardown(self, stage: str) -> None:
        """Log the skipped videos of the last epoch."""
        self._skipped.end()
        self._missing.end()

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch. A resumed run continues with the next batch."""
        return {} if self.trainer is None else self._position.state(self.trainer, self.batch_size * self._processes)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the position of a training run. Evaluations ignore it."""
        if state_dict and self.trainer is not None and self.trainer.training:
            self._position.load(state_dict)

    @property
    def _activity(self) -> TrainerFn | None:
        return None if self.trainer is None else self.trainer.state.fn

    @property
    def _processes(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
