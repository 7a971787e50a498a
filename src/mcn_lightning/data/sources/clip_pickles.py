"""Benchmark pickles: a list of dicts, one a clip, as YouCook2, MSR-VTT, LSMDC, UCF101 and HMDB51 are handed around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.files.pickles import Record, load_pickle
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.base import ListedSource, Reading
from mcn_lightning.data.sources.class_names import class_names, class_text
from mcn_lightning.data.sources.clip_records import ClipReader, ClipRecord, all_captions, captions_of, why_silent
from mcn_lightning.data.sources.pickled_clip import PickledClip
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError

PICKLES = (".pkl", ".pickle", ".p")
WITHOUT_TEXT = "without text"
LEFT_OUT = "without text (left out with their clips, which have no other)"


def is_pickle(path: str | Path) -> bool:
    """Tell whether a file is a pickle by its name."""
    return Path(path).suffix in PICKLES


def read_clip_dicts(path: Path) -> list[Record]:
    """Read the dicts of a benchmark pickle.

    Raises:
        InputError: if the file is missing, damaged, needs code to be run, or is no list of dicts with clips.
    """
    table = load_pickle(path)
    if not isinstance(table, list | tuple) or not all(isinstance(entry, Mapping) for entry in table):
        raise InputError(f"{path}: expected a list of dicts, one a clip, found {_kind(table)}")
    if not table:
        raise InputError(f"{path}: expected at least one clip, found none")
    return list(table)


def _kind(value: object) -> str:
    if isinstance(value, list | tuple):
        other = next(entry for entry in value if not isinstance(entry, Mapping))
        return f"a list with a {type(other).__name__}"
    return f"a {type(value).__name__}"


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.equal(one.double(), other.double())


def _rows_of_each(names: Sequence[str]) -> list[list[int]]:
    """Return the rows of each name, in the order in which names first come."""
    rows: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        rows.setdefault(name, []).append(number)
    return list(rows.values())


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, those that come again with their count behind them."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found


class PickledClips(Videos):
    """The clips of a benchmark pickle as a video source for ``NarratedVideoDataset``: each is a video of one clip.

    Args:
        path: the pickle.
        streams: visual streams that are read; empty for no video.
        audio: how spectrograms are cut; ``None`` for no audio.
        text: captions are read.
        with_classes: the pickle has classes (UCF101, HMDB51), whose names are the captions.
        silent: a clip without sound is silence; otherwise it is refused.
        merge: for evaluation: rows of one name are one clip with the captions of all of them, and a clip without any
            caption is left out and counted; otherwise each row is a clip of its own.
        allow_missing: a clip may lack sound, captions or visual streams, and has no such modality then.

    Raises:
        InputError: if the file cannot be read, rows that are merged differ in more than their captions, or no clip is
            left.
    """

    def __init__(
        self,
        path: Path,
        streams: Sequence[VisualStream],
        audio: AudioConfig | None,
        text: bool = True,
        with_classes: bool = False,
        silent: bool = False,
        merge: bool = False,
        allow_missing: bool = False,
    ) -> None:
        self.path = path
        entries = read_clip_dicts(path)
        self.classes = class_names(path, entries) if with_classes else None
        self.reader = ClipReader(path, streams, audio, text, self.classes, allow_missing, not merge)
        self.silent, self.allow_missing = silent or allow_missing, allow_missing
        names = [self.reader.name(entry, number) for number, entry in enumerate(entries)]
        rows = _rows_of_each(names) if merge else [[number] for number in range(len(names))]
        self._dropped = Counter[str]()
        if merge and text and not with_classes and not allow_missing:
            rows = self._with_captions(entries, rows)
        self.ids = _distinct([names[first] for first, *_ in rows])
        self.repeated = len(rows) - len({names[first] for first, *_ in rows})
        self.named = any(name != str(number) for number, name in enumerate(names))
        self._texts = [caption for entry in entries for caption in all_captions(entry)] if text else []
        self._bad: dict[int, str] = {}
        self._no_sound: dict[int, str] = {}
        self._several = merge
        self._keep([self._checked(entries, index, numbers) for index, numbers in enumerate(rows)])

    def _with_captions(self, entries: Sequence[Record], rows: list[list[int]]) -> list[list[int]]:
        """Leave out the clips that have no caption with text, and count their captions."""
        kept = []
        for own in rows:
            found = [captions_of(entries[number], False) for number in own]
            if any(texts for texts, _, _ in found):
                kept.append(own)
            else:
                self._dropped[LEFT_OUT] += sum(dropped for _, _, dropped in found)
        if not kept:
            keys = sorted(map(str, entries[0]))
            raise InputError(f"{self.path}: expected a caption under 'caption' or 'eval_caption', found none in {keys}")
        return kept

    def _checked(self, entries: list[Any], index: int, rows: Sequence[int]) -> ClipRecord | None:
        """Check a clip, and let go of what is not needed of it (features over time are many times those pooled).

        Args:
            entries: all rows of the pickle; those that are read are let go.
            index: number of the clip.
            rows: numbers of its rows.

        Raises:
            InputError: if its rows differ in more than their captions.
        """
        first: ClipRecord | None = None
        for number in rows:
            entry, entries[number] = entries[number], None
            try:
                record = self.reader.record(entry, number)
            except InputError as error:
                self._bad.setdefault(index, str(error))
                continue
            if first is None:
                first = record
                if record.audio is None and self.reader.audio is not None:
                    self._no_sound[index] = why_silent(entry)
            else:
                self._refuse_other_features(first, record, (rows[0], number))
                first = replace(
                    first,
                    texts=(*first.texts, *record.texts),
                    choices=(*first.choices, *record.choices),
                    dropped=first.dropped + record.dropped,
                )
        if first is not None and not (first.texts or first.choices) and self.reader.text and not self.allow_missing:
            self._bad.setdefault(index, f"{self.path}: clip {first.id}: expected a caption with text, found none")
        if first is None or index in self._bad:
            return None
        self._dropped[WITHOUT_TEXT] += first.dropped if first.texts or first.choices else 0
        return first

    def _refuse_other_features(self, one: ClipRecord, other: ClipRecord, rows: tuple[int, int]) -> None:
        names = [*(stream.suffix.lstrip("_") for stream in self.reader.streams), "audio"]
        for name, a, b in zip(names, (*one.streams, one.audio), (*other.streams, other.audio), strict=True):
            if not _equal(a, b):
                raise InputError(
                    f"{self.path}: clip {one.id}: expected one clip, or rows of one name with the same features and "
                    f"several captions, found another {name} in row {rows[1]} than in row {rows[0]}; "
                    "give each clip a name of its own"
                )

    def _keep(self, records: list[ClipRecord | None]) -> None:
        """Keep all clips in a few tensors: thousands could not be handed to the processes that read."""
        self._meta = [
            None if one is None else (one.texts, one.choices, one.label, one.split, one.seen) for one in records
        ]
        self._streams = []
        for place, stream in enumerate(self.reader.streams):
            nothing = torch.zeros(1, stream.width, dtype=torch.float16)
            self._streams.append(torch.cat([nothing if one is None else one.streams[place] for one in records]))
        sounds = [None if one is None else one.audio for one in records]
        records.clear()
        lengths = [0 if sound is None else sound.shape[1] for sound in sounds]
        self._starts = [0, *np.cumsum(lengths).tolist()]
        kinds = {sound.dtype for sound in sounds if sound is not None}
        dtype = torch.float16
        for kind in kinds:
            dtype = torch.promote_types(dtype, kind) if len(kinds) > 1 else kind
        bands = 0 if self.reader.audio is None else self.reader.audio.bands
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
        return tuple(stream.width for stream in self.reader.streams)

    def id(self, index: int) -> str:
        """Return the name of a clip."""
        return self.ids[index]

    def dropped(self) -> Mapping[str, int]:
        """Return how many captions were dropped, by reason."""
        return +self._dropped

    def all_texts(self) -> list[str]:
        """Return all captions; see ``texts``."""
        return self.texts()

    def some_texts(self, count: int) -> list[str]:
        """Return the first ``count`` captions."""
        return self.texts()[:count]

    def repeated_names(self) -> list[str]:
        """Return the names of clips that have the name of an earlier one."""
        return [name.removesuffix("#2") for name in self.ids if name.endswith("#2")] if self.repeated else []

    def texts(self) -> list[str]:
        """Return all captions, those of clips that cannot be used among them, and the names of classes as words."""
        return self._texts + [class_text(name) for name in self.classes or ()]

    def open(self, index: int) -> PickledClip:
        """Take what is read of a clip.

        Raises:
            InputError: if it cannot be used.
        """
        if (reason := self._bad.get(index)) is not None:
            raise InputError(reason)
        if not self.silent and (found := self._no_sound.get(index)) is not None:
            where = f"{self.path}: clip {self.ids[index]}"
            raise InputError(f"{where}: expected a spectrogram under 'audio', found {found}")
        texts, choices, label, split, seen = self._meta[index]  # type: ignore[misc]
        streams = tuple(stream[index : index + 1] for stream in self._streams)
        sound = None
        if self.reader.audio is not None and index not in self._no_sound:
            sound = self._frames[self._starts[index] : self._starts[index + 1]].T
        record = ClipRecord(self.ids[index], texts, choices, streams, sound, label, split, seen)
        return PickledClip(record, self.reader.audio, self._several, self.allow_missing, self.reader.text)


class ClipPickles(ListedSource):
    """Splits that are pickles of clips, as those of YouCook2 and MSR-VTT: each clip is a video of one clip."""

    packable = False

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the pickles that are needed or there; one of two held-out splits once.

        Training visits every row. Evaluation takes rows of one name as one clip with several captions.

        Raises:
            InputError: if the folder is not there, or a pickle cannot be used.
        """
        self.check_root()
        opened, found = dict[tuple[str, bool], PickledClips](), dict[str, Videos]()
        text = "text" in reading.modalities
        for split in splits:
            name = self.lists[split]
            if name is None or not (split in needed or (self.root / name).is_file()):
                continue
            key = name, split != "train"
            if key not in opened:
                streams, audio, missing = reading.read_streams, reading.read_audio, reading.allow_missing
                try:
                    opened[key] = PickledClips(
                        self.root / name, streams, audio, text, merge=split != "train", allow_missing=missing
                    )
                except InputError as error:
                    raise InputError(f"--data.{split}_csv: {error}") from None
            found[split] = opened[key]
        return found
