"""Options, job and report of packing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mcn_lightning.data.captions import describe_dropped
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.shards.header import IndexOptions
from mcn_lightning.data.shards.packed_from import Stamps
from mcn_lightning.data.shards.store import is_url
from mcn_lightning.data.shards.writer import Split
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeInt, PositiveInt

SKIPPED = "skipped.csv"
"""File beside the index that lists every skipped video and the reason."""


@dataclass(frozen=True)
class PackConfig(Options, option="--pack"):
    """How shards are written.

    Args:
        output: folder to write, on this machine. Finished shards of an interrupted run with the same options are kept.
            To read shards from a URL, upload the folder.
        shard_size: approximate bytes of a shard. A process needs twice as much memory.
        keep_frames: store the rows of the visual features in place of the pooled vector of each caption. This takes
            twice the bytes, but serves any clips.min_time, and windows.
        processes: processes that read and write, or 0 for one a core.
        overwrite: replace shards of other options, or of source files that have changed. Otherwise they are refused.
    """

    output: str
    shard_size: PositiveInt = 1_000_000_000
    keep_frames: bool = False
    processes: NonNegativeInt = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if is_url(self.output):
            advice = "give a folder, and upload it whole: --data.shards reads it from there"
            raise InputError(f"--pack.output: expected a folder on this machine, found {self.output}; {advice}")


@dataclass(frozen=True)
class PackReport:
    """Result of packing.

    Args:
        videos: packed videos, including those of earlier runs.
        hours: their length.
        bytes_in: bytes of their feature files.
        bytes_out: bytes of the shards and the index.
        shards: number of shards.
        skipped: reason of each skipped video, by id.
        dropped: number of dropped captions of the other videos, by reason.
        seconds: duration of this run.
    """

    videos: int
    hours: float
    bytes_in: int
    bytes_out: int
    shards: int
    skipped: dict[str, str]
    dropped: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        share = 100 * self.bytes_out / max(self.bytes_in, 1)
        lines = [
            f"packed {self.videos} videos ({self.hours:.1f} h) into {self.shards} shards in {self.seconds:.0f} s",
            f"{self.bytes_in / 1e9:.2f} GB in, {self.bytes_out / 1e9:.2f} GB out ({share:.0f} %)",
            f"skipped {len(self.skipped)} videos" + (":" if self.skipped else ""),
        ]
        lines += [f"  {name}: {reason}" for name, reason in list(self.skipped.items())[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  and {len(self.skipped) - 10} more, all of them in {SKIPPED}")
        if self.dropped:
            lines.append(f"dropped {describe_dropped(self.dropped)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Job:
    """Input of packing.

    Args:
        splits: the videos of each split.
        options: options that a reader must know or must not change.
        streams: visual streams, in their order.
        clips: how captions become clips.
        config: options of packing.
        output: folder to write.
        sources: size and time of the source files of each video.
    """

    splits: dict[str, Split]
    options: IndexOptions
    streams: list[VisualStream]
    clips: ClipConfig
    config: PackConfig
    output: Path
    sources: dict[str, Stamps]


Range = tuple[str, int, int]
"""Split, first video and stop of the videos in one shard."""
