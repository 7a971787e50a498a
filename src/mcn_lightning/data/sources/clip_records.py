"""One clip of a benchmark pickle: the required contents of its dict, and their checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.files.arrays import Shape, as_float_tensor, check_finite, check_shape
from mcn_lightning.data.files.pickles import Record
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.sources.class_names import class_text
from mcn_lightning.errors import InputError


@dataclass(frozen=True)
class ClipFields:
    """The fields of a clip that are read.

    Args:
        streams: visual streams. The key of a stream is its suffix without the underscore (``2d``, ``3d``). The array
            under ``<key>_pooled`` is preferred. An array over time is pooled by its maximum. Empty for no video.
        audio: how spectrograms are stored and cut, or ``None`` for no audio.
        text: whether captions are read.
        allow_missing: whether a clip may lack sound, captions or visual streams.
    """

    streams: Sequence[VisualStream] = ()
    audio: AudioConfig | None = None
    text: bool = True
    allow_missing: bool = False


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a benchmark pickle, checked.

    Args:
        id: its name.
        texts: queries of the clip in evaluation: captions, or the words of the class. Empty if text is not read.
        choices: captions from which training samples.
        streams: pooled feature of each visual stream, ``(1, width)``, zeros for a missing stream. Empty if video is not
            read.
        audio: spectrogram ``(M, frames)``, or ``None`` if audio is not read or the clip has no sound.
        label: class of the clip, if the pickle has classes.
        split: of a pickle with classes: 1 for training, 0 for test, 2 for neither.
        seen: whether the clip has a visual stream.
        dropped: number of captions without text, which are left out.
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
    """Checks the clips of one pickle and reads the requested fields.

    Args:
        path: the pickle.
        fields: what is read.
        classes: name of each class in the order of the labels, or ``None`` for a pickle without classes.
        training: whether captions without text are counted for training or for evaluation.
    """

    def __init__(
        self, path: Path, fields: ClipFields, classes: Sequence[str] | None = None, training: bool = True
    ) -> None:
        self.path, self.fields, self.training = path, fields, training
        self.labels = None if classes is None else {name: number for number, name in enumerate(classes)}

    def record(self, entry: Record, number: int) -> ClipRecord:
        """Check one clip.

        Args:
            entry: its dict.
            number: its index in the list, which names a clip without an id.

        Raises:
            InputError: if a field is missing or cannot be used.
        """
        name, fields = self.name(entry, number), self.fields
        where = f"{self.path}: clip {name}"
        label, split, dropped = None, 0, 0
        texts, choices = tuple[str, ...](), tuple[str, ...]()
        if self.labels is not None:
            class_name = str(entry["class"])
            label, split, texts = self.labels[class_name], _split(entry, where), (class_text(class_name),)
        elif fields.text:
            texts, choices, dropped = captions_of(entry, self.training)
        present = [not fields.allow_missing or self._key(entry, stream) is not None for stream in fields.streams]
        streams = tuple(
            self._visual(entry, stream, where) if found else torch.zeros(1, stream.width, dtype=torch.float16)
            for stream, found in zip(fields.streams, present, strict=True)
        )
        audio = self._audio(entry, where)
        if fields.allow_missing and not (any(present) or texts or audio is not None):
            raise InputError(f"{where}: expected features, a spectrogram or a caption, found none of them")
        return ClipRecord(name, texts, choices, streams, audio, label, split, any(present), dropped)

    def name(self, entry: Record, number: int) -> str:
        """Return the name of a clip, or its number if the file gives no name.

        Raises:
            InputError: if it is neither text nor a number.
        """
        key = "id" if self.labels is None else "video"
        value = entry.get(key, number)
        if not isinstance(value, str | int | np.integer) or value == "":
            raise InputError(f"{self.path}: clip number {number}: expected a name under '{key}', found {value!r}")
        return str(value)

    @staticmethod
    def _key(entry: Record, stream: VisualStream) -> str | None:
        """Return the key of a stream in the dict of a clip, or ``None`` if the clip lacks the stream."""
        key = stream.suffix.lstrip("_")
        # the pooled vector first: MSR-VTT's file has both
        return next((name for name in (f"{key}_pooled", key) if entry.get(name) is not None), None)

    def _visual(self, entry: Record, stream: VisualStream, where: str) -> Tensor:
        key, name = stream.suffix.lstrip("_"), self._key(entry, stream)
        if name is None:
            raise InputError(f"{where}: expected the array '{key}_pooled' or '{key}', found {sorted(map(str, entry))}")
        rows = _tensor(entry[name], name, where)
        shape: Shape = (stream.width,) if rows.ndim == 1 else ("rows", stream.width)
        check_shape(rows, shape, f"{where}: expected '{name}'")
        _check_finite(rows, name, where)
        return rows[None] if rows.ndim == 1 else rows.amax(dim=0, keepdim=True)

    def _audio(self, entry: Record, where: str) -> Tensor | None:
        """Return the spectrogram, or ``None`` if the clip has no sound."""
        value, config = entry.get("audio"), self.fields.audio
        # UCF101 and HMDB51 tell by has_audio whether a clip has sound
        if config is None or value is None or _is_false(entry.get("has_audio", True)):
            return None
        frames = _tensor(value, "audio", where)
        if frames.ndim == 3 and len(frames) == 1:  # one channel
            frames = frames[0]
        check_shape(frames, (config.bands, "frames"), f"{where}: expected 'audio'", empty=True)
        _check_finite(frames, "audio", where)
        # no frame is no sound
        return frames if frames.shape[1] else None


def _is_false(flag: object) -> bool:
    return flag.strip().lower() in ("", "0", "false", "no") if isinstance(flag, str) else not np.asarray(flag).any()


def _split(entry: Record, where: str) -> int:
    value = entry.get("training")
    try:
        # a number, a NumPy number, or an array of one
        number = int(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        number = -1
    if number not in (0, 1, 2):
        raise InputError(f"{where}: expected 'training' to be 1 (train), 0 (test) or 2 (neither), found {value!r}")
    return number


def captions_of(entry: Record, training: bool) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the captions of evaluation, the captions of training, and the number left out without text.

    Both come from ``caption``, which holds one or several. ``eval_caption`` replaces those of evaluation.
    """
    caption, eval_caption = _as_tuple(entry.get("caption")), _as_tuple(entry.get("eval_caption"))
    # a pickle with one kind of captions serves both
    evaluated, trained = eval_caption or caption, caption or eval_caption
    texts, choices = _with_text(evaluated), _with_text(trained)
    dropped = len(trained) - len(choices) if training else len(evaluated) - len(texts)
    return texts, choices, dropped if texts or choices else max(dropped, 1)


