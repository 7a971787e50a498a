"""Slow references of extraction: frames picked time after time, the log-mel by sums of sines in float64."""

from __future__ import annotations

import math
from itertools import pairwise


def picked(shown, end, rate):
    """Return the index of the frame for each row: the last one before (k + 0.5) / rate, else the first one.

    Args:
        shown: seconds from which on each frame is shown, in order.
        end: seconds at which the last frame ends. There are as many rows as have their time until then, at least one.
        rate: rows a second.
    """
    rows, row = [], 0
    while (row + 0.5) / rate <= end or not rows:
        chosen = 0
        for index, time in enumerate(shown):
            if time < (row + 0.5) / rate - 1e-9:
                chosen = index
        rows.append(chosen)
        row += 1
    return rows


def log_mel(samples, rows=None):
    """Return METHOD.md's log-mel, ``frames x 40`` in dB, by the definition of the Fourier transform.

    Args:
        samples: numbers at 16 kHz, more than 200 of them.
        rows: of the frames to return; all if ``None``. The maximum is that of all frames in any case.
    """
    mean = math.fsum(samples) / len(samples)
    centred = [x - mean for x in samples]
    raised = [centred[0]] + [b - 0.97 * a for a, b in pairwise(centred)]
    padded = raised[200:0:-1] + raised + raised[-2:-202:-1]
    window = [0.54 - 0.46 * math.cos(2 * math.pi * n / 399) for n in range(400)]
    cosine = [math.cos(2 * math.pi * n / 400) for n in range(400)]
    sine = [math.sin(2 * math.pi * n / 400) for n in range(400)]
    bands = [mel_band(band, 40) for band in range(40)]
    powers = []
    for frame in range(1 + len(samples) // 160):
        piece = [x * w for x, w in zip(padded[160 * frame : 160 * frame + 400], window, strict=True)]
        spectrum = []
        for k in range(201):
            real = sum(x * cosine[k * n % 400] for n, x in enumerate(piece))
            imaginary = sum(x * sine[k * n % 400] for n, x in enumerate(piece))
            spectrum.append(real * real + imaginary * imaginary)
        powers.append([sum(weight * spectrum[k] for k, weight in band) for band in bands])
    top = max(1e-10, max(max(frame) for frame in powers))
    decibels = [[max(-80.0, 10 * math.log10(max(1e-10, power) / top)) for power in frame] for frame in powers]
    return decibels if rows is None else [decibels[row] for row in rows]


def hertz(mel):
    """Return the frequency of a mel of Slaney's scale: 200/3 Hz each below 1 kHz, 27 for a factor of 6.4 above."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def mel(frequency):
    """Return the mel of a frequency: the inverse of ``hertz``."""
    return frequency * 3 / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000, 6.4)


def mel_band(band, bands):
    """Return the (bin, weight) of a triangle between 20 Hz and 8 kHz, whose area is one."""
    low, high = mel(20), mel(8000)
    left, middle, right = (hertz(low + (high - low) * (band + corner) / (bands + 1)) for corner in range(3))
    weights = []
    for k in range(201):
        frequency = 40 * k
        if left < frequency < right:
            slope = (
                (frequency - left) / (middle - left) if frequency <= middle else (right - frequency) / (right - middle)
            )
            weights.append((k, slope * 2 / (right - left)))
    return weights
