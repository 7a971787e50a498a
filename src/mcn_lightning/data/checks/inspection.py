"""What a data set holds: every video read once, and what ``lightning check`` prints of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.batch import MODALITIES, BadVideo, ClipBatch
from mcn_lightning.data.captions import describe_dropped
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.splits import Splits
from mcn_lightning.data.videos import StoredVideo
from mcn_lightning.errors import InputError

SILENT = -60.0
"""dB below the maximum of a video under which its loudest band lies in a silent frame."""
MAX_SHOWN = 5
"""Skipped videos that are named."""


@dataclass
class SplitReport:
    """What the videos of one list hold.

    Args:
        title: the option and the list.
        videos: how many are on the list.
        seconds: length of the longest stream of each usable video; none where clips have no length of their own.
        streams: seconds of each stream in each video, by the stream's suffix.
        clips: seconds of each clip.
        covered: seconds of each video in which there is a caption.
        decibels: sum of all numbers in the spectrograms of the clips, how many there are, and the highest.
        frames: spectrogram frames of the clips, and those that are silent.
        skipped: unusable videos.
        faults: what is odd in the numbers of videos that can be used, and in how many.
        dropped: captions that cannot be used, in words.
        lacking: usable videos that have no video, audio or text, by what they lack.
    """

    title: str
    videos: int
    seconds: list[float] = field(default_factory=list)
    streams: dict[str, list[float]] = field(default_factory=dict)
    clips: list[float] = field(default_factory=list)
    covered: list[float] = field(default_factory=list)
    decibels: tuple[float, int, float] = (0.0, 0, -math.inf)
    frames: tuple[int, int] = (0, 0)
    skipped: list[BadVideo] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    dropped: str = ""
    lacking: Counter[str] = field(default_factory=Counter)

    def add(self, video: StoredVideo, batch: ClipBatch, spans: Iterable[tuple[float, float]]) -> None:
        """Add one usable video.

        Args:
            video: opened.
            batch: all its clips.
            spans: start and end of each clip in seconds.
        """
        spans = list(spans)
        if math.isfinite(video.duration):
            self.seconds.append(video.duration)
            self.clips += [end - start for start, end in spans]
            if video.captions is not None:
                self.covered.append(_union(zip(video.captions.start, video.captions.end, strict=True), video.duration))
        for length in video.lengths:
            self.streams.setdefault(length.name, []).append(length.seconds)
        if batch.frames is not None and batch.frames.numel():
            self._add_levels(batch.frames.float())
        for _, fault in video.faults():
            if fault is not None:
                self.faults[fault] += 1

    def _add_levels(self, frames: Tensor) -> None:
        total, count, peak = self.decibels
        highest = float(frames.max())
        self.decibels = total + float(frames.double().sum()), count + frames.numel(), max(peak, highest)
        # by the loudest band: a frame with one audible band is not silent
        quiet = int((frames.amax(dim=1) < highest + SILENT).sum())
        self.frames = self.frames[0] + len(frames), self.frames[1] + quiet

    def __str__(self) -> str:
        used = self.videos - len(self.skipped)
        hours = f", {sum(self.seconds) / 3600:.2f} h" if self.seconds else ""
        lines = [f"{self.title}: {used} of {self.videos} videos can be used{hours}"]
        for name, seconds in {**self.streams, "clips": self.clips}.items():
            if seconds:
                mean = sum(seconds) / len(seconds)
                several = f"{len(seconds)} of " if name == "clips" else ""
                lines.append(
                    f"  {name:<9} {several}{min(seconds):.1f} to {max(seconds):.1f} s, {mean:.1f} s on average"
                )
        if self.covered:
            lines.append(f"  captions  cover {100 * sum(self.covered) / sum(self.seconds):.0f} % of the videos")
        if self.frames[0]:
            total, count, peak = self.decibels
            silent = (
                f"{100 * self.frames[1] / self.frames[0]:.1f} % of the frames silent ({-SILENT:g} dB below the peak)"
            )
            lines.append(f"  sound     mean {total / count:.1f} dB, peak {peak:.1f} dB, {silent}")
        lines += [f"  odd       {fault} (in {count} videos)" for fault, count in self.faults.most_common(MAX_SHOWN)]
        lines += [f"  lacking   {name} (in {count} videos)" for name, count in self.lacking.most_common()]
        if self.dropped:
            lines.append(f"  left out  {self.dropped}")
        lines += [f"  skipped   {bad.video}: {bad.reason}" for bad in self.skipped[:MAX_SHOWN]]
        if len(self.skipped) > MAX_SHOWN:
            lines.append(f"  skipped   and {len(self.skipped) - MAX_SHOWN} more")
        return "\n".join(lines)


def _union(spans: Iterable[tuple[float, float]], stop: float) -> float:
    """Return the seconds before ``stop`` that at least one of some spans holds."""
    covered = last = 0.0
    # sorted by start, so that only the latest end so far can overlap the next span
    for start, end in sorted((float(start), min(float(end), stop)) for start, end in spans):
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return covered


def inspect(dataset: NarratedVideoDataset, title: str) -> SplitReport:
    """Read all clips of every video once, as an evaluation would read them.

    Args:
        dataset: videos of a split.
        title: what the report calls them.

    Returns:
        What is there, and which videos would be skipped and why.
    """
    source = dataset.source
    # as in evaluation, where every caption is a clip: training would read a random part
    whole = NarratedVideoDataset(
        source, dataset.clips, dataset.audio, dataset.text, dataset.seed, training=False, may_lack=dataset.may_lack
    )
    report = SplitReport(title, len(source), dropped=describe_dropped(source.dropped()))
    with torch.inference_mode():
        for index in tqdm(range(len(source)), f"reading {title.split()[-1]}", unit=" videos", disable=None):
            batch = whole[(0, index)]
            if isinstance(batch, BadVideo):
                report.skipped.append(batch)
                continue
            if batch.present is not None:
                there = dict(zip(MODALITIES, batch.present[0].tolist(), strict=True))
                report.lacking.update(name for name in dataset.may_lack if not there[name])
            try:
                video = source.open(index)
                report.add(video, batch, whole.spans(index))
            except InputError as error:
                report.skipped.append(BadVideo(source.id(index), str(error)))
    return report


def first_problem(reports: Mapping[str, SplitReport], max_bad_share: float) -> str | None:
    """Return why training would not start, or not go on, or ``None``.

    Args:
        reports: of each split.
        max_bad_share: share of the training videos that may be unusable.
    """
    train, val = reports["train"], reports.get("val")
    if len(train.skipped) > max_bad_share * train.videos:
        bad = train.skipped[0]
        return (
            f"{train.title}: expected at most {100 * max_bad_share:g} % unusable videos (--data.max_bad_share), found "
            f"{len(train.skipped)} of {train.videos}; first {bad.video}: {bad.reason}"
        )
    if val is not None and val.skipped:
        bad = val.skipped[0]
        return f"{val.title}: expected usable videos alone, found {len(val.skipped)} others; {bad.video}: {bad.reason}"
    return None


def inspect_splits(splits: Splits, max_bad_share: float) -> None:
    """Read every video of every split once and print what is there.

    Args:
        splits: opened.
        max_bad_share: share of the training videos that may be unusable.

    Raises:
        InputError: if training could not start, for the first reason.
    """
    reports, names = {}, splits.names
    for split in splits.distinct():
        if split in splits.datasets:
            reports[split] = inspect(splits.datasets[split], ": ".join(dict.fromkeys((split, names[split] or split))))
            print(reports[split], flush=True)
    print("\n".join(splits.lines()))
    if (problem := first_problem(reports, max_bad_share)) is not None:
        raise InputError(problem)