def _with_text(captions: Sequence[object]) -> tuple[str, ...]:
    return tuple(caption for caption in captions if isinstance(caption, str) and caption.strip())


def _as_tuple(value: object) -> tuple[object, ...]:
    """Return one caption or several as a tuple."""
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(np.atleast_1d(value).tolist() if isinstance(value, np.ndarray) else value)
    return (value,) if isinstance(value, str) and value else ()


def _tensor(value: object, name: str, where: str) -> Tensor:
    expected = f"{where}: expected '{name}' to be an array of floating-point numbers"
    return as_float_tensor(value, expected).contiguous()


def _check_finite(values: Tensor, name: str, where: str) -> None:
    # all_finite needs a type that NumPy has, and 1e300 overflows in the float32 of the network
    wide = values.float() if values.dtype in (torch.bfloat16, torch.float64) else values
    check_finite(wide, f"{where}: expected finite numbers in '{name}'")


def all_captions(entry: Record) -> list[str]:
    """Return every caption of a clip, those of training and those of evaluation."""
    values = (*_as_tuple(entry.get("caption")), *_as_tuple(entry.get("eval_caption")))
    return [text for text in values if isinstance(text, str)]


def why_silent(entry: Record) -> str:
    """Return what a clip without sound has in place of a spectrogram, for messages."""
    if entry.get("audio") is None:
        return "none"
    return "has_audio false" if _is_false(entry.get("has_audio", True)) else "an empty one"
