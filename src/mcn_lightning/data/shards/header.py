"""The index of a folder of shards: its reading without torch, and the verification of shards by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from mcn_lightning.data.shards.store import ShardStore, StoreError, checksum, open_store
from mcn_lightning.errors import InputError
from mcn_lightning.signals import is_first

IndexOptions = dict[str, Any]
"""Fields of the index, as in its JSON."""
FORMAT = "mcn-lightning shards 1"
INDEX = "index.safetensors"
FETCHING = 4
"""Shards that a process fetches at once."""


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def index_checksum(tensors: IndexOptions, about: IndexOptions) -> str:
    """Return the SHA-256 of what an index holds, its own checksum excepted.

    Args:
        tensors: tables by name, as arrays or tensors.
        about: metadata.
    """
    digest = hashlib.sha256(json.dumps({name: about[name] for name in sorted(about) if name != "sha256"}).encode())
    for name in sorted(tensors):
        table = np.asarray(tensors[name])
        digest.update(f"\n{name} {table.dtype} {table.shape}\n".encode())
        digest.update(np.ascontiguousarray(table).data)
    return digest.hexdigest()


class ShardHeader:
    """The header of the index: the options of packing, size and checksum of each shard, and what was skipped.

    Args:
        where: folder of the shards, or URL; or their store, where another process has opened it.
        cache: folder for what is fetched from a URL; a default one where none is given.

    Raises:
        InputError: if there is no index, or it is damaged or of another format.
        StoreError: if a URL cannot be read, or the cache not written.
    """

    def __init__(self, where: str | Path | ShardStore, cache: str | Path | None = None) -> None:
        self.store = where if isinstance(where, ShardStore) else _opened(where, cache)
        self.gone: dict[int, str] = {}
        path = self.store.place(INDEX)
        try:
            about = json.loads(_metadata(self.index_path)["index"])
            if about["format"] != FORMAT:
                raise ValueError(about["format"])
            self._about = about
            self.fingerprint: str = about["fingerprint"]
            self.options: IndexOptions = about["options"]
            self.shards: list[IndexOptions] = about["shards"]
            self.reasons: dict[str, dict[str, str]] = about["skipped"]
            self.dropped: dict[str, dict[str, int]] = about.get("dropped", {})  # which older shards do not know
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: expected an index of {FORMAT}, found something else ({error})") from None
        if self.store.url and not isinstance(where, ShardStore) and (reason := self.verify_index()) is not None:
            raise InputError(reason)

    @property
    def folder(self) -> Path:
        """The folder of the shards; of those that are elsewhere, their part of the cache."""
        return self.store.folder

    @property
    def index_path(self) -> Path:
        """The file of the index."""
        return self.folder / INDEX

    def verify_index(self) -> str | None:
        """Return what is wrong with the index by its checksum, or ``None``.

        An index of an older version has no checksum: see ``has_checksum``.
        """
        if not self.has_checksum:
            return None
        file = safe_open(self.index_path, framework="numpy")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        expected, found = self._about["sha256"], index_checksum(tensors, self._about)
        if found == expected:
            return None
        advice = "pack again with --pack.overwrite true, or copy it anew"
        return f"{self.store.place(INDEX)}: expected contents with SHA-256 {expected}, found {found}; {advice}"

    @property
    def has_checksum(self) -> bool:
        """Whether the index has a checksum of itself, which those of older versions lack."""
        return "sha256" in self._about

    def path(self, number: int) -> Path:
        """Return the file of a shard, which is fetched first where it is elsewhere and not in the cache.

        Raises:
            InputError: if it is elsewhere and cannot be fetched; see ``ShardStore.fetch``.
        """
        shard = self.shards[number]
        return self.store.fetch(shard_name(number), shard["bytes"], shard["sha256"])

    def is_here(self, number: int) -> bool:
        """Tell whether a shard need not be fetched."""
        return self.store.url is None or self.store.has(shard_name(number), self.shards[number]["bytes"])

    def fetch(self, numbers: Iterable[int]) -> None:
        """Fetch the shards that are elsewhere and not in the cache, and note those that are not there or others.

        Raises:
            StoreError: if they cannot be fetched, or do not fit on the disk of the cache.
        """
        absent = [number for number in numbers if not self.is_here(number)]
        if not absent:
            return
        size = sum(self.shards[number]["bytes"] for number in absent)
        self.store.check_room(size)
        title = f"fetching {len(absent)} shards"
        with (
            tqdm(total=size, unit="B", unit_scale=True, desc=title, disable=not is_first()) as bar,
            ThreadPoolExecutor(FETCHING) as pool,
        ):
            waiting = {}
            for number in absent:
                shard = self.shards[number]
                task = pool.submit(self.store.fetch, shard_name(number), shard["bytes"], shard["sha256"], bar.update)
                waiting[task] = number
            try:
                for task in as_completed(waiting):
                    if isinstance(error := task.exception(), StoreError) or not isinstance(error, InputError | None):
                        raise error
                    if error is not None:
                        self.gone[waiting[task]] = str(error)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def broken(self, number: int) -> str | None:
        """Return what is wrong with a shard at first sight (missing, or of another size), or ``None``."""
        if self.store.url is not None:
            return self.gone.get(number)
        expected, path = self.shards[number], self.folder / shard_name(number)
        try:
            size = path.stat().st_size
        except OSError:
            size = None
        if size == expected["bytes"]:
            return None
        found = "no file" if size is None else f"{size} bytes"
        return (
            f"{path}: expected {expected['bytes']} bytes with SHA-256 {expected['sha256']}, found {found}; "
            "pack again, or copy it anew"
        )

    def verify(self, number: int) -> str | None:
        """Return what is wrong with a shard by its checksum, or ``None``; of a shard elsewhere, every byte is fetched.

        Raises:
            StoreError: if a shard that is elsewhere cannot be fetched.
        """
        if (wrong := self.broken(number)) is not None:
            return wrong
        size, expected = self.shards[number]["bytes"], self.shards[number]["sha256"]
        if self.store.url is not None:
            return self.store.verify(shard_name(number), size, expected)
        path = self.folder / shard_name(number)
        if (found := checksum(path)) == expected:
            return None
        return f"{path}: expected SHA-256 {expected}, found {found}; delete it and pack again, or copy it anew"


def _opened(where: str | Path, cache: str | Path | None) -> ShardStore:
    """Find the shards, and refuse a place without an index."""
    expected = "expected the index of finished shards, found no file; mcn-lightning prepare writes it last"
    try:
        store = open_store(where, INDEX, cache)
    except StoreError:
        raise
    except InputError:
        raise InputError(f"{str(where).rstrip('/')}/{INDEX}: {expected}") from None
    if any(store.folder.glob("*/index.json")):
        raise InputError(f"{where}: expected shards, found LitData records of an older version; pack them again")
    if not (store.folder / INDEX).is_file():
        raise InputError(f"{store.folder / INDEX}: {expected}")
    return store


def _metadata(path: Path) -> dict[str, str]:
    try:
        return safe_open(path, framework="numpy").metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, found a damaged one ({error})") from None
