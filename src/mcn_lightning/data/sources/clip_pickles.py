"""Benchmark pickles: a list of dicts, one a clip, as YouCook2, MSR-VTT, LSMDC, UCF101 and HMDB51 are handed around."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.captions import Captions
from mcn_lightning.data.checks.consistency import Length, content_faults
from mcn_lightning.data.clips import Clip
from mcn_lightning.data.files.arrays import all_finite
from mcn_lightning.data.files.pickles import load_pickle
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig, copy_runs
from mcn_lightning.data.sources.class_names import class_names, class_text
from mcn_lightning.data.videos import NewTensor, Sound, join_streams
from mcn_lightning.errors import InputError

PICKLES = (".pkl", ".pickle", ".p")
WITHOUT_TEXT = "without text"
LEFT_OUT = "without text (left out with their clips, which have no other)"


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a benchmark pickle, checked.

    Args:
        id: its name.
        texts: the captions that evaluation asks for the clip with, or the words of the class; empty where text is not
            read.
        choices: the captions that training draws from.
        streams: pooled feature of each visual stream, ``(1, width)``; empty where video is not read, zeros where a
            stream is missing.
        audio: spectrogram ``(M, frames)``; ``None`` where audio is not read, or the clip has no sound.
        seen: whether the clip has a visual stream.
        label: class of the clip, where the pickle has classes.
        split: of a pickle with classes: 1 for training, 0 for test, 2 for neither.
        dropped: captions without text, which are not among the others.
    """

    id: str
    texts: tuple[str, ...]
    choices: tuple[str, ...]
    streams: tuple[Tensor, ...]
    audio: Tensor | None
    label: int | None = None
    split: int = 0
    seen: bool = True
    dropped: int = 0


def is_pickle(path: str | Path) -> bool:
    """Tell whether a file is a pickle by its name."""
    return Path(path).suffix in PICKLES


def read_clip_dicts(path: Path) -> list[Mapping[str, Any]]:
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


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        other = next(entry for entry in value if not isinstance(entry, Mapping))
        return f"a list with a {type(other).__name__}"
    return f"a {type(value).__name__}"


