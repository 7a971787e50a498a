"""What is known and refused before a run begins: its options, its checkpoint, its folder, its SLURM job."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mcn_lightning.errors import InputError, why_unreadable
from mcn_lightning.models.weights import SHAPE
from mcn_lightning.runs import slurm


def video_width(streams: Sequence[Any]) -> int:
    """Return the width C of the visual feature: the streams' widths together; 1 without any, which the data refuse.

    Args:
        streams: streams as the parser holds them, as dataclasses or as parsed options.
    """
    return sum(getattr(stream, "init_args", stream).width for stream in streams) or 1


LEAST = {
    "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1, "log_every_n_steps": 0, "gradient_clip_val": 0,
    "reload_dataloaders_every_n_epochs": 0,
}  # fmt: skip
"""Least values of options of the trainer; null is left to it."""


def data_seed(seed: int | bool) -> int:
    """Return the seed of the data's draws, which must be known for a run to be repeated.

    Raises:
        InputError: if it is to be drawn at random, or NumPy does not take it.
    """
    if seed is True:
        raise InputError(
            "--seed_everything: expected a number, found true; a run that draws its seed cannot be repeated"
        )
    if not 0 <= int(seed) < 2**32:
        raise InputError(f"--seed_everything: expected a number from 0 to {2**32 - 1}, found {seed}")
    return int(seed)


def check_numbers(trainer: Any) -> None:
    """Refuse numbers of the trainer with which Lightning would divide by zero, or that it takes and does not follow.

    Args:
        trainer: its options, as the parser holds them.

    Raises:
        InputError: naming the first one.
    """
    for name, least in LEAST.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and value < least:
            raise InputError(f"--trainer.{name}: expected at least {least}, found {value}")
    value = trainer.get("val_check_interval")
    if isinstance(value, int | float) and value <= 0:
        raise InputError(
            f"--trainer.val_check_interval: expected a share of the epoch above 0, or batches, found {value}; "
            "--trainer.limit_val_batches 0 turns validation off"
        )


def check_checkpoint(path: Path, resume: bool = False) -> dict[str, Any]:
    """Return what is in a checkpoint, and refuse a file that is none of this project.

    Args:
        path: the file.
        resume: whether a run should go on from it.

    Raises:
        InputError: if it is absent, cut short, holds something else, or has weights alone and a run should go on.
    """
    if not path.is_file():
        raise InputError(f"--ckpt_path: expected a checkpoint, found no file at {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = why_unreadable(path, error)
        raise InputError(f"--ckpt_path: expected a whole checkpoint, found {path}, which is not ({reason})") from None
    if not isinstance(found, dict) or not {"state_dict", "pytorch-lightning_version"} <= set(found):
        raise InputError(
            f"--ckpt_path: expected a checkpoint of a run, found {path}, which is none; weights in the authors' naming "
            "go to --model.weights"
        )
    if resume and "optimizer_states" not in found:
        raise InputError(
            f"--ckpt_path: expected a checkpoint that a run can go on from, found {path}, which has weights alone; "
            "start from them with --model.weights"
        )
    return found


def take_shape(model: Any, saved: Mapping[str, Any]) -> None:
    """Give a model the shape of the weights that its run started from; these may be gone, and the checkpoint has all.

    Args:
        model: options of the model, as the parser holds them; changed in place.
        saved: the checkpoint.
    """
    network = saved.get("hyper_parameters", {}).get("network", {})
    for name in (name for name in SHAPE if name in network and name != "modalities"):
        value = network[name]
        for part, each in value.items() if isinstance(value, dict) else [(None, value)]:
            place = model["network"] if part is None else model["network"][name]
            place[part or name] = list(each) if isinstance(each, tuple) else each
    there, asked = network.get("modalities"), model["network"].get("modalities")
    if there and asked:  # those of the data, and of these what the weights have
        model["network"]["modalities"] = [name for name in asked if name in there]
    model["weights"] = None


def log_below(trainer: Any, folder: str) -> None:
    """Let every logger of a run write below a folder.

    Args:
        trainer: options of the trainer, as the parser holds them; changed in place.
        folder: for loggers that have a ``save_dir``, and for checkpoints where there is no logger.
    """
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        if "save_dir" in getattr(logger, "init_args", {}):
            logger.init_args.save_dir = folder
    trainer.default_root_dir = folder


def asked_of_job(options: Any) -> slurm.Asked:
    """Return what a run expects of a SLURM job.

    Args:
        options: of a subcommand, as the parser holds them.
    """
    trainer, data = options.trainer, options.data
    visible = 0 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    gpus = visible if visible or trainer.accelerator in ("gpu", "cuda") else None
    devices = trainer.devices
    if str(devices) in ("auto", "-1"):
        devices = gpus or 1
    elif not isinstance(devices, int):  # a list or a string of numbers of GPUs, or how many
        listed = [each for each in devices.split(",") if each.strip()] if isinstance(devices, str) else devices
        devices = int(devices) if isinstance(devices, str) and devices.isdecimal() else len(listed)
    return slurm.Asked(
        devices=devices,
        num_nodes=trainer.num_nodes,
        gpus=gpus,
        root=None if data.synthetic or data.shards else Path(data.root),
        shards=Path(data.shards) if data.shards and "://" not in data.shards else None,
    )
