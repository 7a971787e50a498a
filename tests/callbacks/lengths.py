"""Runs of any length in this process, cut anywhere and continued, and what they did batch by batch."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, Timer
from pytorch_lightning.loggers.logger import DummyLogger

from mcn_lightning.callbacks import CentroidUpdate, RetrievalEvaluation
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.text import TextConfig
from mcn_lightning.models import NetworkConfig
from mcn_lightning.module import MCNModule
from mcn_lightning.training.optimizer import OptimizerConfig

CLOCKS = ("second", "train/data_wait_share")


class Killed(Exception):
    """The run ends here, as by a kill: what was saved is all that is left."""


@dataclass
class Story:
    """What a run did.

    Args:
        batches: of each batch its number in the run: epoch, place in the epoch, clips, learning rate, loss.
        validations: steps and epoch at each.
        logged: step and metrics.
        steps: of the optimiser at the end.
        epochs: at the end.
        weights: at the end.
        saved: the checkpoint of a run that was cut.
    """

    batches: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    validations: list[tuple[int, int]] = field(default_factory=list)
    logged: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    steps: int = 0
    epochs: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    saved: Path | None = None


class Clock:
    """Time that counts batches."""

    now = 0.0


class Teller(Callback):
    """Write the story of a run."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rate = self.rate
        loss = float(outputs["loss"].detach())
        number = trainer.fit_loop.total_batch_idx
        assert number not in self.story.batches
        self.story.batches[number] = (trainer.current_epoch, batch_idx, batch.ids, rate, loss)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Clock.now = trainer.fit_loop.total_batch_idx + 1.0
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # before the scheduler's step

    def on_validation_start(self, trainer, pl_module):
        self.story.validations.append(
            (trainer.fit_loop.total_batch_idx + 1, trainer.global_step, trainer.current_epoch)
        )

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/plateau", float(min(trainer.global_step, 5)))

    def on_fit_end(self, trainer, pl_module):
        self.story.steps, self.story.epochs = trainer.global_step, trainer.current_epoch
        self.story.weights = {name: value.clone() for name, value in pl_module.state_dict().items()}


class Cut(Checkpoint):
    """Save and kill the run.

    Args:
        path: of the checkpoint.
        hook: after which; ``end`` saves at every end of an epoch, and lets the run end by itself.
        at: at the first that comes after as many batches.
    """

    def __init__(self, path: Path, hook: str, at: int) -> None:
        self.path, self.hook, self.at = path, hook, at

    def _cut(self, hook: str, trainer: Trainer) -> None:
        if trainer.sanity_checking:
            return
        if hook == "on_train_epoch_end" and self.hook == "end":
            trainer.save_checkpoint(self.path)
        elif hook == self.hook and trainer.fit_loop.total_batch_idx + 1 >= self.at:
            trainer.save_checkpoint(self.path)
            raise Killed

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._cut("on_train_batch_end", trainer)

    def on_validation_end(self, trainer, pl_module):
        self._cut("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self._cut("on_train_epoch_end", trainer)


class Unevaluated(RetrievalEvaluation):
    """Held-out clips go through the network, and nothing is found out about them."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pass


class Memory(DummyLogger):
    """Keep what is logged, without times."""

    def __init__(self, story: Story) -> None:
        super().__init__()
        self.story = story

    def log_metrics(self, metrics, step=None):
        kept = {name: float(value) for name, value in metrics.items() if not any(part in name for part in CLOCKS)}
        if set(kept) - {"epoch"}:
            self.story.logged.append((step, kept))


def run(
    root: Path,
    length: dict[str, Any],
    accumulate: int = 1,
    schedule: str = "constant",
    cut: Cut | None = None,
    resume: Path | None = None,
    **more: Any,
) -> Story:
    """Train, and return what was done.

    Args:
        root: of the generated data set of 6 videos: 6 batches an epoch.
        length: options of the trainer; ``patience`` stops early.
        accumulate: batches of a step.
        schedule: of the learning rate.
        cut: where the run is killed.
        resume: checkpoint to go on from.
        more: options of the trainer.
    """
    story, length = Story(), dict(length)
    seed_everything(0, verbose=False)
    callbacks: list[Callback] = [Teller(story), CentroidUpdate(every_n_steps=2), Unevaluated()]
    if "patience" in length:
        callbacks.append(EarlyStopping("val/plateau", mode="max", patience=length.pop("patience"), strict=False))
    data = NarratedVideos(
        str(root), modalities=["video", "text"], streams=[VisualStream("_2d", 1.0, 8)],
        text=TextConfig(source="word_vectors.txt", dim=8), clips=ClipConfig(n_pair=4, min_time=5.0), batch_size=1,
        eval_batch_size=2, num_workers=0,
    )  # fmt: skip
    module = MCNModule(
        NetworkConfig(
            modalities=("video", "text"), video_dim=8, text_dim=8, embedding_dim=8, reconstruction=False, dropout=0.3
        ),
        clustering=ClusteringConfig(num_clusters=3, queue_rows=8),
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=2, schedule=schedule),
    )
    trainer = Trainer(
        accelerator="cpu", logger=Memory(story), callbacks=[*callbacks, *([cut] if cut else [])],
        accumulate_grad_batches=accumulate, log_every_n_steps=1, enable_progress_bar=False,
        enable_checkpointing=cut is not None,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, use_distributed_sampler=False,
        **length, **more,
    )  # fmt: skip
    Clock.now = 0.0
    if resume is not None:
        loops = torch.load(resume, weights_only=True)["loops"]["fit_loop"]
        Clock.now = float(loops["epoch_loop.batch_progress"]["total"]["ready"])
    with patch.object(Timer, "time_elapsed", lambda *_: Clock.now), suppress(Killed):
        trainer.fit(module, data, ckpt_path=resume)
    story.saved = cut.path if cut else None
    return story
