"""The files that ``predict`` writes: embeddings and centroids as tensors, and a JSON file that describes each row."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks.progress import print_message
from mcn_lightning.callbacks.protocols import EmbeddingModule, clip_data, embedding_module
from mcn_lightning.distributed import gather_objects
from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing
from mcn_lightning.runs.lightning import callbacks_of

SUFFIXES = (".safetensors", ".npz")
MAX_SHOWN = 3  # clips named in a message

ClipEntry = dict[str, Any]
"""Description of a clip in the JSON file, see ``EmbeddingWriter``."""


class EmbeddingWriter(Callback):
    """Write the embeddings that ``predict`` computes: a file of tensors, and beside it a ``.json`` file of that name.

    The tensors are the embeddings ``(N, D)`` float32 by name, the ``cluster`` of each clip ``(N,)`` int64, and the
    ``centroids`` ``(K, D)``. The last two exist only for a model with centroids. The JSON file names the
    ``checkpoint``. Its ``clips`` describe each row: ``id``, ``split``, ``video``, ``start`` and ``end`` in seconds,
    ``text`` and ``cluster``. A text without a known word has ``known_words`` 0 and an embedding of zeros.

    Args:
        path: file of the tensors, .safetensors or .npz. A relative path starts at the folder of the checkpoint's run;
            without a checkpoint at save_dir, the name of the logger and ``predict``. The default is
            embeddings.safetensors, and embeddings_<split>.safetensors for other splits than test.
    """

    def __init__(self, path: str | None = None) -> None:
        if path is not None and Path(path).suffix not in SUFFIXES:
            raise InputError(f"--embeddings.path: expected a name that ends in {' or '.join(SUFFIXES)}, found {path}")
        self.path = path
        self.folder: Path | None = None  # output folder without a checkpoint, see without_loggers
        self._rows: dict[str, list[Tensor]] = {}
        self._clips: list[ClipEntry] = []
        self._skipped: dict[str, str] = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the files can be written before hours of work."""
        self._rows, self._clips, self._skipped = {}, [], {}
        if trainer.is_global_zero:
            path = self._output_path(trainer)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # a test by writing: permissions alone do not tell about read-only disks and quotas
                with tempfile.TemporaryFile(dir=path.parent):
                    pass
            except OSError as error:
                raise _cannot_write(path, error) from None

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Mapping[str, Tensor],
        batch: ClipBatch,
        batch_idx: int,
        *rest: int,
    ) -> None:
        """Keep the output of ``predict_step`` for a batch of B clips.

        Args:
            trainer: of the run.
            pl_module: that embeds.
            outputs: embeddings ``(B, D)`` by name, ``cluster`` ``(B,)`` int64, and ``has_<name>`` ``(B,)`` bool.
            batch: the clips, with their descriptions.
            batch_idx: index of the batch.
            *rest: index of the loader.
        """
        self._skipped.update({bad.video: bad.reason for bad in batch.skipped})
        # of another data module, whose ids may have no clip number
        described = batch.metadata or [{"video": name.rpartition(":")[0] or name} for name in batch.ids]
        clips = [{"id": name} | dict(one) for name, one in zip(batch.ids, described, strict=True)]
        for name, value in outputs.items():
            if isinstance(value, Tensor):
                # NumPy has no bfloat16, which autocast may give
                value = value.float() if value.is_floating_point() else value
                self._rows.setdefault(name, []).append(value.cpu())
        for number, cluster in enumerate(outputs["cluster"].tolist() if "cluster" in outputs else ()):
            clips[number]["cluster"] = cluster
        self._clips.extend(clips)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        clips, rows, skipped = self._gather_all()
        if not trainer.is_global_zero:
            return
        unknown = [number for number, clip in enumerate(clips) if clip.get("known_words") == 0]
        if "text" in rows:
            rows["text"][unknown] = 0.0  # what the network makes of no word at all would look like a real embedding
            _warn_unknown_texts([clips[number] for number in unknown])
        module = embedding_module(pl_module)
        clustering = module.clustering
        centroids = {} if clustering is None else clustering.centroids_by_name()
        path = self._output_path(trainer)
        contents = self._origin(trainer, module) | {"tensors": path.name, "clips": clips}
        if skipped:
            contents["skipped"] = [{"video": video, "reason": reason} for video, reason in skipped.items()]
        try:
            _write_tensors(path, rows | {name: value.detach().float().cpu() for name, value in centroids.items()})
            with replacing(path.with_suffix(".json")) as partial:
                partial.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise _cannot_write(path, error) from None
        left_out = f", {len(skipped)} videos left out" if skipped else ""
        print_message(f"{len(clips)} clips: {', '.join([*rows, *centroids])}{left_out} -> {path} and {path.stem}.json")

    def _output_path(self, trainer: Trainer) -> Path:
        data = clip_data(trainer)
        split = "test" if data is None else data.predict_split
        name = self.path or "embeddings" + ("" if split == "test" else f"_{split}") + SUFFIXES[0]
        if trainer.ckpt_path is None:
            return (self.folder or Path(trainer.default_root_dir)) / name
        folder = Path(trainer.ckpt_path).parent
        return (folder.parent if folder.name == "checkpoints" else folder) / name

    @staticmethod
    def _origin(trainer: Trainer, module: EmbeddingModule) -> dict[str, object]:
        """Return the checkpoint or weights that made the embeddings; both are null for random weights."""
        found: dict[str, object] = {"checkpoint": None, "weights": module.weights_file}
        if trainer.ckpt_path is not None:
            # mapped: only two numbers are read from a file of gigabytes
            saved = torch.load(trainer.ckpt_path, map_location="cpu", weights_only=True, mmap=True)
            path = os.path.abspath(trainer.ckpt_path)
            found["checkpoint"] = {"path": path, "step": saved["global_step"], "epochs": saved["epoch"] + 1}
        return found

    def _gather_all(self) -> tuple[list[ClipEntry], dict[str, Tensor], dict[str, str]]:
        """Gather clips, rows and skipped videos of all processes: each clip once, in the order of the lists."""
        own = self._clips, {name: torch.cat(rows) for name, rows in self._rows.items()}, self._skipped
        self._rows, self._clips, self._skipped = {}, [], {}
        parts = gather_objects(own)
        every = [clip for clips, _, _ in parts for clip in clips]
        # the sampler repeats clips so that all processes have as many: only the first row of each is written
        first: dict[tuple[object, str], int] = {}
        for row, clip in enumerate(every):
            first.setdefault((clip.get("split"), clip["id"]), row)
        splits = list(dict.fromkeys(clip.get("split") for clip in every))
        order = sorted(
            first.values(), key=lambda row: (splits.index(every[row].get("split")), every[row].get("index", 0))
        )
        names = next((list(rows) for _, rows, _ in parts if rows), [])
        joined = {name: torch.cat([rows[name] for _, rows, _ in parts if rows])[order].contiguous() for name in names}
        clips = [{name: value for name, value in every[row].items() if name != "index"} for row in order]
        return clips, joined, {video: reason for _, _, skipped in parts for video, reason in skipped.items()}


