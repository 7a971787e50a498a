"""Where a run is in its epoch, counted in videos: a resumed run may have another batch size, or other processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcn_lightning.data.loading import ClipSampler

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class EpochPlace:
    """The epoch, and how many of its videos are done."""

    def __init__(self) -> None:
        self._next = (0, 0)
        self._resumed = (-1, 0, 0)  # epoch, videos of it that were done, and in how many batches of today's size

    def begin(self, sampler: ClipSampler, trainer: Trainer | None) -> None:
        """Let the sampler begin where the run is, and the next one at the beginning.

        Args:
            sampler: of the training videos.
            trainer: is told how many batches of the epoch are done, in batches of the processes there are now.
        """
        epoch, seen = self._next
        sampler.set_epoch(epoch)  # workers read ahead: on resuming, Lightning tells the epoch after they have begun
        sampler.skip(seen)
        if seen:
            done = (len(sampler) - sampler.size(seen)) // sampler.batch_size
            self._resumed = (epoch, seen, done)
            if trainer is not None:
                progress = _batches(trainer).current
                more = done - progress.processed  # 0 unless batch size or processes have changed
                for name in ("ready", "started", "processed", "completed"):
                    setattr(progress, name, getattr(progress, name) + more)
        self._next = (0, 0)

    def state(self, trainer: Trainer, videos: int) -> dict[str, int]:
        """Return the epoch and the videos of it that are done, so that a resumed run goes on with the next batch.

        Args:
            trainer: knows how many batches are done.
            videos: of a batch, over all processes.
        """
        epochs, batches = trainer.fit_loop.epoch_progress.current.ready, _batches(trainer)
        if batches.is_last_batch:
            return {"epoch": epochs, "seen": 0}
        epoch, start, done = max(epochs - 1, 0), 0, 0
        if self._resumed[0] == epoch:
            _, start, done = self._resumed
        return {"epoch": epoch, "seen": start + (batches.current.processed - done) * videos}

    def load(self, state: Mapping[str, int]) -> None:
        """Take up what ``state`` gave."""
        self._next = (int(state["epoch"]), int(state["seen"]))


def _batches(trainer: Trainer) -> Any:
    """Return how many batches of the epoch are done, which Lightning types too widely."""
    return trainer.fit_loop.epoch_loop.batch_progress
