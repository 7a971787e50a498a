"""The values of a step go to the loggers one step later, so that no step waits for the device."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from mcn_lightning.distributed import HostCopy
from mcn_lightning.runs.lightning import CheckpointContents, copied_numbers, log_now, logged_step, set_logging


class LateLogs(Callback):
    """Write what a step logged when the next one is queued, or before an evaluation, a checkpoint or the end.

    The loggers get the same values and step numbers. On a CPU they get them at once.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._waiting: list[tuple[dict[str, Any], int, list[str], HostCopy]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to copy what is logged."""
        self._end()
        self._trainer = trainer
        set_logging(trainer, self._log_late)

    def _log_late(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self._write()
        trainer, (names, copy) = self._trainer, copied_numbers(metrics)
        if trainer is None:
            return
        # a metric named "step" is itself the number of the step
        if copy is None or not trainer.loggers or not trainer.training or step is not None or "step" in metrics:
            return log_now(trainer, metrics, step)
        values = {name: value for name, value in metrics.items() if name not in names}
        self._waiting.append(({"epoch": trainer.current_epoch, **values}, logged_step(trainer), names, copy))

    def _write(self) -> None:
        while self._waiting and self._trainer is not None:
            values, step, names, copy = self._waiting.pop(0)
            log_now(self._trainer, values | dict(zip(names, copy.read().tolist(), strict=True)), step)

    def _end(self) -> None:
        self._write()
        if self._trainer is not None:
            set_logging(self._trainer, None)
        self._trainer = None

    def on_train_batch_end(self, *_: object) -> None:
        """Write the values of the step before."""
        self._write()

    def on_validation_start(self, *_: object) -> None:
        """Write all before the values of an evaluation."""
        self._write()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: CheckpointContents) -> None:
        """Write all: a run that goes on from the checkpoint does not repeat the steps that were logged before it."""
        self._write()

    def on_train_end(self, *_: object) -> None:
        """Write what is left."""
        self._end()

    def on_exception(self, *_: object) -> None:
        """Write what is left."""
        self._end()
