"""The order of an epoch over all processes, a loader with a time limit, and batches of several videos."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from mcn_lightning.batch import MODALITIES, BadVideo, ClipBatch
from mcn_lightning.errors import InputError
from mcn_lightning.memory import SharedMemoryError, join
from mcn_lightning.signals import start_forkserver


def start_method(processes: int) -> str | None:
    """Return the start method of a loader's workers.

    Args:
        processes: number of processes of the run.
    """
    if processes == 1:
        return None
    # a process of a distributed run has threads, and forking it could copy a held lock into the worker; the server
    # imports the data set once, and its workers do not have to
    multiprocessing.get_context("forkserver").set_forkserver_preload(["mcn_lightning.data.dataset"])
    start_forkserver()
    return "forkserver"


def serve_parent(worker: int) -> None:
    """Let a worker end when its training process ends, and not before (called in workers)."""
    # the training process handles these signals and decides when its workers end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # torch watches the parent of the system, which is the server for workers of a forkserver
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        # 1: it was the parent that ended, and so the work is not done
        parent.join()
        os._exit(1)


class ClipLoader(DataLoader):
    """A data loader whose timeout is one clear line."""

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        """Return the batches.

        Raises:
            InputError: if no batch came in time.
        """
        batches = super().__iter__()
        while True:
            late = threading.Event()
            watch = self._watch(batches, late)
            try:
                batch = next(batches)
            except StopIteration:
                return
            except SharedMemoryError as error:
                batches._shutdown_workers()  # type: ignore[attr-defined]  # as torch does after the last batch
                # torch puts the traceback of the worker before the message
                raise InputError(str(error).strip().splitlines()[-1].split(": ", 1)[-1]) from None
            except (RuntimeError, EOFError, OSError) as error:
                # torch says only in the text of a RuntimeError that a batch was late
                if not late.is_set() and not str(error).startswith("DataLoader timed out"):
                    raise
                why = "the disk stalls, the reading processes are slow to start, or --data.num_workers is too low"
                wanted = f"a batch within {self.timeout:g} s"
                raise InputError(f"--data.timeout: expected {wanted}, found none; {why}") from None
            finally:
                if watch is not None:
                    watch.cancel()
            yield batch.received() if self.num_workers and isinstance(batch, ClipBatch) else batch

    def _watch(self, batches: Any, late: threading.Event) -> threading.Timer | None:
        """Kill workers that are far too late."""
        # torch's own timeout does not help if a worker stalls while it holds a lock that this process needs
        if not self.num_workers or not self.timeout:
            return None

        def kill() -> None:
            late.set()
            for worker in batches._workers:
                with contextlib.suppress(OSError):
                    os.kill(worker.pid, signal.SIGKILL)

        # later than torch's own timeout, which ends more gently
        watch = threading.Timer(self.timeout + min(self.timeout, 10.0), kill)
        # a timer that waits must not keep a finished run alive
        watch.daemon = True
        watch.start()
        return watch


class CopyStream:
    """Copies batches to a GPU on a stream of its own, so that the copy runs beside the kernels of the step before."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def move(self, batch: ClipBatch, device: torch.device) -> ClipBatch:
        """Return the batch on a device. On a GPU the host does not wait; the work that is queued next does."""
        if device.type != "cuda":
            return batch.to(device, non_blocking=device.type != "mps")  # where torch has a race
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(stream):
            there = batch.to(device, non_blocking=True)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        # else the memory could be used again while the step still reads it: it belongs to the other stream
        there.record_stream(current)
        return there


