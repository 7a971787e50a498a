"""Which seconds of a video make a clip: captions that grow until they are long enough, or windows at whole seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveInt


@dataclass(frozen=True)
class ClipConfig(Options, option="--data.clips"):
    """How the clips of a video are chosen.

    Args:
        kind: "captions" takes the seconds of captions; "windows" takes windows at whole seconds and needs no captions.
        n_pair: clips sampled from one video in a training step.
        min_time: seconds that a caption grows to by taking in its neighbours, or the length of a window.
        eval_min_time: the same for captions in evaluation, where two captions that grow into one another would be one
            clip under two ids; 0 takes each caption as it is.
        replacement: sample uniformly with replacement; False samples every caption once before any repeats.
        span: "widest" lets a grown caption last from the earliest start to the latest end of those taken in;
            "first_to_last" from the start of the first to the end of the last one in their order, as the released code
            does. They differ where a caption ends after the next one (nested captions).
        overrun: seconds by which the last caption may end after the longest stream of features, and by which streams
            may differ in length. Before training, rates and units are refused that make nearly all videos differ alike.
    """

    kind: Literal["captions", "windows"] = "captions"
    n_pair: PositiveInt = 32
    min_time: NonNegativeFloat = 10.0
    eval_min_time: NonNegativeFloat = 0.0
    replacement: bool = True
    span: Literal["widest", "first_to_last"] = "widest"
    overrun: NonNegativeFloat = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "windows" and self.min_time < 1:  # windows start at whole seconds and would leave gaps
            raise InputError(f"--data.clips.min_time: expected at least 1 second for windows, found {self.min_time}")


class Clip(NamedTuple):
    """The seconds of one clip.

    Attributes:
        number: the sampled caption, or the second at which the window starts; it names the clip in its video.
        start: in seconds.
        end: in seconds.
        order: captions whose words the clip has, in the order of the words; empty for a window.
        query: which of the texts that ask for the caption's clip in evaluation it has, from 0.
    """

    number: int
    start: float
    end: float
    order: tuple[int, ...] = ()
    query: int = 0

    def name(self, video: str) -> str:
        """Return its name among the clips of all videos, with the number of its text, from 2, behind it."""
        return f"{video}:{self.number}" + (f"#{self.query + 1}" if self.query else "")


class Merged(NamedTuple):
    """A caption grown over its neighbours: captions ``first`` to ``last``, seconds, and the order of the words."""

    first: int
    last: int
    start: float
    end: float
    order: tuple[int, ...]


def merge(start: Sequence[float], end: Sequence[float], index: int, min_time: float, widest: bool = True) -> Merged:
    """Grow a caption over its neighbours until it lasts long enough.

    Of the previous and the next caption, the one that keeps the merged span shorter is added (the previous one on a
    tie); its words follow the words so far. At an end of the video only the other side is left, and with no neighbour
    left the clip stays short. Captions may overlap or be out of order.

    Args:
        start: start of each caption in seconds.
        end: end of each caption in seconds.
        index: the caption to grow.
        min_time: seconds to reach.
        widest: the span of a merger is from the earliest start to the latest end; else, as in the released code, from
            the start of the first to the end of the last caption. With nested captions that may leave out some of the
            words' seconds, or end before it starts, which is a clip without features.

    Returns:
        The first and last caption taken in, the span in seconds, and the captions in the order of their words.
    """
    first = last = index
    begin, stop = start[index], end[index]
    order = [index]
    while stop - begin < min_time:
        spans = []
        for neighbour in (first - 1, last + 1):
            if not 0 <= neighbour < len(start):
                continue
            if widest:
                spans.append((min(begin, start[neighbour]), max(stop, end[neighbour]), neighbour))
            elif neighbour < first:
                spans.append((start[neighbour], stop, neighbour))
            else:
                spans.append((begin, end[neighbour], neighbour))
        if not spans:
            break
        begin, stop, added = min(spans, key=lambda span: span[1] - span[0])  # the first of equals: the previous one
        first, last = min(first, added), max(last, added)
        order.append(added)
    return Merged(first, last, begin, stop, tuple(order))


def caption_clip(
    start: Sequence[float], end: Sequence[float], index: int, min_time: float, widest: bool = True
) -> Clip:
    """Return the clip of one caption, grown to ``min_time`` seconds; see ``merge``."""
    merged = merge(start, end, index, min_time, widest)
    return Clip(index, merged.start, merged.end, merged.order)


def sample_indices(rng: np.random.Generator, count: int, n_pair: int, replacement: bool) -> list[int]:
    """Sample ``n_pair`` of ``count`` indices, with replacement or in shuffled rounds that contain each once."""
    if replacement:
        return rng.integers(0, count, n_pair).tolist()
    rounds = [rng.permutation(count) for _ in range(-(-n_pair // count))]
    return np.concatenate(rounds)[:n_pair].tolist()


def sample_clips(
    rng: np.random.Generator, count: int, clips_of: Callable[[set[int]], Mapping[int, Clip]], config: ClipConfig
) -> list[Clip]:
    """Sample the training clips of a video from its captions.

    Args:
        rng: source of random numbers.
        count: captions of the video.
        clips_of: gives the clips of captions by their numbers.
        config: number of clips, and how they are sampled.

    Returns:
        ``n_pair`` clips.
    """
    # each distinct caption is grown once, however often it was sampled
    sampled = sample_indices(rng, count, config.n_pair, config.replacement)
    made = clips_of(set(sampled))
    return [made[index] for index in sampled]


def sample_windows(rng: np.random.Generator, duration: float, starts: int, config: ClipConfig) -> list[Clip]:
    """Sample ``n_pair`` windows of ``min_time`` seconds that start at whole seconds.

    Args:
        rng: source of random numbers.
        duration: of the video in seconds, where windows end at the latest.
        starts: how many seconds there are to start at, from 0; see ``count_starts``.
        config: how many windows, and how long they are.
    """
    sampled = sample_indices(rng, starts, config.n_pair, config.replacement)
    # the last window may end with the video, as count_starts leaves room by whole seconds only
    return [Clip(second, float(second), min(second + config.min_time, duration)) for second in sampled]


def count_starts(duration: float, min_time: float, sound: float | None = None, heard: float = 0.0) -> int:
    """Return at how many whole seconds, from 0, a window may start.

    Without sound these are all from which a whole window fits. With sound the released code, which is followed, leaves
    out two more: a window of 10 s starts at ``int(duration) - 12`` at the latest.

    Args:
        duration: of the video in seconds.
        min_time: of a window in seconds.
        sound: length of the spectrogram in seconds; ``None`` where none is read.
        heard: seconds of sound that a window reads.
    """
    if sound is None:
        return max(int(duration - min_time), 0) + 1
    # at least one start, so that a short video has a window
    return max(1, int(sound) - (max(math.ceil(min_time), int(heard)) + 1))


def all_windows(duration: float, min_time: float) -> list[Clip]:
    """Return consecutive windows that cover a video from its start, at whole seconds; the last one may be shorter.

    Args:
        duration: of the video in seconds.
        min_time: length of a window in seconds; the next one starts at the whole second at or before its end.
    """
    # 1e-9: a video of length 0 still has one window; the step is whole, as are the names of windows
    starts = np.arange(0, max(duration, 1e-9), max(int(min_time), 1)).astype(int).tolist()
    return [Clip(second, float(second), min(second + min_time, duration)) for second in starts]
