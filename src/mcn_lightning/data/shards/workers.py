"""The worker processes that write shards. One process writes a whole shard."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tqdm import tqdm

from mcn_lightning.data.shards.header import FORMAT, shard_name
from mcn_lightning.data.shards.job import Job, Range
from mcn_lightning.data.shards.store import checksum
from mcn_lightning.data.shards.writer import ShardContents
from mcn_lightning.distributed import usable_cores
from mcn_lightning.errors import InputError
from mcn_lightning.files import PARTIAL, replacing


def run(job: Job, plan: list[Range], todo: list[int]) -> None:
    """Write the missing shards in worker processes, with a progress bar.

    Args:
        job: what is packed.
        plan: videos of each shard.
        todo: numbers of the missing shards.

    Raises:
        InputError: if the disk is full, or a process was killed.
        KeyboardInterrupt: after Ctrl-C; finished shards stay.
    """
    total = sum(stop - first for _, first, stop in plan)
    done = total - sum(plan[number][2] - plan[number][1] for number in todo)
    if not todo:
        return
    count = min(job.config.processes or usable_cores(), len(todo))
    context = multiprocessing.get_context("fork")  # forked processes share the captions, which may be large
    counter, halt = context.Value("q", done), context.Value("b", 0)
    pool = ProcessPoolExecutor(count, context, _start_worker, (job, plan, counter, halt, os.getpid()))
    former = signal.getsignal(signal.SIGINT)
    interrupted = _take_interrupt()
    bar = tqdm(total=total, initial=done, desc="packing", unit=" videos", smoothing=0.05)
    try:
        waiting: set[Future[None]] = {pool.submit(_pack_shard, number) for number in todo}
        while waiting:
            # half a second: the bar moves and Ctrl-C is seen while shards of a gigabyte are written
            finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            bar.update(counter.value - bar.n)
            for future in finished:
                future.result()
            if interrupted.is_set():
                raise KeyboardInterrupt
    except BaseException as error:
        if (message := _describe_failure(error, job, len(plan))) is not None:
            raise InputError(message) from None
        raise
    finally:
        halt.value = 1  # workers read it after each video: a killed worker could leave a lock behind
        pool.shutdown(cancel_futures=True)
        bar.close()
        remove_partial(job.output)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, former)


def _take_interrupt() -> threading.Event:
    """Return an event that the first Ctrl-C sets. An exception at any line could leave a lock of the pool behind."""
    event = threading.Event()

    def handle(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handle)
    return event


def _describe_failure(error: BaseException, job: Job, shards: int) -> str | None:
    """Return the message for a full disk or a killed process, or ``None`` for other errors."""
    finished = sum((job.output / shard_name(number)).is_file() for number in range(shards))
    state = f"{finished} of {shards} shards are finished and kept"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or (isinstance(error, SafetensorError) and "No space left" in str(error)):
        return f"--pack.output {job.output}: the disk is full; {state}: free some space and start again"
    if isinstance(error, BrokenProcessPool):
        return (
            f"--pack.processes: a process was killed, perhaps for want of memory; {state}: give the same command "
            "again, with fewer processes or a smaller --pack.shard_size"
        )
    return None


_worker: tuple[Job, list[Range], Synchronized, Synchronized]


def _start_worker(job: Job, plan: list[Range], counter: Synchronized, halt: Synchronized, parent: int) -> None:
    global _worker
    _worker = job, plan, counter, halt
    # one thread a process, as there is a process for each core
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and sets halt
    threading.Thread(target=_exit_without, args=(parent,), daemon=True).start()


def _exit_without(parent: int) -> None:
    """End this process when its parent was killed, as nothing else would stop it."""
    # an orphan gets another parent; Linux alone could send a signal for it
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _pack_shard(number: int) -> None:
    """Write one shard, and its description for the index."""
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
        description = shard.describe() | {"bytes": partial.stat().st_size, "sha256": checksum(partial)}
        # first, so that a shard with its final name always has a description
        with replacing(path.with_suffix(".json")) as file:
            file.write_text(json.dumps(description))


def remove_partial(output: Path) -> None:
    """Remove unfinished files of a killed run."""
    for path in output.glob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)
