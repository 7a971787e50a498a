"""The same records through LitData, for object stores (``s3://``, ``gs://``) and local folders: the extra ``litdata``.

Each split is a LitData data set of its own below the output. A record is one video as a shard of one video (the bytes
of a safetensors file) with what an index says of it; the record after the last video holds the options and all words.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save

from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import total_reasons
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.shards.files import Shard
from mcn_lightning.data.shards.header import FORMAT
from mcn_lightning.data.shards.pack import PackConfig, PackReport
from mcn_lightning.data.shards.read import ShardVideo
from mcn_lightning.data.shards.writer import ShardContents, Split
from mcn_lightning.data.text import TextSource, split_words
from mcn_lightning.errors import InputError

CHUNK = 64_000_000
"""Most bytes of a chunk, which LitData fetches whole."""


def _litdata() -> Any:
    try:
        import litdata
    except ImportError as error:
        raise InputError(
            f"LitData: expected the package litdata, found none ({error}); pip install -e '.[litdata]'"
        ) from None
    return litdata


def is_streaming(where: str) -> bool:
    """Tell whether a folder or an address holds LitData records."""
    return "://" in where or any(Path(where).glob("*/index.json"))


def pack_streaming(splits: dict[str, Split], options: dict[str, Any], streams: Sequence[VisualStream],
                   clips: ClipConfig, config: PackConfig) -> PackReport:  # fmt: skip
    """Pack a data set into LitData records; the arguments are those of ``packing.pack``.

    Raises:
        InputError: if litdata is not installed, or the output holds something already.
    """
    started, litdata = time.monotonic(), _litdata()
    address = config.output.rstrip("/")
    if config.overwrite and "://" not in address:
        for records in Path(address).glob("*/index.json"):
            shutil.rmtree(records.parent)
    if "://" not in address and Path(address).exists() and any(Path(address).iterdir()):
        raise InputError(
            f"--pack.output {address}: expected an empty folder, found files; choose another, or pack anew with "
            "--pack.overwrite true"
        )
    videos, seconds, bytes_in, bytes_out, skipped, dropped = 0, 0.0, 0, 0, {}, dict[str, int]()
    for name, split in splits.items():
        litdata.optimize(
            fn=partial(_record, name, split, list(streams), clips, config, options),
            inputs=list(range(len(split.source) + 1)),
            output_dir=f"{address}/{name}",
            chunk_bytes=min(config.shard_size, CHUNK),
            num_workers=config.processes or 1,
            keep_data_ordered=True,
            start_method="fork",
            verbose=False,
        )
        made = StreamingVideos(f"{address}/{name}", streams, None, False)
        for index in range(len(made)):
            about = made.about(index)
            if about["skipped"] is not None:
                skipped[about["id"]] = about["skipped"]
            videos += about["skipped"] is None
            seconds, bytes_in = seconds + about["seconds"], bytes_in + about["bytes_in"]
            bytes_out += about["bytes"]
        dropped = total_reasons([dropped, made.dropped()])
    took = time.monotonic() - started
    return PackReport(videos, seconds / 3600, bytes_in, bytes_out, len(splits), skipped, dropped, took)


def _record(name: str, split: Split, streams: list[VisualStream], clips: ClipConfig, config: PackConfig,
            options: dict[str, Any], index: int) -> dict[str, bytes]:  # fmt: skip
    """Return the record of a video; of the options where ``index`` is the number of videos."""
    source = split.source
    if index == len(source):
        words = {word for number in range(index) for text in source.texts(number) for word in split_words(text)}
        known = options | {
            "splits": {name: {"min_time": split.min_time}},
            "streams": [dataclasses.asdict(stream) for stream in streams],
            "keep_frames": config.keep_frames,
        }
        head = {"format": FORMAT, "options": known, "words": sorted(words)}
        return {
            "about": json.dumps(head | {"dropped": dict(source.dropped())}).encode(),
            "shard": b"",
        }
    shard = ShardContents(streams, clips, config.keep_frames)
    shard.add(split, index)
    about = {
        "id": source.id(index),
        "index": index,
        "rows": {name: column[0] for name, column in shard.rows.items()},
        "skipped": shard.skipped.get(str(index)),
        "seconds": shard.seconds,
        "bytes_in": shard.bytes_in,
    }
    content = save(shard.tensors(), {"format": FORMAT})
    return {"about": json.dumps(about | {"bytes": len(content)}).encode(), "shard": content}


@dataclass(frozen=True)
class _OneVideo:
    """What ``ShardVideo`` asks of its source, for one record."""

    videos: StreamingVideos
    name: str
    rows: dict[str, int]
    shard: Shard

    def id(self, index: int) -> str:
        return self.name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.videos, name)

    def column(self, name: str, index: int) -> int:
        return self.rows[name]

    @property
    def knows_words(self) -> bool:
        return False  # not known before the record is: the order of the captions is kept at hand

    def word_indices(self, numbers: np.ndarray, index: int) -> np.ndarray | None:
        table = None if self.videos.text is None else self.videos.text.word_table(self.shard.vocabulary)
        return None if table is None else table[numbers]


class StreamingVideos:
    """The videos of a split, read through LitData; a video source for ``NarratedVideoDataset``.

    Args:
        address: folder or address of the split.
        streams: visual streams to read, all of them or none.
        audio: how spectrograms are cut; ``None`` to read none.
        captions: whether clips are captions.
        text: gives words their indices; ``None`` where there is no text.
        allow_missing: a video may lack modalities, if it was packed so.

    Raises:
        InputError: if there are no such records, or they are of another format.
    """

    def __init__(
        self,
        address: str,
        streams: Sequence[VisualStream],
        audio: AudioConfig | None,
        captions: bool = True,
        text: TextSource | None = None,
        allow_missing: bool = False,
    ) -> None:
        self.allow_missing = allow_missing
        self.address, self.streams, self.audio = address, tuple(streams), audio
        self.with_captions, self.text = captions, text
        _litdata()
        from mcn_lightning.data.shards.litdata_records import open_records

        try:
            self._records = open_records(address)
            head = json.loads(bytes(self._records[len(self._records) - 1]["about"]))
            if head.get("format") != FORMAT:
                raise ValueError(f"the format {head.get('format')}")
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"{address}: expected LitData records of {FORMAT}, found {what}") from None
        self.options: dict[str, Any] = head["options"]
        self.words: list[str] = head["words"]
        self._dropped: dict[str, int] = head.get("dropped", {})  # which older records do not know
        self.keep_frames = bool(self.options["keep_frames"])

    def __len__(self) -> int:
        return len(self._records) - 1

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the visual streams that are read."""
        return tuple(stream.width for stream in self.streams)

    def dropped(self) -> Mapping[str, int]:
        """Return how many captions were dropped when its videos were packed, by reason."""
        return self._dropped

    def set_text(self, text: TextSource | None) -> None:
        """Take the text source that gives words their indices."""
        self.text = text

    def about(self, index: int) -> dict[str, Any]:
        """Return what is known of a video besides its features."""
        return json.loads(bytes(self._records[index]["about"]))

    def id(self, index: int) -> str:
        """Return the id of a video."""
        try:
            return self.about(index)["id"]
        except Exception:  # its record cannot be fetched, which ``open`` tells
            return f"record {index}"

    def open(self, index: int) -> ShardVideo:
        """Fetch the record of a video.

        Raises:
            InputError: if it could not be packed.
        """
        try:
            record = self._records[index]
        except Exception as error:  # LitData raises whatever the store or a damaged chunk leads to
            what = " ".join(str(error).split())[:200]
            raise InputError(f"{self.address}: expected the record of video {index}, found {what}") from None
        about = json.loads(bytes(record["about"]))
        if about["skipped"] is not None:
            raise InputError(about["skipped"])
        shard = Shard.of(load(bytes(record["shard"])))
        return ShardVideo(_OneVideo(self, about["id"], about["rows"], shard), shard, 0).checked()  # type: ignore[arg-type]

    def damage(self, index: int, error: Exception) -> str | None:
        """Return that the record is damaged."""
        return f"{self.address}: expected the record of video {index} as packed, found others ({error})"

    def lost(self) -> list[BadVideo]:
        """Return nothing: what a store lacks is known when it is asked."""
        return []