class ClipReader:
    """Checks the clips of one pickle and takes of them what is asked for.

    Args:
        path: the pickle.
        streams: visual streams; the suffix without its underline is the key (``2d``, ``3d``), and the array under
            ``<key>_pooled`` goes before it. An array with time is pooled by its maximum. Empty for no video.
        audio: how spectrograms are stored; ``None`` for no audio.
        text: captions are read.
        classes: name of each class in the order of the labels; ``None`` where there are no classes.
        allow_missing: a clip may lack captions or visual streams.
        training: captions without text are counted among those that training draws from, and not those of evaluation.
    """

    def __init__(
        self,
        path: Path,
        streams: Sequence[VisualStream],
        audio: AudioConfig | None,
        text: bool = True,
        classes: Sequence[str] | None = None,
        allow_missing: bool = False,
        training: bool = True,
    ) -> None:
        self.allow_missing, self.training = allow_missing, training
        self.path = path
        self.streams = tuple(streams)
        self.audio = audio
        self.text = text
        self.labels = None if classes is None else {name: number for number, name in enumerate(classes)}

    def record(self, entry: Mapping[str, Any], number: int) -> ClipRecord:
        """Check one clip.

        Args:
            entry: its dict.
            number: its place in the list, from 0; it names the clip until its id is known.

        Raises:
            InputError: if something of it is missing or cannot be used.
        """
        name = self.name(entry, number)
        where = f"{self.path}: clip {name}"
        label: int | None = None
        split = 0
        texts: tuple[str, ...] = ()
        choices: tuple[str, ...] = ()
        dropped = 0
        if self.labels is not None:
            label, split, texts = self.labels[entry["class"]], _split(entry, where), (class_text(entry["class"]),)
        elif self.text:
            texts, choices, dropped = _captions(entry, self.training)
        there = [not self.allow_missing or self._key(entry, stream) is not None for stream in self.streams]
        streams = tuple(
            self._visual(entry, stream, where) if found else torch.zeros(1, stream.width, dtype=torch.float16)
            for stream, found in zip(self.streams, there, strict=True)
        )
        audio = self._audio(entry, where)
        if self.allow_missing and not (any(there) or texts or audio is not None):
            raise InputError(f"{where}: expected features, a spectrogram or a caption, found none of them")
        return ClipRecord(name, texts, choices, streams, audio, label, split, any(there), dropped)

    def name(self, entry: Mapping[str, Any], number: int) -> str:
        """Return the name of a clip; its number where the file gives none.

        Raises:
            InputError: if it is something else than a text or a number.
        """
        key = "id" if self.labels is None else "video"
        value = entry.get(key, number)
        if not isinstance(value, str | int | np.integer) or value == "":
            raise InputError(f"{self.path}: clip number {number}: expected a name under '{key}', found {value!r}")
        return str(value)

    @staticmethod
    def _key(entry: Mapping[str, Any], stream: VisualStream) -> str | None:
        """Return under which key a clip has a stream; ``None`` where it has it not."""
        key = stream.suffix.lstrip("_")
        return next((name for name in (f"{key}_pooled", key) if entry.get(name) is not None), None)

    def _visual(self, entry: Mapping[str, Any], stream: VisualStream, where: str) -> Tensor:
        key, name = stream.suffix.lstrip("_"), self._key(entry, stream)
        if name is None:
            raise InputError(f"{where}: expected the array '{key}_pooled' or '{key}', found {sorted(map(str, entry))}")
        rows = _tensor(entry[name], name, where)
        if rows.ndim == 0 or rows.shape[-1] != stream.width or rows.ndim > 2 or rows.numel() == 0:
            expected = f"({stream.width},) or (rows, {stream.width})"
            raise InputError(f"{where}: expected '{name}' of shape {expected}, found {tuple(rows.shape)}")
        _refuse_non_finite(rows, name, where)
        return rows[None] if rows.ndim == 1 else rows.amax(dim=0, keepdim=True)

    def _audio(self, entry: Mapping[str, Any], where: str) -> Tensor | None:
        """Return the spectrogram, ``None`` where the clip has no sound."""
        found = entry.get("audio")
        if self.audio is None or found is None or _says_no(entry.get("has_audio", True)):
            return None
        frames = _tensor(found, "audio", where)
        if frames.ndim == 3 and len(frames) == 1:
            frames = frames[0]
        if frames.ndim != 2 or frames.shape[0] != self.audio.bands:
            raise InputError(
                f"{where}: expected 'audio' of shape ({self.audio.bands}, frames), found {tuple(frames.shape)}"
            )
        _refuse_non_finite(frames, "audio", where)
        return frames if frames.shape[1] else None


def _says_no(flag: Any) -> bool:
    return flag.strip().lower() in ("", "0", "false", "no") if isinstance(flag, str) else not np.asarray(flag).any()


