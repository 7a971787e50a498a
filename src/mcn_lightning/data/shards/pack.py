"""Packing a data set into shards, in parallel. Interrupted packing continues, and gives the same bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save, save_file
from torch import Tensor

from mcn_lightning.data.captions import total_reasons
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.shards.files import BAD, COLUMNS, STREAM_COLUMNS, ShardIndex, column_names
from mcn_lightning.data.shards.header import (
    FORMAT,
    INDEX,
    IndexMetadata,
    IndexOptions,
    ShardInfo,
    index_checksum,
    shard_name,
)
from mcn_lightning.data.shards.job import SKIPPED, Job, PackConfig, PackReport, Range
from mcn_lightning.data.shards.packed_from import (
    SOURCES,
    as_tensors,
    differing_files,
    differing_options,
    fingerprint,
    gather,
    read_sources,
)
from mcn_lightning.data.shards.workers import remove_partial, run
from mcn_lightning.data.shards.writer import Split, bytes_of
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, replacing

PLAN = "plan.json"
LOCK = "lock"
LOCK_SECONDS = 5.0


def pack(splits: dict[str, Split], options: IndexOptions, streams: Sequence[VisualStream], clips: ClipConfig,
         config: PackConfig) -> PackReport:  # fmt: skip
    """Pack a data set into shards.

    A shard is written under another name and then renamed. The index comes last. Every shard holds consecutive videos
    of one split, so its contents do not depend on the process or the time of writing.

    Args:
        splits: the splits to pack, by name.
        options: options that a reader must know or must not change. The index stores them.
        streams: visual streams, in their order.
        clips: how captions become clips.
        config: options of packing.

    Returns:
        A report.

    Raises:
        InputError: if the folder holds something else, or the disk is full.
        KeyboardInterrupt: after Ctrl-C; finished shards stay.
    """
    started, output = time.monotonic(), Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # the workers of a killed run hold the lock until they notice that it is gone
        with FileLock(output / LOCK, timeout=LOCK_SECONDS):
            try:
                _pack(splits, options, streams, clips, config, output)
            finally:
                (output / LOCK).unlink(missing_ok=True)
    except Timeout:
        raise InputError(f"--pack.output {output}: another run is packing into this folder") from None
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(f"--pack.output {output}: expected a folder to write to, found: {found}") from error
    return _report(ShardIndex(output), time.monotonic() - started)


def _pack(splits: dict[str, Split], options: IndexOptions, streams: Sequence[VisualStream], clips: ClipConfig,
          config: PackConfig, output: Path) -> None:  # fmt: skip
    more: IndexOptions = {
        "splits": {name: {"min_time": split.min_time} for name, split in splits.items()},
        "streams": [dataclasses.asdict(stream) for stream in streams],
        "keep_frames": config.keep_frames,
        "shard_size": config.shard_size,
    }
    options = {**options, **more}
    sources = gather(splits)
    job = Job(splits, options, list(streams), clips, config, output, sources)
    remove_partial(output)  # files of a run that was killed
    known = fingerprint(options, sources)
    if (changes := _changes(job, known)) is not None:
        if not config.overwrite:
            raise _holds_something_else(output, changes)
        _remove(output)
    if (output / INDEX).is_file():
        # the index comes last, so the folder was finished, and only lost shards are missing
        _repair(job, ShardIndex(output))
        _clean(output)
        return
    plan = _plan(job, known)
    # a shard with its final name is whole, as it was renamed last
    todo = [number for number in range(len(plan)) if not (output / shard_name(number)).is_file()]
    run(job, plan, todo)
    _write_index(job, plan, known)
    _clean(output)


def _changes(job: Job, known: str) -> list[str] | None:
    """Return the differences between the contents of the folder and the job, or ``None`` if there are none.

    Args:
        job: what is to be packed.
        known: its fingerprint.
    """
    output = job.output
    packed: IndexOptions | None = None
    if (output / INDEX).is_file():
        try:
            index = ShardIndex(output)
        except InputError:
            if job.config.overwrite:
                return ["an index that cannot be read"]
            raise
        if index.verify_index() is not None:
            return [f"a damaged {INDEX}"]
        packed, found = index.options, index.fingerprint
    elif (output / PLAN).is_file():
        plan = read_json(output / PLAN, "the plan of packing")
        packed, found = plan.get("options"), plan["fingerprint"]
    elif any(output.glob("shard-*")):
        return ["shards without a plan"]
    else:
        return None
    stamps = read_sources(output / SOURCES)
    changes = [*differing_options(packed, job.options), *differing_files(stamps, job.sources)]
    if not changes and found == known and (stamps or not job.config.overwrite):
        return None  # older shards have no times of their files: overwrite packs them anew in any case
    return changes or ["the videos, or the size of their features"]


def _remove(output: Path) -> None:
    """Remove the files of packing. The index goes first, so that no reader finds old and new shards together."""
    for path in (output / INDEX, output / PLAN, *output.glob("shard-*"), output / SOURCES, output / SKIPPED):
        path.unlink(missing_ok=True)


def _repair(job: Job, index: ShardIndex) -> None:
    """Write missing shards of a finished folder again.

    Raises:
        InputError: if a new shard differs from the index.
    """
    lost = [number for number in range(len(index.shards)) if index.broken(number) is not None]
    for number in lost:
        (job.output / shard_name(number)).unlink(missing_ok=True)
    # the plan is gone by now, and the same files give the same one
    run(job, _ranges(job), lost)
    for number in lost:
        if (wrong := index.verify(number)) is not None:
            advice = "pack it into another folder, or anew with --pack.overwrite true"
            raise InputError(f"--pack.output: the data set has changed: {wrong}; {advice}")


def _holds_something_else(output: Path, changes: Sequence[str]) -> InputError:
    return InputError(
        f"--pack.output {output}: expected an empty folder, or shards of the same videos and options, found others: "
        f"{'; '.join(changes)}; nothing was done: choose another folder, or pack anew with --pack.overwrite true"
    )


def _plan(job: Job, known: str) -> list[Range]:
    """Return the videos of each shard: from the plan of an earlier run, else by the sizes of the stored files."""
    path = job.output / PLAN
    if path.is_file():
        return [tuple(row) for row in read_json(path, "the plan of packing")["shards"]]
    plan = _ranges(job)
    # before the plan, which marks the folder as begun
    _write(job.output / SOURCES, save(as_tensors(job.sources)))
    _write(path, json.dumps({"fingerprint": known, "options": job.options, "shards": plan}).encode())
    return plan


def _ranges(job: Job) -> list[Range]:
    """Return the videos of each shard by the sizes of the stored files."""
    plan: list[Range] = []
    for name, split in job.splits.items():
        first, size = 0, 0
        stamps = job.sources[name]
        for index, (visual, audio) in enumerate(zip(stamps.visual.tolist(), stamps.audio.tolist(), strict=True)):
            size += audio + (visual if job.config.keep_frames else visual // 3)  # captions overlap: about a third
            if size >= job.config.shard_size:
                plan.append((name, first, index + 1))
                first, size = index + 1, 0
        if first < len(split.source):
            plan.append((name, first, len(split.source)))
    return plan


def _write_index(job: Job, plan: list[Range], fingerprint: str) -> None:
    """Write the index from the JSON file beside each shard."""
    columns: dict[str, dict[str, list[int]]] = {
        name: {column: [] for column in column_names(len(job.streams)) if column != "id_end"} for name in job.splits
    }
    vocabularies: list[list[str]] = []
    shards: list[ShardInfo] = []
    skipped: dict[str, dict[str, str]] = {name: {} for name in job.splits}
    dropped: dict[str, dict[str, int]] = {name: {} for name in job.splits}
    for number, (name, _, _) in enumerate(plan):
        shard = read_json((job.output / shard_name(number)).with_suffix(".json"), "the description of a shard")
        rows = shard["rows"]
        # a shard is written without knowing its number
        rows["shard"] = [number if row != BAD else BAD for row in rows["shard"]]
        for column, values in rows.items():
            columns[name][column].extend(values)
        vocabularies.append(shard["words"])
        skipped[name].update(shard["skipped"])
        dropped[name] = total_reasons([dropped[name], shard.get("dropped", {})])
        shards.append(
            ShardInfo(
                bytes=shard["bytes"], sha256=shard["sha256"], seconds=shard["seconds"], bytes_in=shard["bytes_in"]
            )
        )
    tensors: dict[str, Tensor] = {}
    kinds = COLUMNS | {f"{name}_{n}": kind for name, kind in STREAM_COLUMNS.items() for n in range(len(job.streams))}
    for name, split in job.splits.items():
        for column, values in columns[name].items():
            tensors[f"{name}/{column}"] = torch.tensor(values, dtype=kinds[column])
        ids = (split.source.id(index) for index in range(len(split.source)))
        tensors[f"{name}/ids"], tensors[f"{name}/id_end"] = bytes_of(ids)
    spoken = [word for vocabulary in vocabularies for word in vocabulary]
    # sorted: the bytes of the index must not depend on the order of the shards' words
    words = sorted({*spoken})
    tensors["words"], tensors["word_end"] = bytes_of(words)
    numbers = {word: number for number, word in enumerate(words)}
    tensors["shard_word"] = torch.tensor([numbers[word] for word in spoken], dtype=torch.int32)
    tensors["shard_word_end"] = torch.tensor([len(vocabulary) for vocabulary in vocabularies]).cumsum(0)
    metadata: IndexMetadata = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "options": job.options,
        "shards": shards,
        "skipped": skipped,
        "dropped": dropped,
    }
    metadata["sha256"] = index_checksum(tensors, metadata)
    if any(skipped.values()):
        rows = [(split, job.splits[split].source.id(int(number)), reason)
                for split, reasons in skipped.items() for number, reason in reasons.items()]  # fmt: skip
        text = io.StringIO()
        csv.writer(text).writerows([("split", "video", "reason"), *rows])
        _write(job.output / SKIPPED, text.getvalue().encode())
    with replacing(job.output / INDEX) as partial:
        # one key, as safetensors does not fix the order of several, and the bytes must not vary
        save_file(tensors, partial, {"index": json.dumps(metadata)})


def _clean(output: Path) -> None:
    """Remove files that only an unfinished run needs."""
    for path in (*output.glob("shard-*.json"), output / PLAN):
        path.unlink(missing_ok=True)
    remove_partial(output)


def _report(index: ShardIndex, seconds: float) -> PackReport:
    others = [path.stat().st_size for name in (INDEX, SOURCES) if (path := index.folder / name).is_file()]
    sizes = [shard["bytes"] for shard in index.shards] + others
    skipped, videos = {}, 0
    for split in index.splits:
        videos += int((index.tables[f"{split}/shard"] != BAD).sum())
        ids = index.ids(split)
        skipped.update({ids[int(number)]: reason for number, reason in index.reasons[split].items()})
    return PackReport(
        videos=videos,
        hours=sum(shard["seconds"] for shard in index.shards) / 3600,
        bytes_in=sum(shard["bytes_in"] for shard in index.shards),
        bytes_out=sum(sizes),
        shards=len(index.shards),
        skipped=skipped,
        dropped=total_reasons(index.dropped.values()),
        seconds=seconds,
    )


def _write(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(content)
