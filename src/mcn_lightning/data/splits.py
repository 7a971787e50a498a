"""The data sets of all splits, from any kind of source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

from mcn_lightning.batch import AbsentError, BadVideo
from mcn_lightning.data.captions import describe_dropped
from mcn_lightning.data.checks.first_look import inspect_sample
from mcn_lightning.data.checks.first_words import check_known_words, overlaps, repeated_names
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.shards.header import IndexOptions
from mcn_lightning.data.shards.job import PackConfig, PackReport
from mcn_lightning.data.shards.pack import pack
from mcn_lightning.data.shards.source import check_eval_column, fixed_options
from mcn_lightning.data.shards.writer import Split
from mcn_lightning.data.sources.base import SPLITS, DataSource, Reading
from mcn_lightning.data.sources.raw import RawVideos
from mcn_lightning.data.text import TextSource, open_text
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError


class Splits:
    """The data set of every split, and the text source that all of them share.

    Args:
        sources: source of each split.
        reading: what is read of the videos.
        root: folder that the name of the word vectors is relative to.
        seed: of all random numbers.

    Attributes:
        datasets: the data set of each split, after ``open``.
        text: the text source, after ``open``, or ``None`` without text.
        notes: lines about the captions, after ``open``: how many words are known.
        warnings: lines about videos that are in several lists, or repeated in one.
    """

    def __init__(self, sources: Mapping[str, DataSource], reading: Reading, root: Path, seed: int) -> None:
        self.sources, self.reading, self.root, self.seed = dict(sources), reading, root, seed
        self.text: TextSource | None = None
        self.datasets: dict[str, NarratedVideoDataset] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []

    @cached_property
    def names(self) -> dict[str, str | None]:
        """The name of each split, or ``None`` if it does not exist. Splits of one name have the same videos."""
        return {split: source.name(split) for split, source in self.sources.items()}

    def distinct(self) -> list[str]:
        """Return the splits. A test split with the validation videos is left out."""
        names = self.names
        # by their names: two splits of one list share words, videos and a packed split
        return [split for split in SPLITS if not (split == "test" and names["test"] == names["val"])]

    def lines(self) -> list[str]:
        """Return notes and warnings as lines."""
        return [*self.notes, *(f"warning: {warning}" for warning in self.warnings)]

    def lost(self) -> Sequence[BadVideo]:
        """Return the training videos that are known to be unusable before any is read."""
        return self.datasets["train"].source.lost() if "train" in self.datasets else ()

    def dropped_captions(self, split: str) -> str:
        """Return how many captions of a split were dropped and why, as text, empty for none."""
        dataset = self.datasets.get(split)
        return "" if dataset is None else describe_dropped(dataset.source.dropped())

    def open(self, needed: Sequence[str]) -> None:
        """Open the videos of all splits that exist, and the vectors of the words of their captions.

        The word indices of all splits belong to one table, so the first call opens all of them.

        Args:
            needed: splits that must exist.

        Raises:
            InputError: if a file is missing or unusable, or videos and options do not fit.
        """
        if not self.datasets:
            self._open(self._videos(self.sources, SPLITS, needed))
        for split in needed:
            # no data set, or one without videos: the source tells what is missing
            if not self.datasets.get(split):
                self.sources[split].require(split)

    def _videos(
        self, sources: Mapping[str, DataSource], splits: Sequence[str], needed: Sequence[str]
    ) -> dict[str, Videos]:
        """Open splits. Splits of one source are opened together."""
        found: dict[str, Videos] = {}
        # once for all its splits: the captions of a million videos are read a single time
        for source in dict.fromkeys(sources[split] for split in splits):
            own = [split for split in splits if sources[split] is source]
            found |= source.open(own, [split for split in needed if split in own], self.reading)
        return found

    def _open(self, videos: Mapping[str, Videos]) -> None:
        if not videos:
            return
        if "text" in self.reading.modalities:
            texts = [
                source.all_texts([opened for split, opened in videos.items() if self.sources[split] is source])
                for source in dict.fromkeys(self.sources.values())
            ]
            path = self.root / self.reading.text.source
            self.text = open_text(self.reading.text, path, chain.from_iterable(texts))
        # before workers start, so that they get the vocabulary with the data set
        for opened in videos.values():
            opened.set_text(self.text)
        self.datasets = {split: self._dataset(split, opened) for split, opened in videos.items()}
        for split, dataset in self.datasets.items():
            # a look at shards that are still at their URL would fetch them
            if dataset.source.is_here():
                inspect_sample(dataset.source, self.reading.clips.overrun, self.sources[split].label(split))
        self._note()

    def _dataset(self, split: str, videos: Videos) -> NarratedVideoDataset:
        reading = self.reading
        may_lack = reading.modalities if reading.allow_missing else ()
        return NarratedVideoDataset(
            videos, reading.clips, reading.audio, self.text, self.seed, split == "train", may_lack
        )

    def _note(self) -> None:
        """Count known words, refuse captions with too few, and find videos of several splits."""
        videos = {split: self.datasets[split].source for split in self.distinct() if split in self.datasets}
        labels = {split: self.sources[split].label(split) for split in videos}
        for split, opened in videos.items():
            if opened.is_here():
                self.warnings += repeated_names(opened, labels[split])
                note = check_known_words(self.text, opened, labels[split], self.root / self.reading.text.source)
                self.notes += [note] if note else []
        self.warnings += overlaps(videos, labels)

    def check_held_out(self) -> None:
        """Open the files of every validation video, as an unusable one would end the training later.

        Raises:
            InputError: if a video cannot be evaluated.
        """
        if (dataset := self.datasets.get("val")) is None:
            return
        for index in range(len(dataset)):
            try:
                dataset.check(index)
            except InputError as error:
                bad = BadVideo(dataset.source.id(index), str(error), isinstance(error, AbsentError))
                raise cannot_be_evaluated(bad) from None

    def has_topics(self, split: str) -> bool:
        """Tell whether the topics of a split's captions are known, by its first video that can be read."""
        dataset = self.datasets.get(split)
        for index in range(0 if dataset is None else len(dataset)):
            try:
                captions = self.datasets[split].source.open(index).captions
            except InputError:
                continue
            return captions is not None and captions.topics is not None
        return False

    def pack(self, sources: Mapping[str, DataSource], config: PackConfig) -> PackReport:
        """Pack every split of a packable source.

        Args:
            sources: source of each split.
            config: options of packing.

        Returns:
            A report.

        Raises:
            InputError: if the data set cannot be read, or the folder holds something else.
        """
        reading = self.reading
        # checked before any file is read, as packing may take hours
        check_eval_column(reading.text)
        if not reading.captions and not config.keep_frames and reading.read_streams:
            raise InputError("--pack.keep_frames: expected true for --data.clips.kind windows, found false")
        if not sources["train"].packable:
            name = sources["train"].name("train")
            raise InputError(
                f"--data.train_csv: expected a list of videos to pack, found the pickle {name}; fit takes it as it is"
            )
        opened = self._videos(sources, [split for split in self.distinct() if sources[split].packable], ("train",))
        videos = {split: found for split, found in opened.items() if isinstance(found, RawVideos)}
        for split, raw in videos.items():
            inspect_sample(raw, reading.clips.overrun, sources[split].label(split))
        options: IndexOptions = {
            **fixed_options(reading),
            "modalities": list(reading.modalities),
            "kind": reading.clips.kind,
            "overrun": reading.clips.overrun,
            # captions have no file of their own in the fingerprint, whose stamps are of features
            "captions": sources["train"].captions_checksum(videos.values()) if reading.captions else None,
        }
        # defaults are left out, so that the fingerprint of shards from before these options stays valid
        if reading.clips.span != "widest":
            options["span"] = reading.clips.span
        if reading.allow_missing:
            options["allow_missing"] = True
        splits = {split: Split(raw, reading.min_time(split)) for split, raw in videos.items()}
        return pack(splits, options, reading.read_streams, reading.clips, config)


def cannot_be_evaluated(bad: BadVideo) -> InputError:
    """Return the error for a video that cannot be evaluated."""
    hint = "; --data.allow_missing true evaluates it without" if bad.absent else ""
    return InputError(f"video {bad.video} cannot be evaluated: {bad.reason}{hint}")
