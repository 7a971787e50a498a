"""A small run with options or callbacks of Lightning's trainer."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from launch import CONFIGS
from modules import make_data
from pytorch_lightning import Callback, Trainer

from mcn_lightning import MCNModule
from mcn_lightning.callbacks import CentroidUpdate

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "trainer_options.md"
NETWORK = {
    "embedding_dim": 16, "video_dim": 16, "text_dim": 8, "audio_widths": [4, 4, 4, 8], "reconstruction_hidden": 8,
    "dropout": 0.2,
}  # fmt: skip
STEPS = 3  # of an epoch


class Seen(Callback):
    """What happened: the loss and the clips of every batch, gradients, validations, and what was on meanwhile."""

    def __init__(self) -> None:
        self.losses, self.ids, self.gradients = [], [], []
        self.validations, self.val_batches, self.checked, self.flags = [], 0, 0, {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.ids.append(batch.ids)
        grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        if grads:
            self.gradients.append(
                [grad.abs().max() for grad in grads] + [torch.stack([g.norm() for g in grads]).norm()]
            )
        self.flags |= {
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
        }

    def on_validation_batch_end(self, trainer, *args):
        self.flags["inference"] = torch.is_inference_mode_enabled()
        self.checked += trainer.sanity_checking
        self.val_batches += not trainer.sanity_checking

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.validations.append(trainer.global_step)


class Run:
    """A run of two epochs of three batches, with some options otherwise."""

    def __init__(self, folder, data_root, **options) -> None:
        torch.manual_seed(0)
        self.seen, self.folder = Seen(), folder
        given = options.pop("callbacks", [])
        quiet = {
            "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
        }  # fmt: skip
        if options.get("barebones"):
            quiet = {"max_epochs": 2, "accelerator": "cpu"}
        self.module = MCNModule(
            NETWORK,
            clustering={"num_clusters": 3, "queue_rows": 8},
            optimizer={"lr": 3e-3, "warmup_steps": 1, "schedule": "constant"},
        )
        self.data = make_data(data_root)
        self.data.eval_batch_size = 1
        ours = [self.seen, CentroidUpdate(every_n_steps=2)]
        self.trainer = Trainer(callbacks=[*given, *ours], **{"default_root_dir": folder} | quiet | options)
        self.trainer.fit(self.module, self.data)
        self.validations = list(self.seen.validations)

    @property
    def losses(self) -> list[float]:
        return self.seen.losses

    @property
    def steps(self) -> int:
        return self.trainer.global_step

    def has(self, kind) -> bool:
        return any(isinstance(each, kind) for each in self.trainer.callbacks)


def check_same(run: Run, plain: Run) -> None:
    assert run.losses == plain.losses and run.steps == plain.steps == 2 * STEPS
    assert run.validations == plain.validations == [STEPS, 2 * STEPS]


def page_rows() -> list[tuple[str, str]]:
    """Return name and kind of each row on the page of trainer options: first the options, then the callbacks."""
    return re.findall(r"^\| `(\w+)` \| (works|refused) \| .*\|$", PAGE.read_text(), re.M)


def demo(overlay) -> tuple:
    """Return the arguments of the demo with small data."""
    return ("--config", CONFIGS / "demo.yaml", "--config", overlay)
