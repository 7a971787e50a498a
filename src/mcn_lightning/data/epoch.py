"""Position of a run in its epoch, in videos: a resumed run may have another batch size or number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcn_lightning.data.loading import ClipSampler

if TYPE_CHECKING:
    from pytorch_lightning import Trainer


class EpochPosition:
    """The epoch, and the number of its videos that are done."""

    def __init__(self) -> None:
        self._next = (0, 0)
        self._resumed = (-1, 0, 0)  # epoch, its videos that were done, and their number of batches of the present size

    def begin(self, sampler: ClipSampler, trainer: Trainer | None) -> None:
        """Set the sampler to the position of the run. The next sampler starts at the beginning of its epoch.

        Args:
            sampler: of the training videos.
            trainer: its progress is converted to batches of the present processes.
        """
        epoch, seen = self._next
        sampler.set_epoch(epoch)  # Lightning sets the epoch of a resumed run after the workers have started to read
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
        """Return the epoch and the number of its videos that are done. A resumed run continues with the next batch.

        Args:
            trainer: has the number of batches that are done.
            videos: of a batch, over all processes.
        """
        epochs, batches = trainer.fit_loop.epoch_progress.current.ready, _batches(trainer)
        # the epoch is over: a resumed run begins the next one
        if batches.is_last_batch:
            return {"epoch": epochs, "seen": 0}
        epoch, start, done = max(epochs - 1, 0), 0, 0
        if self._resumed[0] == epoch:
            _, start, done = self._resumed
        return {"epoch": epoch, "seen": start + (batches.current.processed - done) * videos}

    def load(self, state: Mapping[str, int]) -> None:
        """Restore the result of ``state``."""
        self._next = (int(state["epoch"]), int(state["seen"]))


def _batches(trainer: Trainer) -> Any:
    """Return the progress of the batches in the epoch. Its type in Lightning lacks fields."""
    return trainer.fit_loop.epoch_loop.batch_progress
