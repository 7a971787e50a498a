"""Do the parts of a video fit together? Durations of streams, spectrogram and captions, and what features look like.

Functions of numbers and tensors alone. A video whose parts do not fit is one bad video; parts that differ by the same
factor in nearly all videos are a wrong option or a wrong unit, which ``find_wrong_rate`` tells with the likely value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

SHARE = 0.8
"""Share of the videos in which parts must differ alike for a wrong option and not for some bad videos."""
ODD = 1.5
"""Factor, beyond the seconds allowed, by which the streams of a single video may differ."""
_USUAL = (
    *(0.25, 1 / 3, 0.5, 2 / 3, 0.75, 1.0, 1.25, 4 / 3, 1.5, 1.5625, 1.875),
    *(2.0, 2.5, 3.0, 3.125, 4.0, 5.0, 6.0, 7.5, 8.0),
    *(10.0, 12.0, 12.5, 15.0, 16.0, 20.0, 24.0, 25.0, 30.0, 31.25, 40.0, 43.066, 50.0, 60.0, 62.5, 80.0, 86.133),
    *(100.0, 125.0, 160.0, 172.27, 200.0),
)
"""Rows or frames a second that are in use: strides of 24, 25 and 30 pictures a second, hops of 8, 16 and 22 kHz."""


@dataclass(frozen=True)
class Length:
    """How long a stream of features lasts.

    Args:
        name: of the stream, the same in all videos: its suffix.
        where: the file, or video and stream, for messages.
        count: rows or frames.
        rate: rows or frames a second, as the options say.
        option: the option that holds the rate; empty for the spectrogram, which has 100 frames a second.
    """

    name: str
    where: str
    count: int
    rate: float
    option: str = ""

    @property
    def seconds(self) -> float:
        """Seconds that it lasts."""
        return self.count / self.rate

    @property
    def unit(self) -> str:
        """What is counted."""
        return "rows" if self.option else "frames"

    def advice(self, rate: float) -> str:
        """Return what to do where it really has ``rate`` rows or frames a second."""
        looks = f"it looks like {rate:.6g} {self.unit} a second and not {self.rate:g}"
        if self.option:
            return f"{looks}: set {self.option} to {rate:.6g}"
        return f"{looks}: make the spectrograms with a hop of 10 ms (160 samples at 16 kHz)"


@dataclass(frozen=True)
class VideoLengths:
    """How long the parts of one video last.

    Args:
        video: its id.
        lengths: of its streams.
        captions: end of its last caption in seconds; ``None`` without captions.
    """

    video: str
    lengths: tuple[Length, ...]
    captions: float | None = None


def odd_streams(video: VideoLengths, allowed: float) -> str | None:
    """Return what is wrong with a video whose streams cannot be of one video, or ``None``.

    Args:
        video: how long its parts last.
        allowed: seconds by which its streams may differ in any case.
    """
    if len(video.lengths) < 2:
        return None
    short, *_, long = sorted(video.lengths, key=lambda each: each.seconds)
    # a factor and seconds: short videos differ much by a row, and long ones by a few seconds
    if long.seconds <= ODD * short.seconds + allowed:
        return None
    wrong, right = _which(video, short, long, allowed)
    return _mismatch(wrong, right.seconds, f"as {right.name} lasts", usual(wrong.count / right.seconds))


def find_wrong_rate(videos: Sequence[VideoLengths], allowed: float) -> str | None:
    """Return which rate or unit is wrong, seen on some videos of a data set, or ``None``.

    Two parts disagree where they differ by more than ``allowed`` seconds. They have to disagree by one factor, in both
    directions alike, in 80 % of the videos: captions that end early and sound that is a few seconds shorter are common.

    Args:
        videos: how long the parts of some videos last.
        allowed: seconds that any two parts may differ by.

    Returns:
        One line: file or stream, seconds that were expected and found, and what to set.
    """
    if (found := _streams_disagree(videos, allowed)) is not None:
        return found
    spoken = [video for video in videos if video.captions is not None and video.lengths]
    if len(spoken) == 0:
        return None
    late = [video for video in spoken if _captions(video) > _longest(video).seconds + allowed]
    if len(late) >= SHARE * len(spoken):
        return _captions_late(late, len(spoken))
    return _captions_early(spoken, allowed)


def _captions(video: VideoLengths) -> float:
    return math.nan if video.captions is None else video.captions


def _longest(video: VideoLengths) -> Length:
    return max(video.lengths, key=lambda length: length.seconds)


def _streams_disagree(videos: Sequence[VideoLengths], allowed: float) -> str | None:
    """Find two streams that differ by one factor in nearly all videos."""
    names = dict.fromkeys(length.name for video in videos for length in video.lengths)
    pairs = [(one, other) for number, one in enumerate(names) for other in list(names)[:number]]
    for one, other in pairs:
        both = [
            (video, by_name[one], by_name[other])
            for video in videos
            if {one, other} <= (by_name := {length.name: length for length in video.lengths}).keys()
        ]
        apart = [each for each in both if abs(each[1].seconds - each[2].seconds) > allowed]
        if not apart or len(apart) < SHARE * len(both):
            continue
        # the median: some videos may differ for another reason
        factor = median(a.seconds / b.seconds for _, a, b in apart)
        alike = [each for each in apart if _near(each[1], each[2], factor)]
        if len(alike) < SHARE * len(both):
            continue
        # by majority, as captions tell it in some videos only
        votes = [_which(video, a, b, allowed)[0].name == one for video, a, b in alike]
        first = 2 * sum(votes) >= len(votes)
        ordered = [(a, b) if first else (b, a) for _, a, b in alike]
        rate = sum(each.count for each, _ in ordered) / sum(each.seconds for _, each in ordered)
        wrong, right = ordered[0]
        reason = f"as {right.name} lasts, and so in {len(alike)} of {len(both)} videos that were compared"
        return _mismatch(wrong, right.seconds, reason, usual(rate))
    return None


def _near(one: Length, other: Length, factor: float) -> bool:
    """Tell whether two streams differ by a factor, but for a row and two seconds at the end."""
    slack = (1 / one.rate + 1 / other.rate + 2) / min(one.seconds, other.seconds)
    # logarithms, in which half as long is as far off as twice as long
    return abs(math.log(one.seconds / other.seconds / factor)) <= 0.03 + slack


def _which(video: VideoLengths, one: Length, other: Length, allowed: float) -> tuple[Length, Length]:
    """Return which of two streams is wrong, and the other one.

    Captions tell it best: they never end after the video, and seldom long before its end. A third stream is next.
    """
    short, long = sorted((one, other), key=lambda length: length.seconds)
    if video.captions is not None and video.captions <= long.seconds + allowed:
        if video.captions > short.seconds + allowed:
            return short, long
        if 0.85 * short.seconds <= video.captions < 0.85 * long.seconds:
            return long, short
    for third in video.lengths:
        near = [abs(third.seconds - each.seconds) <= allowed for each in (short, long)]
        if third not in (one, other) and near[0] != near[1]:
            return (long, short) if near[0] else (short, long)
    return one, other


def _captions_late(late: Sequence[VideoLengths], count: int) -> str:
    """Tell what captions are that go on long after the features in nearly all videos."""
    # the 90th percentile: captions of many videos end early, and those that end late show the unit
    factor = sorted(_captions(video) / _longest(video).seconds for video in late)[int(0.9 * len(late))]
    video, length = late[0], _longest(late[0])
    found = f"captions of {video.video}: expected their end within the {length.seconds:.1f} s of {length.where}, "
    found += f"found {_captions(video):.1f} s, and later than the features in {len(late)} of {count} videos compared"
    # 1000, but for videos whose speech ends long before the video, or captions that end a little after it
    if 200 <= factor <= 1100:
        return f"{found}: they look like milliseconds: divide start and end by 1000"
    if len(video.lengths) > 1:  # streams that agree are believed
        return f"{found}: give start and end in seconds, and the captions of these videos"
    return f"{found}: give start and end in seconds; if they are, {length.advice(usual_up_to(length.rate / factor))}"


def _captions_early(videos: Sequence[VideoLengths], allowed: float) -> str | None:
    """Tell which stream is too long, where captions end at the same share of nearly all videos, long before its end.

    One stream alone is judged so: two that agree are believed, and captions may end where they like.
    """
    if len(videos) < 4 or any(len(video.lengths) > 1 for video in videos):
        return None
    shares = sorted(_captions(video) / _longest(video).seconds for video in videos)
    early = [video for video in videos if _longest(video).seconds - _captions(video) > allowed]
    low, high = shares[int(0.1 * len(shares))], shares[math.ceil(0.9 * len(shares)) - 1]
    # nearly equal shares: a wrong rate shortens all videos alike, and early ends of speech vary
    if len(early) < SHARE * len(videos) or high > 0.75 or low < 0.7 * high:
        return None
    length = _longest(videos[0])
    reason = f"as its captions last, and so in {len(early)} of {len(videos)} videos compared"
    return _mismatch(length, _captions(videos[0]), reason, usual_up_to(length.rate / shares[-1]))


def _mismatch(wrong: Length, seconds: float, reason: str, rate: float) -> str:
    found = f"{wrong.seconds:.1f} s ({wrong.count} {wrong.unit} at {wrong.rate:g} a second)"
    return f"{wrong.where}: expected about {seconds:.1f} s, {reason}, found {found}: {wrong.advice(rate)}"


def usual(rate: float) -> float:
    """Return the usual rate within 3 % of a measured one, or three digits of it where there is none."""
    nearest = min(_USUAL, key=lambda known: abs(math.log(known / rate)))
    # usual rates are at least 4 % apart
    return nearest if abs(nearest / rate - 1) <= 0.03 else float(f"{rate:.3g}")


def usual_up_to(rate: float) -> float:
    """Return the simplest usual rate a little below one that captions gave: videos are longer than their captions."""
    near = [known for known in _USUAL if 0.88 * rate <= known <= 1.02 * rate]
    return min(near, key=lambda known: (len(f"{known:g}"), rate - known), default=float(f"{rate:.3g}"))


def dead_features(rows: Tensor) -> str | None:
    """Return what is wrong with visual features that say nothing, or ``None``.

    Args:
        rows: ``(rows, width)``, some of a video's.
    """
    if not rows.any():
        return "expected features of pictures, found zeros alone: extract them again"
    if len(rows) > 2 and bool((rows == rows[0]).all()):
        return f"expected features that change with the picture, found {len(rows)} equal rows: extract them again"
    return None


def not_decibels(frames: Tensor) -> str | None:
    """Return what is wrong with a spectrogram that holds no decibels, or ``None``.

    Decibels below the maximum, as METHOD's recipe gives them, lie between -80 and 0. Power and its kind are never
    negative.

    Args:
        frames: any of a video's frames, of any shape.
    """
    low, high = (float(value) for value in torch.aminmax(frames))
    if low == high:
        return f"expected sound, found the same number {low:g} in every frame: silence, or a failed extraction"
    if low >= 0:
        return (
            f"expected decibels, at most 0 and mostly negative, found numbers from {low:.3g} to {high:.3g}, none below "
            "0: they look like linear power: take 10 * log10 of it relative to the maximum, with a floor of -80 dB"
        )
    return None


def content_faults(rows: Sequence[Tensor], frames: Tensor | None) -> list[str | None]:
    """Return what is wrong with the features of a video by their numbers, for each stream and the spectrogram.

    Args:
        rows: of each visual stream, ``(rows, width)``; 64 of them are looked at.
        frames: spectrogram, time-major, ``(frames, M)``, of which 256 are looked at; ``None`` without sound.
    """
    faults = [dead_features(_some(each, 64)) for each in rows]
    return faults if frames is None else [*faults, not_decibels(_some(frames, 256))]


def _some(rows: Tensor, count: int) -> Tensor:
    """Return ``count`` rows or a few more, evenly spread."""
    return rows[:: max(1, len(rows) // count)]


def wrong_in_most(reasons: Sequence[tuple[str, str | None]]) -> str | None:
    """Return the reason of the first part that is wrong where nearly all are, or ``None``.

    Args:
        reasons: for each video or file its name and what is wrong with it.
    """
    wrong = [(where, reason) for where, reason in reasons if reason is not None]
    if not wrong or len(wrong) < SHARE * len(reasons):
        return None
    where, reason = wrong[0]
    return f"{where}: {reason} (so in {len(wrong)} of {len(reasons)} videos that were looked at)"
