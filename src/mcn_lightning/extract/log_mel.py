"""The log-mel spectrogram of the release, of sound of any length in bounded memory.

16 kHz, mean subtracted, pre-emphasis 0.97, STFT of 400 samples with a symmetric Hamming window every 160, centred with
reflection at the ends, power, 40 Slaney mel bands from 20 Hz to 8 kHz, dB relative to the maximum, floor at -80 dB.
These are the defaults of librosa at the time of the release (Rouditchenko et al. 2021); today's pads with zeros.
"""

from __future__ import annotations

import tempfile
from typing import IO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.data.files.spectrograms import HOP, N_FFT, SAMPLE_RATE

BANDS = 40
MIN_FREQUENCY = 20.0
PRE_EMPHASIS = 0.97
FLOOR = -80.0
SMALLEST_POWER = 1e-10  # librosa's `amin`
BLOCK = 2_000  # frames computed at once: 20 seconds


class LogMel:
    """Takes sound in pieces and gives its spectrogram at the end.

    The mean and the maximum are those of the whole sound. So the samples wait in a temporary file (in the folder that
    TMPDIR names; 230 MB an hour), and the powers after them. In memory there are 29 MB an hour: the result.
    Float64, so that what is stored does not depend on how the work is cut into blocks.

    Args:
        bands: mel bands.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, bands: int = BANDS) -> None:
        self.filters = mel_filters(bands)
        # symmetric, as the release's `scipy.signal.hamming`
        self.window = torch.hamming_window(N_FFT, periodic=False, dtype=torch.float64)
        self._count, self._sum = 0, 0.0
        self._samples: IO[bytes] = tempfile.TemporaryFile()

    def take(self, samples: np.ndarray) -> None:
        """Take the next samples ``(n,)`` float32."""
        self._count += len(samples)
        self._sum += float(samples.sum(dtype=np.float64))
        self._samples.write(np.ascontiguousarray(samples, dtype=np.float32).data)

    def spectrogram(self) -> Tensor | None:
        """Return ``(bands, 1 + n // 160)`` float16 in dB, at most 0; ``None`` without a sample. Takes no more sound."""
        with self._samples, tempfile.TemporaryFile() as powers:
            if self._count == 0:
                return None
            frames, top = 1 + self._count // HOP, 0.0
            for begin in range(0, frames, BLOCK):
                power = self._block(begin, min(begin + BLOCK, frames))
                top = max(top, float(power.max()))
                # float32 halves the file, and the result is float16
                powers.write(power.float().numpy().data)
            powers.seek(0)
            found = torch.empty(len(self.filters), frames, dtype=torch.float16)
            for begin in range(0, frames, BLOCK):
                wide = min(BLOCK, frames - begin)
                read = bytearray(powers.read(4 * len(self.filters) * wide))
                power = torch.frombuffer(read, dtype=torch.float32).view(-1, wide)
                found[:, begin : begin + wide] = to_decibels(power, top)
        return found

    def _block(self, begin: int, end: int) -> Tensor:
        """Return the mel power of frames ``begin`` to ``end``: ``(bands, end - begin)``."""
        first, last = begin * HOP - N_FFT // 2, (end - 1) * HOP + N_FFT // 2
        before, after = max(-first, 0), max(last - self._count, 0)
        # one sample more at each side: the mirror image leaves out the sample at which it stands
        low, high = max(first - 1, 0), min(last + 1, self._count)
        # reflected at the ends of the whole sound only, as `center=True` does
        sound = _reflect(self._read(low, high), before, after)
        sound = sound[max(first, 0) - low :][: last - first]
        spectrum = torch.stft(sound, N_FFT, HOP, window=self.window, center=False, return_complex=True)
        return self.filters @ spectrum.abs().square()

    def _read(self, begin: int, end: int) -> Tensor:
        """Return samples with the mean subtracted and high frequencies raised."""
        start = max(begin - 1, 0)  # pre-emphasis needs the sample before
        self._samples.seek(4 * start)
        found = np.frombuffer(self._samples.read(4 * (end - start)), dtype=np.float32)
        sound = torch.from_numpy(found.copy()).double() - self._sum / self._count
        raised = sound.clone()
        raised[1:] -= PRE_EMPHASIS * sound[:-1]
        return raised[begin - start :]


def _reflect(sound: Tensor, before: int, after: int) -> Tensor:
    """Continue the sound as its mirror image; sound that is shorter than the mirror is mirrored again and again."""
    while before or after:
        most = len(sound) - 1
        if most == 0:  # a single sample
            return F.pad(sound[None], (before, after), mode="replicate")[0]
        left, right = min(before, most), min(after, most)
        sound = F.pad(sound[None], (left, right), mode="reflect")[0]
        before, after = before - left, after - right
    return sound


def to_decibels(power: Tensor, top: float) -> Tensor:
    """Return power in dB relative to its maximum, at least -80.

    Args:
        power: of any shape, changed in place.
        top: the maximum of the whole sound.
    """
    # relative to the maximum of the whole sound, as librosa's power_to_db(ref=max)
    return power.clamp_(min=SMALLEST_POWER).div_(max(top, SMALLEST_POWER)).log10_().mul_(10).clamp_(min=FLOOR)


def mel_filters(bands: int) -> Tensor:
    """Return the weights of the mel bands ``(bands, 201)`` float64: Slaney's scale, triangles of equal area.

    Args:
        bands: number of bands between 20 Hz and 8 kHz.
    """
    edges = _hertz(np.linspace(_mel(MIN_FREQUENCY), _mel(SAMPLE_RATE / 2), bands + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None])


_LINEAR = 200 / 3  # Hz a mel below 1 kHz; above, 27 mels for each factor of 6.4
_CORNER = 1000 / _LINEAR
_STEP = np.log(6.4) / 27


def _mel(frequency: float) -> float:
    return frequency / _LINEAR if frequency < 1000 else float(_CORNER + np.log(frequency / 1000) / _STEP)


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < _CORNER, mels * _LINEAR, 1000 * np.exp(_STEP * (mels - _CORNER)))
