"""The data commands without a trainer: ``synthetic`` and ``verify``."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from mcn_lightning.data.shards.header import ShardHeader
from mcn_lightning.data.sources.synthetic import SyntheticConfig, write_synthetic
from mcn_lightning.errors import InputError


def verify_shards(shards: str, shards_cache: str | None = None) -> None:
    """Check every shard against the checksums of the index, and the index against its own.

    Args:
        shards: folder that ``prepare`` wrote, or its URL.
        shards_cache: folder for downloads from a URL, with free space for one shard; by default
            ``~/.cache/mcn-lightning/shards``.

    Raises:
        InputError: if the index is damaged; or, after all shards were checked, if any is missing or damaged.
    """
    index, wrong = ShardHeader(shards, shards_cache), []
    if (reason := index.verify_index()) is not None:
        raise InputError(reason)
    if not index.has_checksum:
        print(f"{shards}: the index has no checksum of itself (an older version wrote it): the index is not checked")
    with tqdm(total=sum(shard["bytes"] for shard in index.shards), unit="B", unit_scale=True, desc="verifying") as bar:
        for number, shard in enumerate(index.shards):
            if (reason := index.verify(number)) is not None:
                wrong.append(reason)
                # at once, and all of them at the end: verifying takes hours
                bar.write(reason)
            bar.update(shard["bytes"])
    if wrong:
        raise InputError(f"{len(wrong)} of {len(index.shards)} shards in {shards} are not what was packed")
    print(f"{len(index.shards)} shards, {sum(shard['bytes'] for shard in index.shards) / 1e9:.2f} GB: all as packed")


def write_generated(root: str, synthetic: SyntheticConfig = SyntheticConfig()) -> None:  # noqa: B008 (frozen)
    """Write generated narrated videos with known topics in the release's layout.

    Args:
        root: folder to write; it must not hold other data.
        synthetic: number of videos, their length, and how clear their topics are.
    """
    write_synthetic(Path(root), synthetic)
    print(f"wrote {synthetic.videos} training and {synthetic.held_out} held-out videos to {root}")
