"""Files of a run: the resolved configuration and the embeddings of predict."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import SaveConfigCallback
from safetensors.torch import save_file

from mcn_lightning.distributed import world


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
            partial = folder / "config.yaml.partial"
            self.parser.save(config, partial, skip_unset=False, overwrite=True, multifile=False)
            os.replace(partial, folder / "config.yaml")


class EmbeddingWriter(Callback):
    """Write what ``predict`` computes: one safetensors file of embeddings and one JSON list of clip ids.

    Args:
        path: file to write, with one ``(N, D)`` float32 tensor per modality and ``cluster`` ``(N,)`` int64 where there
            are centroids; the ids, row by row, go to the same name ending in ``.json``. In the run's folder when
            relative.
    """

    def __init__(self, path: str = "embeddings.safetensors") -> None:
        self.path = path
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._ids: list[str] = []

    def on_predict_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        for name, value in outputs.items():
            if name == "ids":
                continue
            value = value.float() if value.is_floating_point() else value
            self._rows.setdefault(name, []).append(value.cpu())
        self._ids.extend(batch.ids)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        ids, rows = self._of_all()
        if not trainer.is_global_zero:
            return
        path = run_folder(trainer) / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(rows, path)
        path.with_suffix(".json").write_text(json.dumps(ids))
        print(f"{len(ids)} clips: {', '.join(rows)} -> {path}")

    def _of_all(self) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Return ids and rows of all processes, each clip once."""
        parts: list[Any] = [(self._ids, {name: torch.cat(rows) for name, rows in self._rows.items()})]
        self._rows, self._ids = {}, []
        if world() > 1:
            own, parts = parts[0], [None] * world()
            dist.all_gather_object(parts, own)
        every = [name for ids, _ in parts for name in ids]
        first = list({name: row for row, name in reversed(list(enumerate(every)))}.values())[::-1]
        names = next((list(rows) for _, rows in parts if rows), [])
        joined = {name: torch.cat([rows[name] for _, rows in parts if rows])[first].contiguous() for name in names}
        return [every[row] for row in first], joined
