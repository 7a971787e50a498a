"""Packing a data set into shards: in parallel, and byte for byte the same however often it is stopped."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import errno
import fcntl
import io
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.config import Options
from mcn_lightning.data.captions import describe_dropped, total_reasons
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.shards.files import BAD, COLUMNS, STREAM_COLUMNS, ShardIndex
from mcn_lightning.data.shards.header import FORMAT, INDEX, checksum, index_checksum, shard_name
from mcn_lightning.data.shards.packed_from import (
    SOURCES,
    Stamps,
    as_tensors,
    differing_files,
    differing_options,
    fingerprint,
    gather,
    read_sources,
)
from mcn_lightning.data.shards.writer import ShardContents, Split, bytes_of, column_names
from mcn_lightning.errors import InputError
from mcn_lightning.files import PARTIAL, replacing
from mcn_lightning.ranges import NonNegativeInt, PositiveInt
from mcn_lightning.text_files import read_json

PLAN = "plan.json"
SKIPPED = "skipped.csv"
LOCK = "lock"


@dataclass(frozen=True)
class PackConfig(Options, option="--pack"):
    """How shards are written.

    Args:
        output: folder, or with litdata also address, to write; shards of an earlier, unfinished run with the same
            options in it are kept.
        shard_size: bytes of a shard, about; a process needs twice as much memory.
        keep_frames: store the rows of the visual features in place of the pooled vector of each caption: twice the
            bytes, but any clips.min_time, and windows.
        processes: processes that read and write; 0 for one a core.
        overwrite: pack anew where the folder holds shards of other options, or of source files that have changed since;
            otherwise that is refused.
        format: safetensors for a file system, or litdata for object stores too (s3://, gs://; the extra litdata).
    """

    output: str
    shard_size: PositiveInt = 1_000_000_000
    keep_frames: bool = False
    processes: NonNegativeInt = 0
    overwrite: bool = False
    format: Literal["safetensors", "litdata"] = "safetensors"


@dataclass(frozen=True)
class PackReport:
    """What a run of packing did.

    Args:
        videos: videos packed, those of earlier runs included.
        hours: their length.
        bytes_in: bytes of their feature files.
        bytes_out: bytes of the shards and the index.
        shards: how many shards.
        skipped: id of each video that was left out, and why.
        dropped: captions of the other videos that were left out, by reason.
        seconds: what this run took.
    """

    videos: int
    hours: float
    bytes_in: int
    bytes_out: int
    shards: int
    skipped: dict[str, str]
    dropped: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        share = 100 * self.bytes_out / max(self.bytes_in, 1)
        lines = [
            f"packed {self.videos} videos ({self.hours:.1f} h) into {self.shards} shards in {self.seconds:.0f} s",
            f"{self.bytes_in / 1e9:.2f} GB in, {self.bytes_out / 1e9:.2f} GB out ({share:.0f} %)",
            f"skipped {len(self.skipped)} videos" + (":" if self.skipped else ""),
        ]
        lines += [f"  {name}: {reason}" for name, reason in list(self.skipped.items())[:10]]
        if len(self.skipped) > 10:
            lines.append(f"  and {len(self.skipped) - 10} more, all of them in {SKIPPED}")
        if self.dropped:
            lines.append(f"dropped {describe_dropped(self.dropped)}")
        return "\n".join(lines)


def pack(splits: dict[str, Split], options: dict[str, Any], streams: Sequence[VisualStream], clips: ClipConfig,
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
        with _lock(output):
            _pack(splits, options, streams, clips, config, output)
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError(f"--pack.output {output}: expected a folder to write to, found: {found}") from error
    return _report(ShardIndex(output), time.monotonic() - started)


@contextlib.contextmanager
def _lock(output: Path) -> Iterator[None]:
    """Hold a folder for one run; the lock ends with the process that holds it, however it ends."""
    path = output / LOCK
    with open(path, "w") as file:
        for waited in range(50):  # the processes of a run that was killed need a moment to notice
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited == 49:
                    raise InputError(f"--pack.output {output}: another run is packing into this folder") from None
                time.sleep(0.1)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _pack(splits: dict[str, Split], options: dict[str, Any], streams: Sequence[VisualStream], clips: ClipConfig,
          config: PackConfig, output: Path) -> None:  # fmt: skip
    options = options | {
        "splits": {name: {"min_time": split.min_time} for name, split in splits.items()},
        "streams": [dataclasses.asdict(stream) for stream in streams],
        "keep_frames": config.keep_frames,
        "shard_size": config.shard_size,
    }
    sources = gather(splits)
    job = _Job(splits, options, list(streams), clips, config, output, sources)
    _remove_partial(output)  # of a run that was killed
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
    _run(job, plan, todo)
    _write_index(job, plan, known)
    _clean(output)


def _changes(job: _Job, known: str) -> list[str] | None:
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


def _repair(job: _Job, index: ShardIndex) -> None:
    """Write the shards anew that a finished folder lacks.

    Raises:
        InputError: if they do not come out as the index has them.
    """
    lost = [number for number in range(len(index.shards)) if index.broken(number) is not None]
    for number in lost:
        (job.output / shard_name(number)).unlink(missing_ok=True)
    _run(job, _ranges(job), lost)
    for number in lost:
        if (wrong := index.verify(number)) is not None:
            raise InputError(
                f"--pack.output: the data set has changed: {wrong}; pack it into another folder, or anew with "
                "--pack.overwrite true"
            )


@dataclass(frozen=True)
class _Job:
    splits: dict[str, Split]
    options: dict[str, Any]
    streams: list[VisualStream]
    clips: ClipConfig
    config: PackConfig
    output: Path
    sources: dict[str, Stamps]


Range = tuple[str, int, int]
"""Videos ``first`` to before ``stop`` of a split: what one shard holds."""


def _holds_something_else(output: Path, changes: Sequence[str]) -> InputError:
    return InputError(
        f"--pack.output {output}: expected an empty folder, or shards of the same videos and options, found others: "
        f"{'; '.join(changes)}; nothing was done: choose another folder, or pack anew with --pack.overwrite true"
    )


def _plan(job: _Job, known: str) -> list[Range]:
    """Return which videos each shard holds: as an earlier run has it, else by the sizes of the stored files."""
    path = job.output / PLAN
    if path.is_file():
        return [tuple(each) for each in read_json(path, "the plan of packing")["shards"]]
    plan = _ranges(job)
    _write(job.output / SOURCES, save(as_tensors(job.sources)))
    _write(path, json.dumps({"fingerprint": known, "options": job.options, "shards": plan}).encode())
    return plan


def _ranges(job: _Job) -> list[Range]:
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


def _run(job: _Job, plan: list[Range], todo: list[int]) -> None:
    """Write the shards that are missing, in processes, with a progress bar."""
    total = sum(stop - first for _, first, stop in plan)
    done = total - sum(plan[number][2] - plan[number][1] for number in todo)
    if not todo:
        return
    count = min(job.config.processes or len(os.sched_getaffinity(0)), len(todo))
    context = multiprocessing.get_context("fork")  # the captions of a data set may be large: shared, not copied
    counter, halt = context.Value("q", done), context.Value("b", 0)
    pool = ProcessPoolExecutor(count, context, _start_worker, (job, plan, counter, halt, os.getpid()))
    former = signal.getsignal(signal.SIGINT)
    interrupted = _take_interrupt()
    bar = tqdm(total=total, initial=done, desc="packing", unit=" videos", smoothing=0.05)
    try:
        waiting: set[Future[None]] = {pool.submit(_pack_shard, number) for number in todo}
        while waiting:
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
            for future in finished:
                future.result()
            if interrupted.is_set():
                raise KeyboardInterrupt
    except BaseException as error:
        kept = sum((job.output / shard_name(number)).is_file() for number in range(len(plan)))
        state = f"{kept} of {len(plan)} shards are finished and kept"
        if _is_full_disk(error):
            raise InputError(
                f"--pack.output {job.output}: the disk is full; {state}: free some space and start again"
            ) from None
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"--pack.processes: a process was killed, perhaps for want of memory; {state}: give the same command "
                "again, with fewer processes or a smaller --pack.shard_size"
            ) from None
        raise
    finally:
        halt.value = 1  # workers look at it after each video, so that nobody has to be killed with a lock in his hands
        pool.shutdown(cancel_futures=True)
        bar.close()
        _remove_partial(job.output)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, former)


def _take_interrupt() -> threading.Event:
    """Let the first Ctrl-C set an event: an exception just anywhere could leave a lock of the pool behind."""
    event = threading.Event()

    def note(*_: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, note)
    return event


def _is_full_disk(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, SafetensorError) and "No space left" in str(error)


_worker: tuple[_Job, list[Range], Any, Any]


def _start_worker(job: _Job, plan: list[Range], counter: Any, halt: Any, parent: int) -> None:
    global _worker
    _worker = job, plan, counter, halt
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has been killed: nobody would ever stop it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _pack_shard(number: int) -> None:
    """Write one shard, and what the index will say of it."""
    job, plan, counter, halt = _worker
    name, first, stop = plan[number]
    split, shard = job.splits[name], ShardContents(job.streams, job.clips, job.config.keep_frames)
    for index in range(first, stop):
        shard.add(split, index)
        with counter.get_lock():
            counter.value += 1
        if halt.value:
            return
    path = job.output / shard_name(number)
    with replacing(path) as partial:
        save_file(shard.tensors(), partial, {"format": FORMAT})
        about = shard.about() | {"bytes": partial.stat().st_size, "sha256": checksum(partial)}
        _write(path.with_suffix(".json"), json.dumps(about).encode())


def _write_index(job: _Job, plan: list[Range], fingerprint: str) -> None:
    """Join what is known of the shards into the index."""
    columns: dict[str, dict[str, list[int]]] = {
        name: {column: [] for column in column_names(len(job.streams)) if column != "id_end"} for name in job.splits
    }
    spoken: list[list[str]] = []
    shards, skipped = [], {name: {} for name in job.splits}  # type: ignore[var-annotated]
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
    _remove_partial(output)


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


def _remove_partial(output: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in output.glob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)
