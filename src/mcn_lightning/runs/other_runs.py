"""A run folder, or a checkpoint, that belongs to a run with other options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from mcn_lightning.errors import InputError
from mcn_lightning.runs.options import differences, read_options, told

WORDS = ("last", "best", "hpc", "registry")  # for --ckpt_path, in place of a file


def refuse_other_runs(
    trainer: Trainer, options: Mapping[str, Any], checkpoint: str | None, folder: str | None = None
) -> None:
    """See that a folder or checkpoint that the user has named belongs to a run with these options.

    Options that make a run what it is must agree; its length, devices, workers and the like may differ.

    Args:
        trainer: its loggers and its checkpoint callback say where this run goes.
        options: this run's, as in config.yaml.
        checkpoint: what it starts from.
        folder: that of this one run, where nothing else may lie.

    Raises:
        InputError: if they differ, with the options in which they do.
    """
    for option, config, hint in [*_below(folder), *_folders(trainer), *_checkpoints(checkpoint)]:
        if config.is_file() and (unlike := differences(read_options(config), options)):
            raise InputError(
                f"{option}: expected a run with the same options, found {config.parent} with other ones "
                f"({told(unlike)}); {hint}"
            )


def _below(folder: str | None) -> Iterator[tuple[str, Path, str]]:
    """Give all parts of runs in a folder that is one run's."""
    for config in sorted(Path(folder).rglob("config.yaml")) if folder else ():
        yield f"--run_folder {folder}", config, "give the options it has, or choose another folder"


def _folders(trainer: Trainer) -> Iterator[tuple[str, Path, str]]:
    """Give the folders that this run would write to where the user has fixed them."""
    for logger in trainer.loggers:
        version = getattr(logger, "_version", None)  # none while the logger is to count the versions itself
        if version is not None and (folder := getattr(logger, "log_dir", None)) is not None:
            option = f"--trainer.logger.init_args.version {version}"
            yield option, Path(folder) / "config.yaml", "choose another version, or another name"
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint) and callback.dirpath and any(Path(callback.dirpath).glob("*.ckpt")):
        folder = Path(callback.dirpath)
        yield f"--checkpoint.dirpath {folder}", folder.parent / "config.yaml", "choose another folder"


def _checkpoints(path: str | None) -> Iterator[tuple[str, Path, str]]:
    if path and path not in WORDS:
        config = Path(path).parent.parent / "config.yaml"
        yield f"--ckpt_path {path}", config, "take its options (--config), or start from its weights (--model.weights)"
