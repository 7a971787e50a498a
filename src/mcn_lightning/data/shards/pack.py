"""Packing a data set into shards: in parallel, and byte for byte the same however often it is stopped."""

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
from mcn_lightning.data.shards.header import FORMAT, INDEX, IndexOptions, index_checksum, shard_name
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

    A shard is written under another name, then renamed; the index comes last. Every shard holds one run of videos of
    one split, so what it holds does not depend on who writes it, or when.

    Args:
        splits: what to pack, by name.
        options: what a reader has to know and must not change (streams, bands, captions column); kept in the index.
        streams: visual streams, in their order.
        clips: how captions become clips.
        config: where to, and how.

    Returns:
        What was done.

    Raises:
        InputError: if the folder holds something else, or the disk is full.
        KeyboardInterrupt: after Ctrl-C; finished shards stay.
    """
    started, output = time.monotonic(), Path(config.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        # the processes of a run that was killed need a moment to notice
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
    options = options | {
        "splits": {name: {"min_time": split.min_time} for name, split in splits.items()},
        "streams": [dataclasses.asdict(stream) for stream in streams],
        "keep_frames": config.keep_frames,
        "shard_size": config.shard_size,
    }
    sources = gather(splits)
    job = Job(splits, options, list(streams), clips, config, output, sources)
    remove_partial(output)  # of a run that was killed
    known = fingerprint(options, sources)
    if (changes := _changes(job, known)) is not None:
        if not config.overwrite:
            raise _holds_something_else(output, changes)
        _remove(output)
    if (output / INDEX).is_file():
        _repair(job, ShardIndex(output))
        _clean(output)
        return
    plan = _plan(job, known)
    todo = [number for number in range(len(plan)) if not (output / shard_name(number)).is_file()]
    run(job, plan, todo)
    _write_index(job, plan, known)
    _clean(output)


def _changes(job: Job, known: str) -> list[str] | None:
    """Return how what a folder holds differs from what is to be packed; ``None`` where it does not.

    Args:
        job: what is to be packed.
        known: its fingerprint.
    """
    output, packed = job.output, None
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
        return None  # of older shards no times are known: overwrite packs them anew in any case
    return changes or ["the videos, or the size of their features"]


def _remove(output: Path) -> None:
    """Remove what a run of packing wrote, the index first: no reader finds a mixture."""
    for path in (output / INDEX, output / PLAN, *output.glob("shard-*"), output / SOURCES, output / SKIPPED):
        path.unlink(missing_ok=True)


def _repair(job: Job, index: ShardIndex) -> None:
    """Write the shards anew that a finished folder lacks.

    Raises:
        InputError: if they do not come out as the index has them.
    """
    lost = [number for number in range(len(index.shards)) if index.broken(number) is not None]
    for number in lost:
        (job.output / shard_name(number)).unlink(missing_ok=True)
    run(job, _ranges(job), lost)
    for number in lost:
        if (wrong := index.verify(number)) is not None:
            raise InputError(
                f"--pack.output: the data set has changed: {wrong}; pack it into another folder, or anew with "
                "--pack.overwrite true"
            )


def _holds_something_else(output: Path, changes: Sequence[str]) -> InputError:
    return InputError(
        f"--pack.output {output}: expected an empty folder, or shards of the same videos and options, found others: "
        f"{'; '.join(changes)}; nothing was done: choose another folder, or pack anew with --pack.overwrite true"
    )


def _plan(job: Job, known: str) -> list[Range]:
    """Return which videos each shard holds: as an earlier run has it, else by the sizes of the stored files."""
    path = job.output / PLAN
    if path.is_file():
        return [tuple(each) for each in read_json(path, "the plan of packing")["shards"]]
    plan = _ranges(job)
    _write(job.output / SOURCES, save(as_tensors(job.sources)))
    _write(path, json.dumps({"fingerprint": known, "options": job.options, "shards": plan}).encode())
    return plan


def _ranges(job: Job) -> list[Range]:
    """Return which videos each shard holds by the sizes of the stored files."""
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
    """Join what is known of the shards into the index."""
    columns: dict[str, dict[str, list[int]]] = {
        name: {column: [] for column in column_names(len(job.streams)) if column != "id_end"} for name in job.splits
    }
    spoken: list[list[str]] = []
    shards: list[IndexOptions] = []
    skipped: dict[str, dict[str, str]] = {name: {} for name in job.splits}
    dropped: dict[str, dict[str, int]] = {name: {} for name in job.splits}
    for number, (name, _, _) in enumerate(plan):
        about = read_json((job.output / shard_name(number)).with_suffix(".json"), "what is known of a shard")
        rows = about["rows"]
        rows["shard"] = [number if shard != BAD else BAD for shard in rows["shard"]]
        for column, values in rows.items():
            columns[name][column].extend(values)
        spoken.append(about["words"])
        skipped[name].update(about["skipped"])
        dropped[name] = total_reasons([dropped[name], about.get("dropped", {})])
        shards.append({key: about[key] for key in ("bytes", "sha256", "seconds", "bytes_in")})
    tensors: dict[str, Tensor] = {}
    kinds = COLUMNS | {f"{name}_{n}": kind for name, kind in STREAM_COLUMNS.items() for n in range(len(job.streams))}
    for name, split in job.splits.items():
        for column, values in columns[name].items():
            tensors[f"{name}/{column}"] = torch.tensor(values, dtype=kinds[column])
        ids = (split.source.id(index) for index in range(len(split.source)))
        tensors[f"{name}/ids"], tensors[f"{name}/id_end"] = bytes_of(ids)
    words = sorted({word for each in spoken for word in each})
    tensors["words"], tensors["word_end"] = bytes_of(words)
    numbers = {word: number for number, word in enumerate(words)}
    tensors["shard_word"] = torch.tensor([numbers[word] for each in spoken for word in each], dtype=torch.int32)
    tensors["shard_word_end"] = torch.tensor([len(each) for each in spoken], dtype=torch.int64).cumsum(0)
    about = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        "options": job.options,
        "shards": shards,
        "skipped": skipped,
        "dropped": dropped,
    }
    about["sha256"] = index_checksum(tensors, about)
    if any(skipped.values()):
        rows = [(split, job.splits[split].source.id(int(number)), reason)
                for split, reasons in skipped.items() for number, reason in reasons.items()]  # fmt: skip
        text = io.StringIO()
        csv.writer(text).writerows([("split", "video", "reason"), *rows])
        _write(job.output / SKIPPED, text.getvalue().encode())
    with replacing(job.output / INDEX) as partial:
        save_file(tensors, partial, {"index": json.dumps(about)})  # one key: the order of several is not fixed


def _clean(output: Path) -> None:
    """Remove what only an unfinished run needs."""
    for path in (*output.glob("shard-*.json"), output / PLAN):
        path.unlink(missing_ok=True)
    remove_partial(output)


def _report(index: ShardIndex, seconds: float) -> PackReport:
    beside = [path.stat().st_size for name in (INDEX, SOURCES) if (path := index.folder / name).is_file()]
    sizes = [shard["bytes"] for shard in index.shards] + beside
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
    """Write a small file so that it is whole under its name."""
    with replacing(path) as partial:
        partial.write_bytes(content)
