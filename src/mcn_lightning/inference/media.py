"""From a sound, picture or video file to the features that a data set would hold of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.files.spectrograms import SAMPLE_RATE
from mcn_lightning.errors import InputError, need_package
from mcn_lightning.extract.encoders.kinds import make_encoder
from mcn_lightning.extract.features import FeatureStream
from mcn_lightning.extract.log_mel import LogMel
from mcn_lightning.extract.options import EncodedStream
from mcn_lightning.extract.pool import DecodingPool, Failed, Pictures, StreamShape
from mcn_lightning.options.config import as_config

PICTURES = 16
"""Pictures in a batch of an encoder, as in ``lightning extract``."""


@dataclass(frozen=True)
class Media:
    """What was read of a file.

    Args:
        rows: rows of each visual stream within the span, ``(rows, width)`` float16.
        spectrogram: of the whole sound, ``(bands, T)`` in dB; ``None`` without sound.
        seconds: length of the longer of picture and sound.
    """

    rows: list[Tensor]
    spectrogram: Tensor | None
    seconds: float


class MediaEncoders:
    """The encoders of the visual streams of a data set, loaded once.

    Args:
        recipe: options of each stream, as ``lightning extract`` keeps them.
        device: of the encoders.
    """

    def __init__(self, recipe: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        self.streams: list[FeatureStream] = []
        self.shapes: list[StreamShape] = []
        for given in recipe:
            options = as_config(EncodedStream, given, "streams")
            encoder = make_encoder(
                options.encoder,
                options.weights,
                rate=options.rate,
                normalize=options.normalize,
                arguments=options.arguments,
            )
            # as lightning extract chooses it
            rate = encoder.frame_rate or options.rate or 1.0
            self.shapes.append(StreamShape(encoder.size, rate, encoder.frames))
            half = device.type == "cuda"
            self.streams.append(FeatureStream(encoder.to(device), PICTURES, half))

    def rates(self) -> list[float]:
        """Return the rows a second of each stream."""
        return [shape.frame_rate / shape.frames for shape in self.shapes]


def read_media(
    path: Path, encoders: MediaEncoders | None, bands: int | None, span: tuple[float, float | None] = (0.0, None)
) -> Media:
    """Read a file in a process of its own, which may die on a damaged one.

    Args:
        path: of a video, picture or sound file.
        encoders: of the visual streams; ``None`` to read no picture.
        bands: mel bands of the spectrogram; ``None`` to read no sound.
        span: start and end in seconds of the pictures that are encoded; no end for the whole file.

    Raises:
        InputError: if PyAV is missing, or the file cannot be read.
    """
    need_package("av", str(path), "pip install 'mcn-lightning[extract]'", "av to read it")
    if not path.is_file():
        raise InputError(f"{path}: expected a file, found none; check the path")
    shapes = [] if encoders is None else encoders.shapes
    places = [0] * len(shapes)
    with closing(DecodingPool(shapes, bands, 1)) as pool:
        for message in pool.messages(iter([(0, path)])):
            if isinstance(message, Failed):
                raise InputError(_refusal(message.reason, sound_alone=encoders is None))
            if not isinstance(message, Pictures):
                decoded = message
            elif encoders is not None:
                number, pictures = message.stream, message.pictures
                first, last = rows_of(span, encoders.rates()[number])
                begin = places[number]
                places[number] += len(pictures)
                kept = pictures[max(first - begin, 0) : None if last is None else max(last - begin, 0)]
                if len(kept):
                    encoders.streams[number].add(0, kept)
    rows = []
    for stream in () if encoders is None else encoders.streams:
        stream.flush()
        rows.append(torch.from_numpy(stream.pop(0)))
    found = decoded.spectrogram
    seconds = max(decoded.outcome.picture, decoded.outcome.sound)
    return Media(rows, None if found is None else torch.from_numpy(found), seconds)


def _refusal(reason: str, sound_alone: bool) -> str:
    """Return why a file was refused, in the words of a query."""
    if not sound_alone:
        return reason.replace("no picture and no sound that", "no picture that")
    reason = reason.replace("expected a video", "expected sound", 1)
    return reason.replace("no picture and no sound that can be read", "none that can be read")


def rows_of(span: tuple[float, float | None], rate: float) -> tuple[int, int | None]:
    """Return the first row of a span and the one after its last, as clips of a data set have them."""
    start, end = span
    return int(start * rate), None if end is None else int(end * rate) + 1


def spectrogram_of(samples: np.ndarray | Tensor, rate: float, bands: int) -> Tensor:
    """Return the spectrogram of samples, ``(bands, T)`` float16 in dB; see ``LogMel``.

    Args:
        samples: ``(n,)`` or ``(channels, n)``, floating point or integers.
        rate: samples a second.
        bands: mel bands.

    Raises:
        InputError: if there is no sample, or one is not finite.
    """
    array = np.asarray(samples)
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(f"expected samples (n,) or (channels, n), found the shape {array.shape}")
    sound = array.astype(np.float64)
    sound = sound if sound.ndim == 1 else sound.mean(axis=0)
    if not np.isfinite(sound).all():
        raise InputError("expected finite samples, found NaN or infinity")
    if rate != SAMPLE_RATE:
        from fractions import Fraction

        from scipy.signal import resample_poly  # imported here, as it takes long and few need it

        # resample_poly takes a ratio of whole numbers; 1000 is enough for all usual rates
        ratio = Fraction(SAMPLE_RATE / rate).limit_denominator(1000)
        sound = resample_poly(sound, ratio.numerator, ratio.denominator)
    mel = LogMel(bands)
    mel.take(sound.astype(np.float32))
    found = mel.spectrogram()
    assert found is not None  # there is a sample
    return found
