"""The sources that the short options stand for: lists of videos, pickles of clips, shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mcn_lightning.data.shards.source import Shards
from mcn_lightning.data.sources.base import DataSource
from mcn_lightning.data.sources.clip_pickles import ClipPickles, is_pickle
from mcn_lightning.data.sources.howto100m import HowTo100M


def stored_at(
    root: Path, lists: Mapping[str, str | None], captions: str, features: str, audio_root: str | None
) -> dict[str, DataSource]:
    """Return the source of each split by the name of its list: the layout of the release, or a pickle.

    Args:
        root: folder of the data set.
        lists: name of the list or pickle of each split, or ``None`` for no such split.
        captions: captions of the layout, relative to ``root``.
        features: folder of its visual features.
        audio_root: folder of its spectrograms.
    """
    layout, pickles = HowTo100M(root, lists, captions, features, audio_root), ClipPickles(root, lists)
    return {split: layout if name is None or not is_pickle(name) else pickles for split, name in lists.items()}


def packed_in(shards: str, stored: Mapping[str, DataSource], cache: str | None) -> dict[str, DataSource]:
    """Return the source of each split after packing. Sources that cannot be packed stay the same.

    Args:
        shards: folder or URL.
        stored: source of each split before packing.
        cache: folder for shards that come from a URL.
    """
    packed = Shards(shards, stored, cache)
    return {split: packed if source.packable else source for split, source in stored.items()}