def _split(entry: Mapping[str, Any], where: str) -> int:
    value = entry.get("training")
    try:
        number = int(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        number = -1
    if number not in (0, 1, 2):
        raise InputError(f"{where}: expected 'training' to be 1 (train), 0 (test) or 2 (neither), found {value!r}")
    return number


def _captions(entry: Mapping[str, Any], training: bool) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the captions of evaluation, those that training draws from, and how many are left out without text.

    Both are those under ``caption``, one or several, unless ``eval_caption`` names those of evaluation.
    """
    given, asked = _several(entry.get("caption")), _several(entry.get("eval_caption"))
    asking, learning = asked or given, given or asked
    texts, choices = (tuple(text for text in found if _is_text(text)) for found in (asking, learning))
    dropped = len(learning) - len(choices) if training else len(asking) - len(texts)
    return texts, choices, dropped if texts or choices else max(dropped, 1)


def _is_text(caption: Any) -> bool:
    return isinstance(caption, str) and bool(caption.strip())


def _several(found: Any) -> tuple[Any, ...]:
    """Return one caption, or several, as several; none where there is none."""
    if isinstance(found, list | tuple | np.ndarray):
        return tuple(np.atleast_1d(found).tolist() if isinstance(found, np.ndarray) else found)
    return (found,) if isinstance(found, str) and found else ()


def _tensor(value: Any, name: str, where: str) -> Tensor:
    if isinstance(value, Tensor):
        found = value.detach()
    elif isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.dtype.itemsize <= 8:
        found = torch.from_numpy(np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("=")))
    else:
        what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise InputError(f"{where}: expected '{name}' to be an array of floating-point numbers, found {what}")
    if not found.is_floating_point():
        raise InputError(f"{where}: expected '{name}' to hold floating-point numbers, found {found.dtype}")
    return found.contiguous()


def _refuse_non_finite(values: Tensor, name: str, where: str) -> None:
    wide = values.float() if values.dtype in (torch.bfloat16, torch.float64) else values  # 1e300 is no float32
    if wide.numel() and not all_finite(wide):
        bad = int((~wide.isfinite()).sum())
        raise InputError(f"{where}: expected finite numbers in '{name}', found {bad} NaN or infinite")


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


class PickledClips:
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
        self._texts = [caption for entry in entries for caption in _all_captions(entry)] if text else []
        self._bad: dict[int, str] = {}
        self._no_sound: dict[int, str] = {}
        self._several = merge
        self._keep([self._checked(entries, index, numbers) for index, numbers in enumerate(rows)])

    def _with_captions(self, entries: Sequence[Mapping[str, Any]], rows: list[list[int]]) -> list[list[int]]:
        """Leave out the clips that have no caption with text, and count their captions."""
        kept = []
        for own in rows:
            found = [_captions(entries[number], False) for number in own]
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
                    self._no_sound[index] = _why_silent(entry)
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

    def damage(self, index: int, error: Exception) -> str | None:
        """Return nothing: every clip is checked."""
        return None

    def dropped(self) -> Mapping[str, int]:
        """Return how many captions were dropped, by reason."""
        return +self._dropped

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


def _all_captions(entry: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for value in (entry.get("caption"), entry.get("eval_caption")):
        found.extend(text for text in _several(value) if isinstance(text, str))
    return found


def _why_silent(entry: Mapping[str, Any]) -> str:
    if entry.get("audio") is None:
        return "none"
    return "has_audio false" if _says_no(entry.get("has_audio", True)) else "an empty one"


class PickledClip:
    """One clip of a pickle, opened; see ``StoredVideo``.

    Args:
        record: what it holds.
        config: how spectrograms are cut; ``None`` for no audio.
        several: each of its captions is a query in evaluation; otherwise the first one is.
        allow_missing: what the clip lacks is not there, and not zeros.
        with_text: captions are read.
    """

    lengths: tuple[Length, ...] = ()  # a clip's own features, pooled
    timed = False  # its clip is all of it, and has no seconds

    def __init__(
        self,
        record: ClipRecord,
        config: AudioConfig | None,
        several: bool = False,
        allow_missing: bool = False,
        with_text: bool = True,
    ) -> None:
        self.with_text, self.several = with_text, several
        self.record = record
        self.config = config
        self.allow_missing = allow_missing

    @property
    def duration(self) -> float:
        """Infinite: nothing bounds the caption. Without a caption, that of the one window that stands for it."""
        return 1.0 if self.captions is None else float("inf")

    @property
    def captions(self) -> Captions | None:
        """One caption over the whole clip; of several, training draws one and evaluation asks with each."""
        texts = self.record.texts
        if self.allow_missing and self.with_text and not texts:
            return None
        choices = (self.record.choices,) if self.record.choices not in ((), texts[:1]) else None
        queries = (texts,) if self.several and len(texts) > 1 else None
        label = None if self.record.label is None else np.array([self.record.label])
        return Captions(np.zeros(1), np.ones(1), texts[:1] or ("",), label, choices, queries=queries)

    def faults(self) -> list[tuple[str, str | None]]:
        """Return the name of each stream, and what is wrong with its numbers; see ``StoredVideo``."""
        frames = None if self.record.audio is None else self.record.audio.T
        found = content_faults(self.record.streams, frames)
        return [(f" stream {number}", fault) for number, fault in enumerate(found)]

    def visual(self, clips: Sequence[Clip], new: NewTensor) -> Tensor | None:
        """Return the features of B times this clip, ``(B, C)``."""
        if not self.record.streams or (self.allow_missing and not self.record.seen):
            return None
        return join_streams([stream.expand(len(clips), -1) for stream in self.record.streams], new)

    def audio(self, spans: Sequence[tuple[float, float]], new: NewTensor) -> Sound | None:
        """Return the spectrogram, cut at ``num_frames``, for B times this clip; no frame of it where it is silent."""
        if self.config is None or (self.allow_missing and self.record.audio is None):
            return None
        frames = self.record.audio
        source = torch.empty(0, self.config.bands) if frames is None else frames.T
        size = min(len(source), self.config.num_frames)
        out = new("frames", (size, self.config.bands), source.dtype, room=self.config.num_frames)
        starts = torch.zeros(len(spans), dtype=torch.int64)
        return Sound(copy_runs(source, [(0, size)], out), starts, torch.full((len(spans),), size))