def without_loggers(trainer: Trainer) -> None:
    """Remove the loggers of a trainer that predicts. They have nothing to log, and would make a folder each time."""
    # the folder is taken from the logger before it is gone
    if (logger := trainer.logger) is not None and logger.save_dir:
        for callback in callbacks_of(trainer):
            if isinstance(callback, EmbeddingWriter):
                callback.folder = Path(logger.save_dir) / str(logger.name or "") / "predict"
    trainer.loggers = []


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as partial:
        if path.suffix == ".npz":
            with open(partial, "wb") as file:
                np.savez(file, **{name: value.numpy() for name, value in tensors.items()})  # type: ignore[arg-type]
        else:
            save_file(dict(tensors), partial)


def _cannot_write(path: Path, error: Exception) -> InputError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return InputError(
        f"{path}: expected to write the embeddings, found {reason}; free space or give another path (--embeddings.path)"
    )


def _warn_unknown_texts(clips: Sequence[ClipEntry]) -> None:
    """Warn about texts without an embedding, and name the first ones."""
    if clips:
        some = ", ".join(f"{clip['id']} ({clip.get('text')!r})" for clip in clips[:MAX_SHOWN])
        more = f" and {len(clips) - MAX_SHOWN} more" if len(clips) > MAX_SHOWN else ""
        print_message(
            f"warning: {len(clips)} texts have no known word, and zeros in place of a text embedding: {some}{more}"
        )
