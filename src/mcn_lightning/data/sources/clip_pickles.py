"""Benchmark pickles: a list of dicts, one a clip, the usual form of YouCook2, MSR-VTT, LSMDC, UCF101 and HMDB51."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.files.caption_files import PICKLES
from mcn_lightning.data.files.pickles import Record, load_pickle
from mcn_lightning.data.sources.base import ListedSource, Reading
from mcn_lightning.data.sources.class_names import class_names, class_text
from mcn_lightning.data.sources.clip_records import (
    ClipFields,
    ClipReader,
    ClipRecord,
    all_captions,
    captions_of,
    why_silent,
)
from mcn_lightning.data.sources.pickled_clip import PickledClip
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError, naming

WITHOUT_TEXT = "without text"
LEFT_OUT = "without text (left out with their clips, which have no other)"


def is_pickle(path: str | Path) -> bool:
    """Tell whether a file is a pickle, by its name."""
    return Path(path).suffix in PICKLES


def read_clip_dicts(path: Path) -> list[Record]:
    """Read the dicts of a benchmark pickle.

    Raises:
        InputError: if the file is missing, damaged, needs code to be run, or is no list of dicts with clips.
    """
    table = load_pickle(path)
    entries = list(table) if isinstance(table, list | tuple) else []
    others = [type(entry).__name__ for entry in entries if not isinstance(entry, Mapping)]
    if others or not entries:
        found = f"a list with a {others[0]}" if others else f"a {type(table).__name__} without clips"
        raise InputError(f"{path}: expected a list of dicts, one a clip, found {found}")
    return entries


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    # in double, as rows of one clip may be stored in different precisions
    return one.shape == other.shape and torch.equal(one.double(), other.double())


def _group_rows(names: Sequence[str]) -> list[list[int]]:
    """Return the row numbers of each distinct name, in the order of their first rows."""
    rows: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        rows.setdefault(name, []).append(number)
    return list(rows.values())


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names. A repeated name gets its count as suffix: ``name#2``."""
    counts = Counter[str]()
    found = []
    for name in names:
        counts[name] += 1
        found.append(name if counts[name] == 1 else f"{name}#{counts[name]}")
    return found


