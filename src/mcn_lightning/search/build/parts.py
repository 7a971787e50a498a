"""Finished blocks on disk, and the shards that they are joined to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mcn_lightning.files import reading, replacing
from mcn_lightning.search.manifest import FUSED
from mcn_lightning.search.vectors import SHARD_ROWS


@dataclass(frozen=True)
class Part:
    """A finished block.

    Args:
        clips: description of each clip.
        tensors: embeddings ``(n, D)`` float16 by name, in the order of the clips.
        skipped: videos that could not be used, with the reason.
    """

    clips: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    skipped: dict[str, str]


def write_part(path: Path, kind: str, parts: Sequence[dict[str, Any]], skipped: dict[str, str]) -> None:
    """Write a finished block, whole or not at all."""
    clips = [clip | {"kind": kind.removesuffix("s")} for part in parts for clip in part["clips"]]
    names = dict.fromkeys(name for part in parts for name in part["tensors"])
    # float16, as the index stores them
    tensors = {name: torch.cat([_rows(part, name) for part in parts]).half() for name in names}
    about = json.dumps({"clips": clips, "skipped": skipped}, ensure_ascii=False)
    with replacing(path) as partial:
        save_file(tensors, partial, {"about": about})


def _rows(part: dict[str, Any], name: str) -> Tensor:
    """Return the embeddings of a batch, zeros where all of its videos lack them."""
    found = part["tensors"]
    return found[name] if name in found else torch.zeros(len(part["clips"]), next(iter(found.values())).shape[1])


def read_part(path: Path) -> Part:
    """Read a finished block.

    Raises:
        InputError: if it is damaged.
    """
    # any of them, by the place of the damage: the header, its JSON or the bytes
    kinds = ValueError, KeyError, TypeError, SafetensorError
    with reading(path, "finished embeddings", *kinds, advice="delete the file"), safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    return Part(about["clips"], tensors, about["skipped"])


def stored_column(tensors: dict[str, Tensor], name: str, count: int) -> Tensor:
    """Return an embedding ``(n, D)`` float16 of a part; zeros where its videos lack it."""
    if name == FUSED:
        both = [tensors[each].float() for each in ("video", "audio") if each in tensors]
        return torch.stack(both).sum(dim=0).half() if both else stored_column(tensors, "video", count)
    if name in tensors:
        return tensors[name]
    return torch.zeros(count, next(iter(tensors.values())).shape[1], dtype=torch.float16)


def join_parts(parts: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Join parts to shards of at most ``SHARD_ROWS`` rows, unless a part has more."""
    waiting: list[dict[str, Tensor]] = []
    rows = 0
    for part in parts:
        count = len(next(iter(part.values())))
        if waiting and rows + count > SHARD_ROWS:
            yield _joined(waiting)
            waiting, rows = [], 0
        waiting.append(part)
        rows += count
    if waiting:
        yield _joined(waiting)


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
