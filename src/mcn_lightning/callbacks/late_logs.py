"""The values of a step go to the loggers one step later, so that no step waits for the device."""

from __future__ import annotations

from collections.abc import Callable

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.runs.lightning import CheckpointContents, read_logs_late


class LateLogs(Callback):
    """Write what a step logged when the next one is queued, or before an evaluation, a checkpoint or the end.

    The loggers get the same values and step numbers. On a CPU they get them at once.
    """

    def __init__(self) -> None:
        self._write: Callable[[], None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to copy what is logged."""
        self._write = read_logs_late(trainer)

    def on_train_batch_end(self, *_: object) -> None:
        """Write the values of the step before."""
        self._write()

    def on_validation_start(self, *_: object) -> None:
        """Write all before the values of an evaluation."""
        self._write()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Write all: a run that goes on from the checkpoint does not repeat the step."""
        self._write()

    def on_train_end(self, *_: object) -> None:
        """Write what is left."""
        self._write()

    def on_exception(self, *_: object) -> None:
        """Write what is left."""
        self._write()
