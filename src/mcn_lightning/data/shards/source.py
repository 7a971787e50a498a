"""Shards as a source of videos, and the options of a run that they can serve."""

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


class Shards(DataSource):
    """Shards that ``lightning prepare`` wrote.

    Args:
        where: their folder or URL.
        packed: the source that each split was packed from, which names the splits.
        cache: folder for shards that are fetched from a URL, by default ``default_cache()``.
    """

    def __init__(self, where: str | Path, packed: Mapping[str, DataSource], cache: str | None = None) -> None:
        self.where, self.packed, self.cache = where, dict(packed), cache

    def name(self, split: str) -> str | None:
        """Return the name of the packed split."""
        return self.packed[split].name(split)

    def label(self, split: str) -> str:
        """Return the name of the packed split in messages."""
        return self.packed[split].label(split)

    def missing_message(self, split: str) -> str:
        """Return the message about a requested split that was not packed."""
        return self.packed[split].missing_message(split)

    def open(self, splits: Sequence[str], needed: Collection[str], reading: Reading) -> dict[str, Videos]:
        """Open the packed splits, and fetch the shards of those that are needed.

        Raises:
            InputError: if the shards cannot be read, or were packed with options that this run cannot use.
        """
        check_eval_column(reading.text)
        index = ShardIndex(self.where, self.cache)
        # if test and validation have one list, it is packed once, as val
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
        for split in needed:
            if split in found:
                found[split].fetch()
        return dict(found)

    def all_texts(self, opened: Iterable[Videos]) -> Iterable[str]:
        """Return every word of the captions of all splits."""
        # the index lists the words of all splits, so one split gives them all
        return next((videos.all_texts() for videos in opened), ())


def check_eval_column(text: TextConfig) -> None:
    """Refuse a column of texts for evaluation, as shards hold one text a caption.

    Raises:
        InputError: naming the option.
    """
    if text.eval_column != "text":
        found = f"{text.eval_column}; evaluate from the files, without --data.shards"
        raise InputError(f"--data.text.eval_column: expected text with shards, found {found}")


def fixed_options(reading: Reading) -> IndexOptions:
    """Return the options of packing that a run must not change, besides streams and clips."""
    return {"bands": reading.audio.bands, "train_column": reading.text.train_column}


Rule = tuple[str, object, object, bool, str]
"""An option, the value of packing, the value of the run, whether the shards can serve it, and what to do if not."""


def check_packed(packed: IndexOptions, where: str | Path, reading: Reading) -> None:
    """Refuse options of a run that the shards cannot serve.

    Args:
        packed: options of packing.
        where: the shards, for messages.
        reading: what the run reads.

    Raises:
        InputError: naming the first option that cannot be served.
    """
    for option, expected, found, served, advice in (*_contents(packed, reading), *_values(packed, reading)):
        if not served:
            wanted = f"{_describe(expected)}, which {where} was packed with"
            raise InputError(f"--data.{option}: expected {wanted}, found {_describe(found)}; pack again{advice}")


def _describe(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _contents(packed: IndexOptions, reading: Reading) -> list[Rule]:
    """Return rules for what the shards hold."""
    clips, kind, span, frames = reading.clips, packed["kind"], packed.get("span", "widest"), packed["keep_frames"]
    absent = [name for name in reading.modalities if name not in packed["modalities"]]
    some, most = f"some of {', '.join(packed['modalities'])}", f"at most {packed['overrun']:g}"
    # stored rows serve any windows, and stored maxima only the clips of packing
    served = clips.kind == kind or (clips.kind == "windows" and frames)
    fits = not reading.captions or frames or clips.span == span
    again = ", or once with --pack.keep_frames true"
    return [
        ("modalities", some, "".join(absent[:1]), not absent, " to add it"),
        ("clips.kind", kind, clips.kind, served, ", captions with --pack.keep_frames true to serve windows too"),
        ("clips.span", span, clips.span, fits, again),
        ("clips.overrun", most, clips.overrun, not reading.captions or clips.overrun <= packed["overrun"],
         " to take more videos"),
    ]  # fmt: skip


def _values(packed: IndexOptions, reading: Reading) -> list[Rule]:
    """Return rules for options that must have the same value as in packing."""
    wanted, change = fixed_options(reading), " to change it"
    streams = [dataclasses.asdict(stream) for stream in reading.streams]
    # streams that were not packed cannot differ
    same = packed["streams"] == streams or "video" not in packed["modalities"]
    rules: list[Rule] = [
        ("audio.bands", packed["bands"], wanted["bands"], packed["bands"] == wanted["bands"], change),
        ("text.train_column", packed["train_column"], wanted["train_column"],
         packed["train_column"] == wanted["train_column"], change),
        ("streams", packed["streams"], streams, same, change),
    ]  # fmt: skip
    for split, stored in packed["splits"].items():
        option, found = "min_time" if split == "train" else "eval_min_time", reading.min_time(split)
        fits = packed["keep_frames"] or not reading.captions or stored["min_time"] == found
        rules.append((f"clips.{option}", stored["min_time"], found, fits, ", or once with --pack.keep_frames true"))
    return rules
