"""Files of a run: where they are, and the resolved configuration."""

from __future__ import annotations

import re
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback

from mcn_lightning.files import replacing

_UNSAID = re.compile(rb"Unable to serialize instance ([\w.]+)$", re.MULTILINE)
"""What jsonargparse writes for the name of a function where an option may be a function or its name."""


def run_folder(trainer: Trainer) -> Path:
    """Return the one folder of a run: above its checkpoints, or the logger's.

    No process waits for another here, as for ``trainer.log_dir``; before training begins the first one alone knows it.
    """
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
        return Path(checkpoint.dirpath).parent
    return Path(getattr(trainer.logger, "log_dir", None) or trainer.default_root_dir)


class SaveConfig(SaveConfigCallback):
    """Write the resolved configuration once a run, beside the checkpoints, as ``config.yaml``."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep only what belongs to fit: a checkpoint's config must not be replaced by an evaluation's."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file, now that the folder of the checkpoints is known."""
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            folder = run_folder(trainer)
            folder.mkdir(parents=True, exist_ok=True)
            config = self.config.clone()
            config["ckpt_path"] = None  # the saved file describes this run, and must not resume the one before it
            with replacing(folder / "config.yaml") as partial:
                self.parser.save(config, partial, skip_unset=False, overwrite=True, multifile=False)
                partial.write_bytes(_UNSAID.sub(rb"\1", partial.read_bytes()))
