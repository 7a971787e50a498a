"""One clip of a benchmark pickle: what its dict has to hold, and how it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.files.arrays import all_finite
from mcn_lightning.data.files.pickles import Record
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.class_names import class_text
from mcn_lightning.errors import InputError


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a benchmark pickle, checked.

    Args:
        id: its name.
        texts: the captions that evaluation asks for the clip with, or the words of the class; empty where text is not
            read.
        choices: captions from which training samples.
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
        training: captions without text are counted among those from which training samples, not those of evaluation.
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

    def record(self, entry: Record, number: int) -> ClipRecord:
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
            texts, choices, dropped = captions_of(entry, self.training)
        there = [not self.allow_missing or self._key(entry, stream) is not None for stream in self.streams]
        streams = tuple(
            self._visual(entry, stream, where) if found else torch.zeros(1, stream.width, dtype=torch.float16)
            for stream, found in zip(self.streams, there, strict=True)
        )
        audio = self._audio(entry, where)
        if self.allow_missing and not (any(there) or texts or audio is not None):
            raise InputError(f"{where}: expected features, a spectrogram or a caption, found none of them")
        return ClipRecord(name, texts, choices, streams, audio, label, split, any(there), dropped)

    def name(self, entry: Record, number: int) -> str:
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
    def _key(entry: Record, stream: VisualStream) -> str | None:
        """Return under which key a clip has a stream; ``None`` where it has it not."""
        key = stream.suffix.lstrip("_")
        return next((name for name in (f"{key}_pooled", key) if entry.get(name) is not None), None)

    def _visual(self, entry: Record, stream: VisualStream, where: str) -> Tensor:
        key, name = stream.suffix.lstrip("_"), self._key(entry, stream)
        if name is None:
            raise InputError(f"{where}: expected the array '{key}_pooled' or '{key}', found {sorted(map(str, entry))}")
        rows = _tensor(entry[name], name, where)
        if rows.ndim == 0 or rows.shape[-1] != stream.width or rows.ndim > 2 or rows.numel() == 0:
            expected = f"({stream.width},) or (rows, {stream.width})"
            raise InputError(f"{where}: expected '{name}' of shape {expected}, found {tuple(rows.shape)}")
        _refuse_non_finite(rows, name, where)
        return rows[None] if rows.ndim == 1 else rows.amax(dim=0, keepdim=True)

    def _audio(self, entry: Record, where: str) -> Tensor | None:
        """Return the spectrogram, ``None`` where the clip has no sound."""
        found = entry.get("audio")
        if self.audio is None or found is None or _is_false(entry.get("has_audio", True)):
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


def _is_false(flag: object) -> bool:
    return flag.strip().lower() in ("", "0", "false", "no") if isinstance(flag, str) else not np.asarray(flag).any()


def _split(entry: Record, where: str) -> int:
    value = entry.get("training")
    try:
        number = int(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        number = -1
    if number not in (0, 1, 2):
        raise InputError(f"{where}: expected 'training' to be 1 (train), 0 (test) or 2 (neither), found {value!r}")
    return number


def captions_of(entry: Record, training: bool) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the captions of evaluation, those from which training samples, and how many are left out without text.

    Both are those under ``caption``, one or several, unless ``eval_caption`` names those of evaluation.
    """
    given, asked = _several(entry.get("caption")), _several(entry.get("eval_caption"))
    asking, learning = asked or given, given or asked
    texts, choices = (tuple(text for text in found if _is_text(text)) for found in (asking, learning))
    dropped = len(learning) - len(choices) if training else len(asking) - len(texts)
    return texts, choices, dropped if texts or choices else max(dropped, 1)


def _is_text(caption: object) -> bool:
    return isinstance(caption, str) and bool(caption.strip())


def _several(found: object) -> tuple[Any, ...]:
    """Return one caption, or several, as several; none where there is none."""
    if isinstance(found, list | tuple | np.ndarray):
        return tuple(np.atleast_1d(found).tolist() if isinstance(found, np.ndarray) else found)
    return (found,) if isinstance(found, str) and found else ()


def _tensor(value: object, name: str, where: str) -> Tensor:
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


def all_captions(entry: Record) -> list[str]:
    """Return every caption of a clip, those of training and those of evaluation."""
    found: list[str] = []
    for value in (entry.get("caption"), entry.get("eval_caption")):
        found.extend(text for text in _several(value) if isinstance(text, str))
    return found


def why_silent(entry: Record) -> str:
    """Return in words what a clip without sound has in its place."""
    if entry.get("audio") is None:
        return "none"
    return "has_audio false" if _is_false(entry.get("has_audio", True)) else "an empty one"
