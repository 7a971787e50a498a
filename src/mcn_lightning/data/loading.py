"""The order of an epoch over all processes, a loader that does not wait for ever, and the batch of several videos."""

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
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from mcn_lightning.batch import MODALITIES, BadVideo, ClipBatch
from mcn_lightning.errors import InputError
from mcn_lightning.memory import join
from mcn_lightning.signals import start_forkserver


def start_method(processes: int) -> str | None:
    """Return how the workers of a loader are started: never by forking a process that has the threads of others' calls.

    Args:
        processes: of the run.
    """
    if processes == 1:
        return None
    # imported once and not by every worker
    multiprocessing.get_context("forkserver").set_forkserver_preload(["mcn_lightning.data.dataset"])
    start_forkserver()
    return "forkserver"


def serve_parent(worker: int) -> None:
    """Have a worker end when the process that it reads for is gone, and not before (called in workers).

    What tells a run to end is ignored here: that process decides when. torch asks whether the system's parent is alive,
    which is another process for workers of a forkserver.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class ClipLoader(DataLoader):
    """A data loader that says in one line what it waited for in vain."""

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        """Give the batches.

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
            except (RuntimeError, EOFError, OSError) as error:
                if not late.is_set() and not str(error).startswith("DataLoader timed out"):
                    raise
                raise InputError(
                    f"--data.timeout: expected a batch within {self.timeout:g} s, found none; the disk of the data "
                    "stalls, the reading processes are slow to start, or --data.num_workers is too low"
                ) from None
            finally:
                if watch is not None:
                    watch.cancel()
            yield batch.received() if self.num_workers and isinstance(batch, ClipBatch) else batch

    def _watch(self, batches: Any, late: threading.Event) -> threading.Timer | None:
        """Kill workers that are far too late: one that stalls with Python's lock held blocks this process too."""
        if not self.num_workers or not self.timeout:
            return None

        def kill() -> None:
            late.set()
            for worker in batches._workers:
                with contextlib.suppress(OSError):
                    os.kill(worker.pid, signal.SIGKILL)

        watch = threading.Timer(self.timeout + min(self.timeout, 10.0), kill)
        watch.daemon = True
        watch.start()
        return watch


class ClipSampler(DistributedSampler[tuple[int, int]]):
    """The order of the videos of an epoch, as (epoch, index) pairs.

    It is a ``DistributedSampler`` so that Lightning leaves it alone. The order belongs to all processes together: each
    step takes the next videos of it, the first process the first of these. So the clips of a step lie in the order in
    which one process would have them, where an epoch was stopped is one number (the videos seen by all processes), and
    a run may go on with another number of processes.

    Args:
        count: videos of the data set.
        seed: the order is a function of (seed, epoch) only.
        shuffle: use a random order in each epoch; otherwise the listed one.
        rank: which share this process takes.
        world: number of shares.
        batch_size: videos of a batch in each process; an epoch holds whole batches only.
        end: what happens to the videos after the last whole batch of all processes: "drop" leaves them out of this
            epoch, "pad" fills the batch up with the first videos of the order (evaluation counts each clip id once).
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
        """Leave out the first videos of the order in the next pass only: all processes have seen them already."""
        self._seen = videos

    def size(self, seen: int = 0) -> int:
        """Return how many videos this process takes of an epoch of which ``seen`` videos are done."""
        left, whole = max(self.count - seen, 0), self.num_replicas * self.batch_size
        return (left // whole if self.end == "drop" else -(-left // whole)) * self.batch_size

    def __len__(self) -> int:
        return self.size()

    @property
    def videos_a_step(self) -> int:
        """Videos of a batch, over all processes."""
        return self.batch_size * self.num_replicas

    def note(self) -> str:
        """Return what happens to the videos after the last whole batch; empty where there are none."""
        left = self.count % self.videos_a_step
        if left and self.end == "drop":
            return f"each epoch leaves out {left} of {self.count} training videos, which fill no batch"
        more = self.videos_a_step - left
        return f"each epoch of {self.count} training videos ends with {more} that it had already" if left else ""

    def some(self, share: float) -> list[tuple[int, int]]:
        """Return this process's part of a share of the videos, in the order of the epoch.

        Batch after batch goes over the processes, as in training: their first batches come first in the order of one.
        """
        order = self.order()[: max(1, round(share * self.count))].tolist()
        batches = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        return [(self.epoch, index) for batch in batches[self.rank :: self.num_replicas] for index in batch]

    def order(self) -> np.ndarray:
        """Return the order of the epoch, of all processes together."""
        if not self.shuffle:
            return np.arange(self.count)
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.count)

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        order = self.order()
        size, left = self.size(self._seen), order[self._seen :]
        self._seen = 0
        filled = np.resize(np.concatenate([left, order]), max(size * self.num_replicas, 1))
        steps = filled[: size * self.num_replicas].reshape(-1, self.num_replicas, self.batch_size)
        return iter([(self.epoch, index) for index in steps[:, self.rank].flatten().tolist()])


class OverfitSampler(ClipSampler, SequentialSampler):  # type: ignore[misc]  # keys are pairs
    """The first videos of the list with the same clips at each visit, for ``--trainer.overfit_batches``.

    It is a ``SequentialSampler``, which Lightning would otherwise put in its place.
    """

    def set_epoch(self, epoch: int) -> None:
        """Stay in the first epoch, whose random numbers determine the clips."""


def one_empty_batch() -> DataLoader:
    """Return a pass without clips: Lightning leaves out an evaluation that has no batch, and with it the benchmarks."""
    return DataLoader([ClipBatch(ids=())], batch_size=None)  # type: ignore[arg-type]


def collate(items: Sequence[ClipBatch | BadVideo]) -> ClipBatch:
    """Join the clips of several videos into one batch.

    Args:
        items: the clips of each video, or why it could not be used.

    Returns:
        A batch of all clips, the unusable videos under ``skipped``; of length 0 where no video could be used.
    """
    good = [item for item in items if isinstance(item, ClipBatch)]
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
    """Join the clips of several videos; None where any video lacks the column."""
    present = [part for part in parts if part is not None]
    return join(present) if len(present) == len(parts) else None


def _join_labels(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the topics of several videos; -1 for the clips of a video without captions among others that have topics."""
    labels = [item.labels for item in items]
    if any(label is not None for label in labels):
        column = MODALITIES.index("text")
        labels = [
            torch.full((len(item),), -1)
            if label is None and item.present is not None and not item.present[:, column].any()
            else label
            for label, item in zip(labels, items, strict=True)
        ]
    return _join(labels)


def _join_starts(items: Sequence[ClipBatch]) -> Tensor | None:
    """Join the rows with which clips begin, now that the frames of all videos stand one after the other."""
    starts, size = [], 0
    for item in items:
        if item.frames is None or item.frame_start is None:
            return None
        starts.append(item.frame_start + size)
        size += len(item.frames)
    return join(starts)
