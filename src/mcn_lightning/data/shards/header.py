"""The index of a folder of shards, read without torch, and the verification of shards by it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from mcn_lightning.data.shards.store import ShardStore, StoreError, checksum, open_store
from mcn_lightning.errors import InputError
from mcn_lightning.files import reading
from mcn_lightning.signals import is_first

FORMAT = "mcn-lightning shards 1"
INDEX = "index.safetensors"
FETCHING = 4
"""Number of shards that a process fetches at once."""


class SplitOptions(TypedDict):
    """Options of one split: the length, in seconds, to which captions grow."""

    min_time: float


class IndexOptions(TypedDict, total=False):
    """Options of packing, which a reader must know or must not change. Older shards lack some."""

    bands: int
    train_column: str
    modalities: list[str]
    kind: str
    overrun: float
    captions: str | None
    span: str
    allow_missing: bool
    splits: dict[str, SplitOptions]
    streams: list[dict[str, object]]
    keep_frames: bool
    shard_size: int


class ShardInfo(TypedDict):
    """Size and checksum of a shard file, seconds of video in it, and bytes of the files that it was packed from."""

    bytes: int
    sha256: str
    seconds: float
    bytes_in: int


class IndexMetadata(TypedDict, total=False):
    """Metadata of the index. Older shards lack ``dropped`` and ``sha256``."""

    format: str
    fingerprint: str
    options: IndexOptions
    shards: list[ShardInfo]
    skipped: dict[str, dict[str, str]]
    dropped: dict[str, dict[str, int]]
    sha256: str


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def index_checksum(tensors: Mapping[str, ArrayLike], metadata: IndexMetadata) -> str:
    """Return the SHA-256 of the contents of an index, without its own checksum.

    Args:
        tensors: tables by name, as arrays or tensors.
        metadata: of the index.
    """
    # the checksum cannot be part of what it is made of
    items = {name: value for name, value in sorted(metadata.items()) if name != "sha256"}
    digest = hashlib.sha256(json.dumps(items).encode())
    for name in sorted(tensors):
        table = np.asarray(tensors[name])
        # type and shape too, as other tables may have the same bytes
        digest.update(f"\n{name} {table.dtype} {table.shape}\n".encode())
        digest.update(np.ascontiguousarray(table).data)
    return digest.hexdigest()


class ShardHeader:
    """The header of the index: the options of packing, size and checksum of each shard, and the skipped videos.

    Args:
        where: folder of the shards, their URL, or the store that another process has opened.
        cache: folder for files that are fetched from a URL, by default ``default_cache()``.

    Raises:
        InputError: if there is no index, or it is damaged or of another format.
        StoreError: if a URL cannot be read, or the cache cannot be written.
    """

    def __init__(self, where: str | Path | ShardStore, cache: str | Path | None = None) -> None:
        self.store = where if isinstance(where, ShardStore) else _opened(where, cache)
        self.gone: dict[int, str] = {}
        path = self.store.location(INDEX)
        stored = _read_metadata(self.index_path)
        try:
            metadata: IndexMetadata = json.loads(stored["index"])
            if metadata["format"] != FORMAT:
                raise ValueError(metadata["format"])
            self._metadata = metadata
            self.fingerprint = metadata["fingerprint"]
            self.options = metadata["options"]
            self.shards = metadata["shards"]
            self.reasons = metadata["skipped"]
            self.dropped = metadata.get("dropped", {})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: expected an index of {FORMAT}, found something else ({error})") from None
        # once for each run: worker processes get a store that was verified
        if self.store.url and not isinstance(where, ShardStore) and (reason := self.verify_index()) is not None:
            raise InputError(reason)

    @property
    def folder(self) -> Path:
        """The folder of the shards. For shards of a URL it is a folder in the cache."""
        return self.store.folder

    @property
    def index_path(self) -> Path:
        """The file of the index."""
        return self.folder / INDEX

    def verify_index(self) -> str | None:
        """Return what is wrong with the index by its checksum, or ``None``; see ``has_checksum``."""
        if not self.has_checksum:
            return None
        # NumPy, as a process that only checks shards need not wait for the import of torch
        file = safe_open(self.index_path, framework="numpy")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        expected, found = self._metadata["sha256"], index_checksum(tensors, self._metadata)
        if found == expected:
            return None
        advice = "pack again with --pack.overwrite true, or copy it anew"
        return f"{self.store.location(INDEX)}: expected contents with SHA-256 {expected}, found {found}; {advice}"

    @property
    def has_checksum(self) -> bool:
        """Whether the index has a checksum of itself. An index of an older version has none."""
        return "sha256" in self._metadata

    def path(self, number: int) -> Path:
        """Return the file of a shard, which is fetched first if it is only at the URL.

        Raises:
            InputError: if it cannot be fetched; see ``ShardStore.fetch``.
        """
        shard = self.shards[number]
        return self.store.fetch(shard_name(number), shard["bytes"], shard["sha256"])

    def is_here(self, number: int) -> bool:
        """Tell whether a shard is on this machine."""
        return self.store.url is None or self.store.has(shard_name(number), self.shards[number]["bytes"])

    def fetch(self, numbers: Iterable[int]) -> None:
        """Fetch the shards that are not on this machine, and note those that are missing or changed at the URL.

        Raises:
            StoreError: if they cannot be fetched, or do not fit on the disk of the cache.
        """
        absent = [number for number in numbers if not self.is_here(number)]
        if not absent:
            return
        size = sum(self.shards[number]["bytes"] for number in absent)
        # before the first byte, and not after hours of fetching
        self.store.check_space(size)
        title = f"fetching {len(absent)} shard{'s' * (len(absent) > 1)}"
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
                    try:
                        task.result()
                    except StoreError:  # concerns all shards, such as a lost connection
                        raise
                    except InputError as error:
                        self.gone[waiting[task]] = str(error)
            except BaseException:
                # also Ctrl-C: the pool would wait for every shard that is queued
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def broken(self, number: int) -> str | None:
        """Return what is wrong with a shard without reading it (missing, or of another size), or ``None``."""
        if self.store.url is not None:
            # shards of a URL are compared by size and checksum when they are fetched
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
        """Return what is wrong with a shard by its checksum, or ``None``. A shard of a URL is fetched for it.

        Raises:
            StoreError: if it cannot be fetched.
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
    """Open the store of the shards, and refuse one without an index."""
    try:
        store = open_store(where, INDEX, cache)
    except StoreError:
        raise
    except InputError:
        store = None
    if store is not None and any(store.folder.glob("*/index.json")):
        raise InputError(f"{where}: expected shards, found LitData records of an older version; pack them again")
    if store is None or not (store.folder / INDEX).is_file():
        expected = "expected the index of finished shards, found no file; mcn-lightning prepare writes it last"
        raise InputError(f"{str(where).rstrip('/')}/{INDEX}: {expected}")
    return store


def _read_metadata(path: Path) -> dict[str, str]:
    with reading(path, "a whole safetensors file", SafetensorError):
        return safe_open(path, framework="numpy").metadata() or {}
