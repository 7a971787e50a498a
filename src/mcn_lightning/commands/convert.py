"""The command ``convert``: released weights become a checkpoint of this project."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import yaml
from pytorch_lightning import Trainer

from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.files import writing
from mcn_lightning.models import NetworkConfig
from mcn_lightning.models.released import WeightsError
from mcn_lightning.models.weights import OWN_CHECKPOINT, read_weights
from mcn_lightning.module import MCNModule
from mcn_lightning.runs.checkpoints import AtomicCheckpointIO

SET_BY_DATA = ("modalities", "video_dim", "audio_bands", "text_dim")
"""Network options that the command derives from the data options."""


def convert_weights(weights: str, output: str) -> None:
    """Write weights of the authors' releases as a checkpoint of this project, and beside it the options it needs.

    The options have the same name ending in .yaml. Give this file as the last --config: the network then matches the
    checkpoint, without clusters.

    Args:
        weights: state dict of MCN, AVLnet-Text-Tri, AVLnet or AVLnet-Text-Fused (.pth).
        output: checkpoint to write, ending in .ckpt; the file must not exist yet.

    Raises:
        InputError: if the weights cannot be read, or the checkpoint cannot be written.
    """
    checkpoint, options = _places(output)
    try:
        start = read_weights(weights)
        if start.kind == OWN_CHECKPOINT:
            found = f"a {OWN_CHECKPOINT}; give it to --ckpt_path"
            raise WeightsError(f"{weights}: expected weights of a release, found {found}")
        module = MCNModule(start.config, clustering=ClusteringConfig("none"))
        start.load(module.network)
    except WeightsError as error:
        raise InputError(f"--weights {error}") from None
    except ValueError as error:
        raise InputError(f"--weights {weights}: {error}") from None
    with writing(f"--output {checkpoint}"):
        # first: small files show a full disk or missing rights before gigabytes are written
        options.write_text(_options(module.network_config, f"{start.kind}, D = {module.network_config.embedding_dim}"))
        try:
            _save(module, checkpoint)
        except InputError as error:
            raise InputError(f"--output {str(error).partition(';')[0]}; give another file") from None
        finally:
            if not checkpoint.exists():  # options without a checkpoint would be in the way of the next attempt
                options.unlink(missing_ok=True)
    count = sum(value.numel() for value in start.state.values())
    print(
        f"{weights}: {start.kind}, D = {module.network_config.embedding_dim}, {len(start.state)} weights "
        f"({count:,} numbers) -> {checkpoint}; evaluate with --config YOURS.yaml --config {options} "
        f"--ckpt_path {checkpoint}, fine-tune with --model.weights {checkpoint}"
    )


def _places(output: str) -> tuple[Path, Path]:
    """Return the paths of the checkpoint and the options.

    Raises:
        InputError: if the name or folder is wrong, or a file exists already.
    """
    checkpoint = Path(output)
    options = checkpoint.with_suffix(".yaml")
    taken = next((path for path in (checkpoint, options) if path.exists()), None)
    no_folder = not checkpoint.parent.is_dir()
    check_rules(
        (checkpoint.suffix != ".ckpt", f"--output: expected a name ending in .ckpt, found {output}; change its ending"),
        (no_folder, f"--output {output}: expected the folder {checkpoint.parent}, found none; make it first"),
        (taken, f"--output {output}: expected no file at {taken}, found one; remove it or choose another name"),
    )
    return checkpoint, options


def _options(config: NetworkConfig, title: str) -> str:
    """Return the options of the module as YAML, as far as a config could contradict them."""
    fields = {
        name: list(value) if isinstance(value, (list, tuple)) else value
        for name, value in dataclasses.asdict(config).items()
    }
    options: dict[str, object] = {
        "data": {"modalities": fields["modalities"]},
        "model": {
            "network": {name: value for name, value in fields.items() if name not in SET_BY_DATA},
            # released weights have no learned temperature, and no clusters to exclude from the negatives
            "loss": {"contrastive": {"learn_temperature": False, "exclude_same_cluster": False}},
            "clustering": {"kind": "none"},
        },
    }
    return f"# {title}\n" + yaml.safe_dump(options, sort_keys=False)


def _save(module: MCNModule, path: Path) -> None:
    """Save the module by Lightning, without the trainer's messages about devices."""
    messages = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before, messages.disabled = messages.disabled, True
    try:
        trainer = Trainer(
            accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, plugins=[AtomicCheckpointIO(tidy=False)],
        )  # fmt: skip
    finally:
        messages.disabled = before
    # what Trainer.fit would do first: save_checkpoint asks strategy and trainer for the module
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.save_checkpoint(path, weights_only=True)
