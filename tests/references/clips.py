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


def grow_in_order(start, end, index, min_time):
    """Return what ``grow`` does with the span of the released code: first start to last end in the order of captions.

    Where captions are nested that span leaves out what an earlier one says later, and may even end before it starts.
    """
    first = last = index
    taken = [index]
    while end[last] - start[first] < min_time:
        before = end[last] - start[first - 1] if first > 0 else None
        after = end[last + 1] - start[first] if last + 1 < len(end) else None
        if before is None and after is None:
            break
        if after is None or (before is not None and before <= after):
            first -= 1
            taken.append(first)
        else:
            last += 1
            taken.append(last)
    return start[first], end[last], taken


def time(frames):
    """Return the seconds of a number of frames, ``(160 n + 200) / 16000``: the inverse of ``frame``."""
    return (160 * frames + 200) / 16000


def window_starts(columns, num_frames):
    """Return the whole seconds at which windows of the audio-only variant start."""
    video, window = int(time(columns)), int(time(num_frames))
    starts = [second for second in range(video) if second < video - (window + 1)]
    return starts or [0]


def window_spectrogram(frames, second, num_frames, pad_value=0.0):
    """Return ``num_frames`` columns of each band from a second on, padded on the right, and how many there were."""
    first = max(frame(second), 0)
    columns = [column for column in range(first, first + num_frames) if column < len(frames[0])]
    padding = [pad_value] * (num_frames - len(columns))
    return [[float(band[column]) for column in columns] + padding for band in frames], len(columns)


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
