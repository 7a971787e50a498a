"""Slow references of METHOD.md, section 1: plain loops over Python numbers in float64, one clip at a time."""

from __future__ import annotations

import math


def grow(start, end, index, min_time):
    """Return (start, end, captions in the order of their words) of a caption grown to ``min_time`` seconds."""
    taken = [index]
    while True:
        span = (min(start[i] for i in taken), max(end[i] for i in taken))
        if span[1] - span[0] >= min_time:
            return (*span, taken)
        before, after = min(taken) - 1, max(taken) + 1
        lengths = {}
        for neighbour in (before, after):
            if neighbour in range(len(start)):
                every = [*taken, neighbour]
                lengths[neighbour] = max(end[i] for i in every) - min(start[i] for i in every)
        if not lengths:
            return (*span, taken)
        if before in lengths and after in lengths:
            taken.append(before if lengths[before] <= lengths[after] else after)
        else:
            taken.append(next(iter(lengths)))


def pool(rows, start, end, rate):
    """Return the L2-normalised maximum over the rows of a clip; zeros where there is none."""
    width = len(rows[0])
    used = [rows[i] for i in range(int(start * rate), int(end * rate) + 1) if i < len(rows)]
    if not used:
        return [0.0] * width
    highest = [max(float(row[column]) for row in used) for column in range(width)]
    length = math.sqrt(sum(value * value for value in highest))
    return [value / length if length else 0.0 for value in highest]


def frame(seconds):
    """Return ``f(t) = floor((int(t*16000) - 200) / 160)``."""
    return math.floor((int(seconds * 16000) - 200) / 160)


def spectrogram(frames, start, end, num_frames, pad_value=0.0):
    """Return the columns ``f(start):f(end)`` of each band, cut or padded on the right, and their number."""
    first, stop = max(frame(start), 0), max(frame(end), 0)
    columns = [column for column in range(len(frames[0])) if first <= column < stop][:num_frames]
    padding = [pad_value] * (num_frames - len(columns))
    return [[float(band[column]) for column in columns] + padding for band in frames], len(columns)


def words(text):
    r"""Return the words by ``[\w']+``, found letter by letter."""
    found, word = [], ""
    for letter in text + " ":
        if letter.isalnum() or letter in "_'":
            word += letter
        elif word:
            found.append(word)
            word = ""
    return found
