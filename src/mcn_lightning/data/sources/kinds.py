"""Which kind of source the short forms of the options mean: lists, pickles of clips, shards."""

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
    """Return where the videos of each split are by the name of its list: in the layout of the release, or a pickle.

    Args:
        root: folder of the data set.
        lists: name of the list, or pickle, of each split; ``None`` for no such split.
        captions: captions of the layout, relative to ``root``.
        features: folder of its visual features.
        audio_root: folder of its spectrograms.
    """
    layout, pickles = HowTo100M(root, lists, captions, features, audio_root), ClipPickles(root, lists)
    return {split: layout if name is None or not is_pickle(name) else pickles for split, name in lists.items()}


def packed_in(shards: str, stored: Mapping[str, DataSource], cache: str | None) -> dict[str, DataSource]:
    """Return where the videos of each split are once they are packed; what cannot be packed stays where it is.

    Args:
        shards: folder or URL.
        stored: where the videos of each split were before.
        cache: folder for what comes from a URL.
    """
    packed = Shards(shards, stored, cache)
    return {split: packed if source.packable else source for split, source in stored.items()}
