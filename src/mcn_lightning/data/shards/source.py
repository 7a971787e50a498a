"""Shards as a source of videos: which options of a run they serve, and which they were packed without."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mcn_lightning.data.shards.files import ShardIndex
from mcn_lightning.data.shards.header import IndexOptions
from mcn_lightning.data.shards.read import ShardVideos
from mcn_lightning.data.sources.base import DataSource, Reading
from mcn_lightning.data.text import TextConfig
from mcn_lightning.data.videos import Videos
from mcn_lightning.errors import InputError

NAMES = {"streams": "streams", "bands": "audio.bands", "train_column": "text.train_column"}
"""IndexOptions of packing under their names among those of the data."""


class Shards(DataSource):
    """Shards that ``lightning prepare`` wrote.

    Args:
        where: their folder, or URL.
        packed: what each split was packed from, which gives the splits their names.
        cache: folder for what is fetched from a URL; a default one where none is given.
    """

    def __init__(self, where: str | Path, packed: Mapping[str, DataSource], cache: str | None = None) -> None:
        self.where, self.packed, self.cache = where, dict(packed), cache

    def name(self, split: str) -> str | None:
        """Return what the split was called that was packed."""
        return self.packed[split].name(split)

    def label(self, split: str) -> str:
        """Return what messages call the split that was packed."""
        return self.packed[split].label(split)

    def missing_message(self, split: str) -> str:
        """Return the message about a requested split that was not packed."""
        return self.packed[split].missing_message(split)

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the splits that were packed, and fetch those that are needed and elsewhere.

        Raises:
            InputError: if the shards cannot be read, or were packed in another way than this run needs.
        """
        check_eval_column(reading.text)
        index = ShardIndex(self.where, self.cache)
        # a test list that is the validation list is packed once
        same = self.name("test") == self.name("val")
        names = {split: "val" if split == "test" and same else split for split in splits}
        found = {
            split: ShardVideos(
                index,
                name,
                reading.read_streams,
                reading.read_audio,
                reading.captions,
                allow_missing=reading.allow_missing,
            )
            for split, name in names.items()
            if name in index.splits
        }
        if found:
            check_packed(index.options, self.where, reading)
            check_options(index.options, self.where, reading)
        for split in needed:
            if split in found:
                found[split].fetch()
        return dict(found)

    def all_texts(self, opened: Iterable[Videos]) -> Iterable[str]:
        """Return every word of the captions of all splits."""
        return next((videos.all_texts() for videos in opened), ())


def check_eval_column(text: TextConfig) -> None:
    """Refuse a column of texts for evaluation: shards hold one text a caption.

    Raises:
        InputError: naming the option.
    """
    if text.eval_column != "text":
        raise InputError(
            "--data.text.eval_column: expected text with shards, which hold one text a caption for evaluation, "
            f"found {text.eval_column}; evaluate from the files, without --data.shards"
        )


def check_packed(packed: IndexOptions, where: str | Path, reading: Reading) -> None:
    """Refuse to read what was not packed at all.

    Args:
        packed: options that the videos were packed with.
        where: the shards, for messages.
        reading: what the run reads.

    Raises:
        InputError: naming the first option that cannot be served.
    """
    if absent := [name for name in reading.modalities if name not in packed["modalities"]]:
        raise InputError(
            f"--data.modalities: expected some of {', '.join(packed['modalities'])}, which {where} was packed "
            f"with, found {absent[0]}; pack again to add it"
        )
    clips, kind = reading.clips, reading.clips.kind
    if kind != packed["kind"] and not (kind == "windows" and packed["keep_frames"]):
        raise InputError(
            f"--data.clips.kind: expected {packed['kind']}, which {where} was packed with, found {kind}; "
            "pack again, captions with --pack.keep_frames true to serve windows too"
        )
    if reading.captions and not packed["keep_frames"] and clips.span != packed.get("span", "widest"):
        raise InputError(
            f"--data.clips.span: expected {packed.get('span', 'widest')}, which {where} was packed with, "
            f"found {clips.span}; pack again, or once with --pack.keep_frames true"
        )
    if reading.captions and clips.overrun > packed["overrun"]:
        raise InputError(
            f"--data.clips.overrun: expected at most {packed['overrun']:g}, which {where} was packed with, "
            f"found {clips.overrun:g}; pack again to take more videos"
        )


def fixed_options(reading: Reading) -> dict[str, object]:
    """Return what shards are packed with besides streams and clips, and a run must not change."""
    return {"bands": reading.audio.bands, "train_column": reading.text.train_column}


def check_options(packed: IndexOptions, where: str | Path, reading: Reading) -> None:
    """Refuse options of a run that are others than those of packing; its arguments are those of ``check_packed``.

    Raises:
        InputError: naming the first option that differs.
    """
    wanted = fixed_options(reading) | {"streams": [dataclasses.asdict(stream) for stream in reading.streams]}
    for option, value in wanted.items():
        if packed[option] != value and not (option == "streams" and "video" not in packed["modalities"]):
            raise InputError(
                f"--data.{NAMES[option]}: expected {packed[option]}, which {where} was packed with, "
                f"found {value}; pack again to change it"
            )
    if packed["keep_frames"] or not reading.captions:
        return
    for split, kind in packed["splits"].items():
        if kind["min_time"] != reading.min_time(split):
            option = "min_time" if split == "train" else "eval_min_time"
            raise InputError(
                f"--data.clips.{option}: expected {kind['min_time']:g}, which {where} was packed with, "
                f"found {reading.min_time(split):g}; pack again, or once with --pack.keep_frames true"
            )
