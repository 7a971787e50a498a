"""Source files and options of shards, and what has changed in them since packing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.data.shards.files import Strings
from mcn_lightning.data.shards.writer import Split, bytes_of

SOURCES = "sources.safetensors"
"""File beside the index. Only packing reads it."""
_OPTIONS = {
    "bands": "--data.audio.bands",
    "captions": "--data.captions (its contents)",
    "keep_frames": "--pack.keep_frames",
    "kind": "--data.clips.kind",
    "modalities": "--data.modalities",
    "overrun": "--data.clips.overrun",
    "shard_size": "--pack.shard_size",
    "span": "--data.clips.span",
    "splits": "the splits and their --data.clips.min_time",
    "streams": "--data.streams",
    "train_column": "--data.text.train_column",
}


@dataclass(frozen=True)
class Stamps:
    """The source files of the videos of a split.

    Args:
        ids: of the videos.
        visual: bytes of their visual features, ``(videos,)`` int64.
        audio: bytes of their spectrograms, ``(videos,)`` int64.
        time: latest change of these files, in nanoseconds, ``(videos,)`` int64, or 0 if there is no file.
    """

    ids: Sequence[str]
    visual: Tensor
    audio: Tensor
    time: Tensor


def gather(splits: Mapping[str, Split]) -> dict[str, Stamps]:
    """Return size and time of the source files of every video."""
    found = {}
    for name, split in splits.items():
        source, rows = split.source, []
        for index in tqdm(range(len(source)), f"sizes of {name}", unit=" videos", disable=None, delay=2):
            rows.append((*source.stored_bytes(index), source.changed_at(index)))
        visual, audio, time = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3).T.contiguous()
        found[name] = Stamps([source.id(index) for index in range(len(source))], visual, audio, time)
    return found


def fingerprint(options: Mapping[str, object], sources: Mapping[str, Stamps]) -> str:
    """Return a checksum of the options, and of the ids and sizes of all videos."""
    # sorted: the order of options may change with the code
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for name, stamps in sources.items():
        digest.update(f"\n{name}".encode())
        # without times, which change when a data set is copied
        for video, *sizes in zip(stamps.ids, stamps.visual.tolist(), stamps.audio.tolist(), strict=True):
            digest.update(f"\n{video} {tuple(sizes)}".encode())
    return digest.hexdigest()


def as_tensors(sources: Mapping[str, Stamps]) -> dict[str, Tensor]:
    """Return the contents of the file of the sources."""
    tensors = {}
    for name, stamps in sources.items():
        tensors[f"{name}/ids"], tensors[f"{name}/id_end"] = bytes_of(stamps.ids)
        for column in ("visual", "audio", "time"):
            tensors[f"{name}/{column}"] = getattr(stamps, column).clone()
    return tensors


def read_sources(path: Path) -> dict[str, Stamps]:
    """Read the file of the sources. The result is empty if there is none, as in older versions."""
    if not path.is_file():
        return {}
    tensors, found = load_file(path), {}
    # the names of the splits, from keys such as train/ids
    for name in dict.fromkeys(key.split("/")[0] for key in sorted(tensors)):
        ids = list(Strings(tensors[f"{name}/ids"].numpy(), tensors[f"{name}/id_end"].numpy()))
        found[name] = Stamps(ids, *(tensors[f"{name}/{column}"] for column in ("visual", "audio", "time")))
    return found


def differing_options(packed: Mapping[str, object] | None, wanted: Mapping[str, object]) -> list[str]:
    """Describe the options that differ from those of packing.

    Args:
        packed: options of packing, or ``None`` if not known.
        wanted: present options.
    """
    if packed is None:
        return []
    now = json.loads(json.dumps(wanted))  # tuples become lists, as in the stored options
    changed = [name for name in sorted({*packed, *now}) if packed.get(name) != now.get(name)]
    return [
        _OPTIONS.get(name, name)
        + ("" if name == "captions" else f" was {packed.get(name, 'widest')}, is {now.get(name, 'widest')}")
        for name in changed
    ]


def differing_files(packed: Mapping[str, Stamps], now: Mapping[str, Stamps]) -> list[str]:
    """Describe the videos and source files that differ from those of packing.

    Args:
        packed: source files of packing, empty if not known.
        now: present source files.
    """
    found = []
    for name in packed.keys() & now.keys():
        old, new = packed[name], now[name]
        if old.ids != new.ids:
            gone, added = len({*old.ids} - {*new.ids}), len({*new.ids} - {*old.ids})
            found.append(
                f"the videos of {name} ({gone} are gone, {added} are new)" if gone or added else f"the order of {name}"
            )
            continue
        sizes = (old.visual != new.visual) | (old.audio != new.audio)
        # each video once: one of another size has another time as well
        for what, changed in (("size", sizes), ("time", (old.time != new.time) & ~sizes)):
            if count := int(changed.sum()):
                first = new.ids[int(changed.nonzero()[0])]
                found.append(f"the features of {count} videos of {name} by their {what}, first {first}")
    return sorted(found)