class PickledClips(Videos):
    """The clips of a benchmark pickle as a video source for ``NarratedVideoDataset``: each is a video of one clip.

    Args:
        path: the pickle.
        fields: what is read.
        with_classes: whether the pickle has classes (UCF101, HMDB51), whose names are the captions.
        silent: whether a clip without sound is silence; otherwise it is refused.
        merge: for evaluation: rows of one name are one clip with all their captions, and a clip without any caption is
            left out and counted. Otherwise each row is a clip of its own.

    Raises:
        InputError: if the file cannot be read, merged rows differ in more than their captions, or no clip is left.
    """

    def __init__(
        self, path: Path, fields: ClipFields, with_classes: bool = False, silent: bool = False, merge: bool = False
    ) -> None:
        self.path, self.fields, self.merge = path, fields, merge
        entries = read_clip_dicts(path)
        self.classes = class_names(path, entries) if with_classes else None
        self.reader = ClipReader(path, fields, self.classes, training=not merge)
        self.silent = silent or fields.allow_missing
        # before entries are emptied below
        names = [self.reader.name(entry, number) for number, entry in enumerate(entries)]
        rows = _group_rows(names) if merge else [[number] for number in range(len(names))]
        self._dropped = Counter[str]()
        if merge and fields.text and not with_classes and not fields.allow_missing:
            rows = self._with_captions(entries, rows)
        self.ids = _distinct([names[first] for first, *_ in rows])
        self.repeated = len(rows) - len({names[first] for first, *_ in rows})
        # numbers as names come from the position in the file, and say nothing about clips of other files
        self.named = any(name != str(number) for number, name in enumerate(names))
        self._texts = [caption for entry in entries for caption in all_captions(entry)] if fields.text else []
        self._bad: dict[int, str] = {}
        self._no_sound: dict[int, str] = {}
        self._store([self._checked(entries, index, numbers) for index, numbers in enumerate(rows)])

    def _with_captions(self, entries: Sequence[Record], rows: list[list[int]]) -> list[list[int]]:
        """Return the rows of clips that have a caption with text, and count the captions of the others."""
        found = []
        for own in rows:
            captions = [captions_of(entries[number], False) for number in own]
            if any(texts for texts, _, _ in captions):
                found.append(own)
            else:
                self._dropped[LEFT_OUT] += sum(dropped for _, _, dropped in captions)
        if not found:
            keys = sorted(map(str, entries[0]))
            raise InputError(f"{self.path}: expected a caption under 'caption' or 'eval_caption', found none in {keys}")
        return found

    def _checked(self, entries: list[Record], index: int, rows: Sequence[int]) -> ClipRecord | None:
        """Check a clip. ``None`` stands for an unusable clip, whose reason is noted.

        Args:
            entries: all rows of the pickle. Those of this clip are emptied.
            index: number of the clip.
            rows: numbers of its rows.

        Raises:
            InputError: if its rows differ in more than their captions.
        """
        first: ClipRecord | None = None
        for number in rows:
            # frees the memory of features over time, which are many times larger than the pooled ones
            entry, entries[number] = entries[number], {}
            try:
                record = self.reader.record(entry, number)
            except InputError as error:
                self._bad.setdefault(index, str(error))
                continue
            if first is None:
                first = record
                if record.audio is None and self.fields.audio is not None:
                    self._no_sound[index] = why_silent(entry)
            else:
                self._check_same_features(first, record, (rows[0], number))
                first = replace(
                    first,
                    texts=(*first.texts, *record.texts),
                    choices=(*first.choices, *record.choices),
                    dropped=first.dropped + record.dropped,
                )
        needs_text = self.fields.text and not self.fields.allow_missing
        if first is not None and not (first.texts or first.choices) and needs_text:
            self._bad.setdefault(index, f"{self.path}: clip {first.id}: expected a caption with text, found none")
        if first is None or index in self._bad:
            return None
        self._dropped[WITHOUT_TEXT] += first.dropped if first.texts or first.choices else 0
        return first

    def _check_same_features(self, one: ClipRecord, other: ClipRecord, rows: tuple[int, int]) -> None:
        names = [*(stream.suffix.lstrip("_") for stream in self.fields.streams), "audio"]
        pairs = zip(names, (*one.streams, one.audio), (*other.streams, other.audio), strict=True)
        if different := [name for name, a, b in pairs if not _equal(a, b)]:
            found = f"another {different[0]} in row {rows[1]} than in row {rows[0]}; give each clip a name of its own"
            raise InputError(f"{self.path}: clip {one.id}: expected rows with the same features, found {found}")

    def _store(self, records: list[ClipRecord | None]) -> None:
        """Store the features of all clips in a few tensors.

        Each tensor that goes to a worker process takes a file descriptor, so thousands of tensors would be too many.
        """
        # an unusable clip takes a row of zeros, so that all rows have the index of their clip
        zeros = [torch.zeros(1, stream.width, dtype=torch.float16) for stream in self.fields.streams]
        rows = [zeros if record is None else record.streams for record in records]
        self._streams = [torch.cat(column) for column in zip(*rows, strict=True)]
        sounds = [None if record is None else record.audio for record in records]
        self._records = [None if record is None else replace(record, streams=(), audio=None) for record in records]
        records.clear()  # with the lines below, this keeps the features from being in memory twice
        del rows
        lengths = [0 if sound is None else sound.shape[1] for sound in sounds]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        dtypes = {sound.dtype for sound in sounds if sound is not None}
        # of one type as it is; empty sound counts for none, and float16 never widens another type
        dtype = torch.float16
        for found in dtypes:
            dtype = torch.promote_types(dtype, found) if len(dtypes) > 1 else found
        bands = 0 if self.fields.audio is None else self.fields.audio.bands
        self._frames = torch.empty(self._starts[-1], bands, dtype=dtype)
        for number, sound in enumerate(sounds):
            if sound is not None:
                self._frames[self._starts[number] : self._starts[number + 1]] = sound.T
            sounds[number] = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""
        return tuple(stream.width for stream in self.fields.streams)

    def id(self, index: int) -> str:
        """Return the name of a clip."""
        return self.ids[index]

    def dropped(self) -> Mapping[str, int]:
        """Return how many captions were dropped, by reason."""
        # the plus leaves out reasons with a count of 0
        return +self._dropped

    def all_texts(self) -> list[str]:
        """Return all captions; see ``texts``."""
        return self.texts()

    def some_texts(self, count: int) -> list[str]:
        """Return the first ``count`` captions."""
        return self.texts()[:count]

    def repeated_names(self) -> list[str]:
        """Return the names of clips that repeat the name of an earlier one."""
        # the second row of each name, so that each name is listed once
        return [name.removesuffix("#2") for name in self.ids if name.endswith("#2")] if self.repeated else []

    def texts(self) -> list[str]:
        """Return all captions, also those of unusable clips, and the class names as words."""
        return self._texts + [class_text(name) for name in self.classes or ()]

    def open(self, index: int) -> PickledClip:
        """Return a clip.

        Raises:
            InputError: if it cannot be used.
        """
        if (record := self._records[index]) is None:
            raise InputError(self._bad[index])
        if not self.silent and (found := self._no_sound.get(index)) is not None:
            where = f"{self.path}: clip {self.ids[index]}"
            raise InputError(f"{where}: expected a spectrogram under 'audio', found {found}")
        streams = tuple(stream[index : index + 1] for stream in self._streams)
        sound = None
        if self.fields.audio is not None and index not in self._no_sound:
            sound = self._frames[self._starts[index] : self._starts[index + 1]].T
        whole = replace(record, id=self.ids[index], streams=streams, audio=sound)
        return PickledClip(whole, self.fields, all_captions=self.merge)


class ClipPickles(ListedSource):
    """Splits that are pickles of clips, such as those of YouCook2 and MSR-VTT. Each clip is a video of one clip."""

    packable = False

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the pickles that are needed or exist. A pickle of two held-out splits is opened once.

        Training visits every row. Evaluation takes rows of one name as one clip with several captions.

        Raises:
            InputError: if the folder does not exist, or a pickle cannot be used.
        """
        self.check_root()
        opened, found = dict[tuple[str, bool], PickledClips](), dict[str, Videos]()
        text = "text" in reading.modalities
        fields = ClipFields(reading.read_streams, reading.read_audio, text, reading.allow_missing)
        for split in splits:
            name = self.lists[split]
            if name is None or not (split in needed or (self.root / name).is_file()):
                continue
            # training keeps rows apart that evaluation merges, so the same file may be opened twice
            key = name, split != "train"
            if key not in opened:
                with naming(f"--data.{split}_csv"):
                    opened[key] = PickledClips(self.root / name, fields, merge=split != "train")
            found[split] = opened[key]
        return found
