"""What the index of a folder of shards says of the shards, and whether they are whole; read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mcn_lightning.errors import InputError

FORMAT = "mcn-lightning shards 1"
INDEX = "index.safetensors"


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def index_checksum(tensors: Mapping[str, Any], about: Mapping[str, Any]) -> str:
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
        folder: the folder.

    Raises:
        InputError: if there is no index, or it is damaged or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / INDEX
        if not path.is_file():
            raise InputError(
                f"{path}: expected the index of finished shards, found no file; mcn-lightning prepare writes it last"
            )
        try:
            about = json.loads(_metadata(path)["index"])
            if about["format"] != FORMAT:
                raise ValueError(about["format"])
            self._about = about
            self.fingerprint: str = about["fingerprint"]
            self.options: dict[str, Any] = about["options"]
            self.shards: list[dict[str, Any]] = about["shards"]
            self.reasons: dict[str, dict[str, str]] = about["skipped"]
            self.dropped: dict[str, dict[str, int]] = about.get("dropped", {})  # which older shards do not know
        except InputError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: expected an index of {FORMAT}, found something else ({error})") from None

    def verify_index(self) -> str | None:
        """Return what is wrong with the index by its checksum, or ``None``.

        An index of an older version has no checksum: see ``has_checksum``.
        """
        if not self.has_checksum:
            return None
        path = self.folder / INDEX
        file = safe_open(path, framework="numpy")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        expected, found = self._about["sha256"], index_checksum(tensors, self._about)
        if found == expected:
            return None
        advice = "pack again with --pack.overwrite true, or copy it anew"
        return f"{path}: expected contents with SHA-256 {expected}, found {found}; {advice}"

    @property
    def has_checksum(self) -> bool:
        """Whether the index has a checksum of itself, which those of older versions lack."""
        return "sha256" in self._about

    def broken(self, number: int) -> str | None:
        """Return what is wrong with a shard at first sight (missing, or of another size), or ``None``."""
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
        """Return what is wrong with a shard by its checksum, or ``None``."""
        if (wrong := self.broken(number)) is not None:
            return wrong
        path, expected = self.folder / shard_name(number), self.shards[number]["sha256"]
        if (found := checksum(path)) == expected:
            return None
        return f"{path}: expected SHA-256 {expected}, found {found}; delete it and pack again, or copy it anew"


def _metadata(path: Path) -> dict[str, str]:
    try:
        return safe_open(path, framework="numpy").metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: expected a whole safetensors file, found a damaged one ({error})") from None