class ClipSampler(DistributedSampler[tuple[int, int]]):
    """The order of the videos of an epoch, as (epoch, index) pairs.

    It is a ``DistributedSampler`` so that Lightning does not replace it. All processes share one order. Each step takes
    its next videos, and the first process takes the first of these. So the clips of a step have the order of a run with
    one process. The position in an epoch is one number, the videos seen by all processes, and a run may continue with
    another number of processes.

    Args:
        count: number of videos of the data set.
        seed: the order depends only on (seed, epoch).
        shuffle: use a random order in each epoch; otherwise the listed one.
        rank: rank of this process.
        world: number of processes.
        batch_size: videos of a batch in each process. An epoch holds whole batches only.
        end: use of the videos after the last whole batch of all processes. "drop" skips them in this epoch. "pad" fills
            the batch with the first videos of the order. Evaluation counts each clip id once.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        end: Literal["drop", "pad"] = "drop",
    ) -> None:
        super().__init__(range(count), world, rank, shuffle, seed)  # type: ignore[arg-type]
        self.count = count
        self.batch_size = batch_size
        self.end = end
        self._seen = 0

    def skip(self, videos: int) -> None:
        """Skip the first videos of the order in the next pass only, as all processes have seen them."""
        self._seen = videos

    def size(self, seen: int = 0) -> int:
        """Return the number of videos of this process in an epoch of which ``seen`` videos are done."""
        left, whole = max(self.count - seen, 0), self.num_replicas * self.batch_size
        return (left // whole if self.end == "drop" else -(-left // whole)) * self.batch_size

    def __len__(self) -> int:
        return self.size()

    @property
    def videos_a_step(self) -> int:
        """Number of videos of a batch, over all processes."""
        return self.batch_size * self.num_replicas

    def note(self) -> str:
        """Return a line about the videos after the last whole batch, empty if there are none."""
        left = self.count % self.videos_a_step
        if left and self.end == "drop":
            return f"each epoch leaves out {left} of {self.count} training videos, which fill no batch"
        more = self.videos_a_step - left
        return f"each epoch of {self.count} training videos ends with {more} that it had already" if left else ""

    def some(self, share: float) -> list[tuple[int, int]]:
        """Return this process's part of a share of the videos, in the order of the epoch.

        The processes take batches in turn, as in training.
        """
        order = self.order()[: max(1, round(share * self.count))].tolist()
        batches = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        return [(self.epoch, index) for batch in batches[self.rank :: self.num_replicas] for index in batch]

    def order(self) -> np.ndarray:
        """Return the order of the epoch for all processes."""
        if not self.shuffle:
            return np.arange(self.count)
        # no rank in the seed: all processes must take their videos from one order
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.count)

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        order = self.order()
        size, left = self.size(self._seen), order[self._seen :]
        self._seen = 0
        # repeats the order as often as needed, for "pad" with fewer videos than a step takes
        filled = np.resize(np.concatenate([left, order]), max(size * self.num_replicas, 1))
        # (steps, processes, batch): in each step the first process takes the first videos
        steps = filled[: size * self.num_replicas].reshape(-1, self.num_replicas, self.batch_size)
        return iter([(self.epoch, index) for index in steps[:, self.rank].flatten().tolist()])


class OverfitSampler(ClipSampler, SequentialSampler):  # type: ignore[misc]  # keys are pairs
    """The first videos of the list with the same clips at each visit, for ``--trainer.overfit_batches``.

    It is a ``SequentialSampler``, as Lightning replaces all others in this mode.
    """

    def set_epoch(self, epoch: int) -> None:
        """Stay in the first epoch, whose random numbers determine the clips."""


Keys = ClipSampler | list[tuple[int, int]]
"""The (epoch, index) pairs of a pass."""


def make_loader(
    dataset: Dataset[ClipBatch | BadVideo],
    keys: Keys,
    batch_size: int,
    num_workers: int,
    timeout: float,
    seed: int,
    processes: int,
    persistent: bool = True,
) -> DataLoader:
    """Return the batches of a pass.

    Args:
        dataset: the videos.
        keys: the order of the pass.
        batch_size: videos of a batch.
        num_workers: worker processes.
        timeout: seconds to wait for a batch, 0 for no limit.
        seed: of the generator that seeds the workers.
        processes: number of processes of the run.
        persistent: whether the workers live longer than one pass.
    """
    return ClipLoader(  # torch gives each worker one thread
        dataset,
        batch_size=batch_size,
        sampler=keys,  # type: ignore[arg-type]  # any sequence of keys will do
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=persistent and num_workers > 0,
        multiprocessing_context=start_method(processes) if num_workers else None,
        timeout=timeout if num_workers else 0,
        # a separate generator: a resumed run starts more workers, which must not change other random numbers
        generator=torch.Generator().manual_seed(seed),
        worker_init_fn=serve_parent,
    )


def one_empty_batch() -> DataLoader:
    """Return a loader with one batch without clips. Lightning skips an evaluation, and its callbacks, without batch."""
    return DataLoader([ClipBatch(ids=())], batch_size=None)  # type: ignore[arg-type]


def collate(items: Sequence[ClipBatch | BadVideo]) -> ClipBatch:
    """Join the clips of several videos into one batch.

    Args:
        items: the clips of each video, or the reason why it cannot be used.

    Returns:
        A batch of all clips, with the unusable videos in ``skipped``. It is empty if no video can be used.
    """
    good = [item for item in items if isinstance(item, ClipBatch)]
    # in the batch and not logged here: a worker process has no view of the whole run
    skipped = tuple(item for item in items if isinstance(item, BadVideo))
    if not good:
        return ClipBatch(ids=(), skipped=skipped)
    return ClipBatch(
        ids=tuple(name for item in good for name in item.ids),
        items=tuple(name for item in good for name in item.items),
        video=_join([item.video for item in good]),
        audio=_join([item.audio for item in good]),
        frames=_join([item.frames for item in good]),
        frame_start=_join_starts(good),
        num_frames=good[0].num_frames,
        pad_value=good[0].pad_value,
        audio_frames=_join([item.audio_frames for item in good]),
        words=_join([item.words for item in good]),
        labels=_join_labels(good),
        present=_join([item.present for item in good]),
        clips_per_video=good[0].clips_per_video,
        video_widths=good[0].video_widths,
        skipped=skipped,
        metadata=tuple(one for item in good for one in item.metadata),
    )


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Join the clips of several videos, or return ``None`` if a video lacks the column."""
    present = [part for part in parts if part is not None]
    return join(present) if len(present) == len(parts) else None


def _join_labels(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the topics of several videos. Clips without captions get -1 if other videos have topics."""
    labels = [item.labels for item in items]
    if any(label is not None for label in labels):
        # a source has topics for all of its captions or for none: only a video without captions lacks them
        column = MODALITIES.index("text")
        labels = [
            torch.full((len(item),), -1)
            if label is None and item.present is not None and not item.present[:, column].any()
            else label
            for label, item in zip(labels, items, strict=True)
        ]
    return _join(labels)


def _join_starts(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the first rows of the clips, which shift as the frames of all videos are concatenated."""
    starts, size = [], 0
    for item in items:
        if item.frames is None or item.frame_start is None:
            return None
        starts.append(item.frame_start + size)
        size += len(item.frames)
    return join(starts)
