"""Progress of a run: a bar of one line on a terminal, and lines of text in a file, a pipe or a notebook."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Timer, TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from pytorch_lightning.utilities.types import STEP_OUTPUT as Output
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.callbacks.protocols import EmbeddingModule, SizedIterable, embedding_module
from mcn_lightning.distributed import HostCopy, rank
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, checked
from mcn_lightning.runs.lightning import callbacks_of, open_bars

Item = TypeVar("Item")
EVERY_MINUTES = 5.0
REFRESH_SECONDS = 0.5
"""Seconds between two updates of the bar. An update shows the loss of the step before, which needs no waiting."""
LOSS = "train/loss"
BAR_WIDTH = 10
"""Least width of the bar in columns. Metrics for which it would be shorter are left out."""


def print_message(text: str) -> None:
    """Print text without breaking the progress bars on the terminal, and flush it."""
    tqdm.write(text)
    sys.stdout.flush()


def format_duration(seconds: float) -> str:
    """Return a duration as ``0:42``, ``3:12:05`` or ``2 d 03 h``."""
    minutes, left = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def progress(items: SizedIterable[Item], name: str, unit: str, shown: bool = True) -> Iterable[Item]:
    """Show the progress of the first process: a bar on a terminal, else a line every few minutes.

    Args:
        items: with a length.
        name: of the work.
        unit: plural noun for the items.
        shown: False shows no progress.
    """
    if not shown or rank() > 0:
        return items
    if sys.stderr.isatty():
        return tqdm(items, name, unit=f" {unit}", leave=False)
    return _with_lines(items, name, unit)


def _with_lines(items: SizedIterable[Item], name: str, unit: str) -> Iterator[Item]:
    total, started = len(items), time.monotonic()
    last = started
    for number, item in enumerate(items):
        if (now := time.monotonic()) - last >= 60 * EVERY_MINUTES:
            # by work done and not by the last item, whose time may be untypical
            left = format_duration((now - started) / number * (total - number)) if number else "unknown time"
            print_message(f"{name}: {number:,} of {total:,} {unit}, {left} left")
            last = now
        yield item


@dataclass
class Window:
    """Sums over a number of training steps.

    Args:
        clips: of all processes.
        seconds: of training, without validation.
        steps: that had a loss.
        loss: sum of the losses, on the device.
    """

    clips: int = 0
    seconds: float = 0.0
    steps: int = 0
    loss: Tensor | None = None

    def add(self, clips: int, seconds: float, loss: Tensor | None) -> None:
        """Add a step without waiting for the device."""
        self.clips, self.seconds = self.clips + clips, self.seconds + seconds
        if loss is not None:
            self.steps, self.loss = self.steps + 1, loss if self.loss is None else self.loss + loss

    def text(self) -> list[str]:
        """Return the mean loss and the clips per second as text, where there are any."""
        return [*([] if self.loss is None else [f"loss {float(self.loss) / self.steps:.4g}"]), *self.speed()]

    def speed(self) -> list[str]:
        """Return the clips per second as text, if there are any, without waiting for the device."""
        return [f"{self.clips / self.seconds:,.0f} clips/s"] if self.clips and self.seconds > 0 else []


class Progress(TQDMProgressBar):
    """Show the progress of a run, its loss, its speed and the time left.

    On a terminal it is a bar of one line. Elsewhere (a file, a pipe, the log of a SLURM job, a notebook) each epoch has
    one line with its mean loss. Long epochs and evaluations have more lines. Epochs count from 1. The time left is that
    until max_steps, max_epochs or max_time, whichever comes first; a run without a limit shows none.

    Args:
        every_minutes: minutes between two lines within an epoch or an evaluation; 0 for lines after epochs only.
        every_n_batches: batches between two such lines in training; 0 for lines by time only.
    """

    reads_terms = True
    """The module need not log its loss terms for the bar."""
    BAR_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"

    def __init__(self, every_minutes: NonNegativeFloat = EVERY_MINUTES, every_n_batches: NonNegativeInt = 0) -> None:
        super().__init__()
        self.every_minutes = checked(NonNegativeFloat, every_minutes, "--progress.every_minutes")
        self.every_n_batches = checked(NonNegativeInt, every_n_batches, "--progress.every_n_batches")
        self._terminal = False
        self._epoch, self._recent = Window(), Window()
        self._started = self._mark = self._last_line = self._refreshed = 0.0
        self._batch, self._epoch_printed = 0, False
        self._first_shares: dict[str, float] = {}
        self._copied: tuple[list[str], HostCopy | None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find out whether the output is a terminal."""
        super().setup(trainer, pl_module, stage)
        self._terminal = sys.stdout.isatty()

    @property
    def is_enabled(self) -> bool:
        """Whether there are bars."""
        return self._terminal and super().is_enabled

    @property
    def has_lines(self) -> bool:
        """Whether there are lines in place of bars."""
        return super().is_enabled and not self._terminal

    def print(self, *args: object, sep: str = " ", **kwargs: object) -> None:
        """Print between the bars."""
        print_message(sep.join(map(str, args)))

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation."""
        return _named(super().init_validation_tqdm(), "validation")

    def init_test_tqdm(self) -> Tqdm:
        """Return the bar of a test."""
        return _named(super().init_test_tqdm(), "test")

    def init_predict_tqdm(self) -> Tqdm:
        """Return the bar of a prediction."""
        return _named(super().init_predict_tqdm(), "predict")

    def on_train_start(self, *args: object) -> None:
        """Start the clock."""
        super().on_train_start(*args)
        self._started = self._mark = self._last_line = self._refreshed = time.monotonic()
        self._epoch, self._recent, self._batch, self._first_shares, self._copied = Window(), Window(), 0, {}, None

    def on_train_epoch_start(self, trainer: Trainer, *_: object) -> None:
        """Begin the bar of the epoch."""
        bar, total = self.train_progress_bar, trainer.num_training_batches
        bar.set_description(self._epoch_text(trainer), refresh=False)
        bar.reset(total if math.isfinite(total) else None)
        self._mark, self._epoch, self._epoch_printed = time.monotonic(), Window(), False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Record where the run begins or resumes, from which the time left is computed."""
        if not self._first_shares:
            # a resumed run did the batches before this one in an earlier process
            self._batch = batch_idx
            self._first_shares = self._shares(trainer)
            # Lightning does not call on_train_epoch_start when it resumes in mid-epoch
            self.train_progress_bar.set_description(self._epoch_text(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Count the step, and show it if an update is due."""
        now = time.monotonic()
        module = embedding_module(pl_module)
        loss, clips = module.step_terms.get(LOSS), module.step_clips
        for window in (self._epoch, self._recent):
            window.add(clips, now - self._mark, loss)
        self._mark, self._batch = now, batch_idx + 1
        whole = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self.is_enabled:
            self._update_bar(trainer, module, whole or now - self._refreshed >= REFRESH_SECONDS, whole)
        by_number = self.every_n_batches > 0 and self._batch % self.every_n_batches == 0
        if whole:  # the line of the epoch comes before its validation
            self._epoch_line(trainer)
        elif self.has_lines and (by_number or self._is_time(now)):
            total = "" if math.isinf(trainer.num_training_batches) else f"/{trainer.num_training_batches:,}"
            self._line(trainer, f"{self._epoch_text(trainer)}, batch {self._batch:,}{total}", self._recent)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of an epoch that a limit of the run cut short."""
        self._epoch_line(trainer)

    def _epoch_line(self, trainer: Trainer) -> None:
        if self.has_lines and not self._epoch_printed:
            self._line(trainer, self._epoch_text(trainer), self._epoch)
        self._epoch_printed = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the validation below the training."""
        super().on_validation_start(trainer, pl_module)
        self._begin()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the validation from the time of training."""
        # not super(), which would write every metric into the bar of training
        self.val_progress_bar.close()
        self.reset_dataloader_idx_tracker()
        self._mark = time.monotonic()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to show the evaluation."""
        super().on_test_start(trainer, pl_module)
        self._begin()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to show the prediction."""
        super().on_predict_start(trainer, pl_module)
        self._begin()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Output,
        batch: object,
        batch_idx: int,
        *rest: int,
    ) -> None:
        """Show how far the validation is."""
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, batch_idx, *rest)
        self._evaluation_line("validation", batch_idx + 1, self.total_val_batches_current_dataloader)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Output,
        batch: object,
        batch_idx: int,
        *rest: int,
    ) -> None:
        """Show how far the test is."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, *rest)
        self._evaluation_line("test", batch_idx + 1, self.total_test_batches_current_dataloader)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Output,
        batch: object,
        batch_idx: int,
        *rest: int,
    ) -> None:
        """Show how far the prediction is."""
        super().on_predict_batch_end(trainer, pl_module, outputs, batch, batch_idx, *rest)
        self._evaluation_line("predict", batch_idx + 1, self.total_predict_batches_current_dataloader)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bars, so that the error message has its own line."""
        for bar in open_bars(self):
            bar.close()

    def time_left(self, trainer: Trainer) -> float | None:
        """Estimate the seconds until the run ends from its speed so far; ``None`` for a run without a limit."""
        spent, left = time.monotonic() - self._started, []
        for name, share in self._shares(trainer).items():
            if (done := share - self._first_shares.get(name, share)) > 0:
                left.append(spent * max(1 - share, 0.0) / done)
        for timer in (each for each in callbacks_of(trainer) if isinstance(each, Timer)):
            if (remaining := timer.time_remaining()) is not None:
                left.append(max(remaining, 0.0))
        return min(left, default=None)

    def _shares(self, trainer: Trainer) -> dict[str, float]:
        """Return the share of the run that is done, 0 to 1, by each of its limits."""
        shares, batches, epochs = {}, trainer.num_training_batches, trainer.max_epochs or -1
        if trainer.max_steps > 0:
            shares["steps"] = trainer.global_step / trainer.max_steps
        if epochs > 0 and 0 < batches < math.inf:
            shares["epochs"] = (trainer.current_epoch + self._batch / batches) / epochs
        return shares

    def _epoch_text(self, trainer: Trainer) -> str:
        """Return the epoch, from 1, and the number of epochs where it is known."""
        number, epochs, batches = trainer.current_epoch + 1, trainer.max_epochs or -1, trainer.num_training_batches
        limits = [epochs] if epochs > 0 else []
        if trainer.max_steps > 0 and 0 < batches < math.inf:
            limits.append(math.ceil(trainer.max_steps / math.ceil(batches / trainer.accumulate_grad_batches)))
        timed = any(isinstance(each, Timer) for each in callbacks_of(trainer))
        return f"epoch {number}" if timed or not limits else f"epoch {number}/{max(number, min(limits))}"

    def _left_text(self, trainer: Trainer) -> list[str]:
        return [] if (left := self.time_left(trainer)) is None else [f"{format_duration(left)} left"]

    def _line(self, trainer: Trainer, where: str, window: Window) -> None:
        spent = f"{format_duration(time.monotonic() - self._started)} so far"
        print_message(f"{where}: " + ", ".join([*window.text(), spent, *self._left_text(trainer)]))
        self._last_line, self._recent = time.monotonic(), Window()

    def _update_bar(self, trainer: Trainer, module: EmbeddingModule, due: bool, now: bool) -> None:
        """Show the terms that were copied in the step before, and copy those of this step if an update is due."""
        if self._copied is not None and not now:
            self._refresh(trainer, *self._copied)
            self._copied = None
        elif due:
            names, values = list(module.step_terms), list(module.step_terms.values())
            self._copied = names, HostCopy(torch.stack(values)) if values else None
            if now:
                self._update_bar(trainer, module, due, False)

    def _refresh(self, trainer: Trainer, names: Sequence[str], copy: HostCopy | None) -> None:
        """Show a step in the bar, with as many metrics for the bar as fit into the line."""
        bar, terms = (
            self.train_progress_bar,
            dict(zip(names, [] if copy is None else copy.read().tolist(), strict=True)),
        )
        parts = [f"loss {terms.pop(LOSS):.4g}"] if LOSS in terms else []
        parts += self._epoch.speed() + self._left_text(trainer)
        if not isinstance(total := trainer.num_training_batches, int):
            total = 0
        # with the widest form of the numbers, so that metrics do not come and go within an epoch
        room = (bar.ncols or 80) - len(f"{self._epoch_text(trainer)} 100%|| {total}/{total}, ") - BAR_WIDTH
        for name, value in (terms | self.get_metrics(trainer, trainer.lightning_module)).items():
            shown = f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            if len(", ".join([*parts, shown])) <= room:
                parts.append(shown)
        bar.n = self._batch
        bar.set_postfix_str(", ".join(parts), refresh=False)
        bar.refresh()
        self._refreshed = time.monotonic()

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the metrics for the bar, without the version of the run that Lightning adds."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def _is_time(self, now: float) -> bool:
        return self.every_minutes > 0 and now - self._last_line >= 60 * self.every_minutes

    def _begin(self) -> None:
        """Start the clock of an evaluation. In training, the time since the last line goes on."""
        self._evaluation = time.monotonic()
        if self.trainer.state.fn != "fit":
            self._last_line = self._evaluation

    def _evaluation_line(self, what: str, batch: int, total: float) -> None:
        now = time.monotonic()
        if self.has_lines and batch < total and self._is_time(now):
            left = (
                ""
                if math.isinf(total)
                else f"/{total:,}, {format_duration((now - self._evaluation) / batch * (total - batch))} left"
            )
            print_message(f"{what}: batch {batch:,}{left}")
            self._last_line = now


def _named(bar: Tqdm, name: str) -> Tqdm:
    """Return a bar with a name in place of Lightning's, which shows the index of a loader."""
    bar.bar_format = name + " {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
    return bar
