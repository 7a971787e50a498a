"""Checks and adjustments before a run begins: trainer options, seed, checkpoint, folder, SLURM job."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import Namespace

from mcn_lightning.errors import InputError, check_rules, why_unreadable
from mcn_lightning.models.weights import SHAPE_FIELDS
from mcn_lightning.runs import slurm
from mcn_lightning.runs.lightning import CheckpointContents


def video_width(streams: Sequence[Namespace]) -> int:
    """Return the width C of the visual feature, the sum of the streams' widths.

    Without streams it is 1, a valid width: the data module refuses this case with its own message.

    Args:
        streams: streams as the parser holds them, as dataclasses or as parsed options.
    """
    return sum(getattr(stream, "init_args", stream).width for stream in streams) or 1


MINIMUMS = {
    "check_val_every_n_epoch": 1, "accumulate_grad_batches": 1, "log_every_n_steps": 0, "gradient_clip_val": 0,
    "reload_dataloaders_every_n_epochs": 0,
}  # fmt: skip
"""Lowest values of trainer options; null is left to the trainer."""


def data_seed(seed: int | bool) -> int:
    """Return the seed of the data, which must be known to repeat a run.

    Raises:
        InputError: if it is random, or outside of NumPy's range.
    """
    check_rules(
        (seed is True, "--seed_everything: expected a number, found true; a random seed cannot be repeated"),
        (not 0 <= seed < 2**32, f"--seed_everything: expected a number from 0 to {2**32 - 1}, found {seed}"),
    )
    return int(seed)


def check_trainer_numbers(trainer: Namespace) -> None:
    """Refuse numbers of the trainer that make Lightning divide by zero, or that it accepts and ignores.

    Args:
        trainer: options of the trainer, as the parser holds them.

    Raises:
        InputError: naming the first wrong option.
    """
    for name, least in MINIMUMS.items():
        value = trainer.get(name)
        if isinstance(value, int | float) and value < least:
            raise InputError(f"--trainer.{name}: expected at least {least}, found {value}")
    # text is a duration, which Lightning checks itself
    value = trainer.get("val_check_interval")
    if isinstance(value, int | float) and value <= 0:
        advice = "--trainer.limit_val_batches 0 turns validation off"
        raise InputError(f"--trainer.val_check_interval: expected a number above 0, found {value}; {advice}")


def check_accelerator(asked: object) -> None:
    """Refuse a run on a GPU where torch finds none.

    Args:
        asked: option of the trainer.

    Raises:
        InputError: with the reason, as far as it can be told.
    """
    if (
        asked not in ("gpu", "cuda")
        or torch.cuda.device_count()
        or (asked == "gpu" and torch.backends.mps.is_available())
    ):
        return
    hidden, build = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.version.cuda or torch.version.hip
    if build is None:
        found, advice = f"torch {torch.__version__}, which is built for CPUs", "install torch for CUDA"
    elif hidden in ("", "-1"):
        found, advice = f"none in CUDA_VISIBLE_DEVICES={hidden}", "unset the variable"
    else:
        found, advice = f"none that torch {torch.__version__} can use", "see what nvidia-smi shows"
    raise InputError(
        f"--trainer.accelerator {asked}: expected a GPU, found {found}; {advice}, or give --trainer.accelerator cpu"
    )


def check_checkpoint(path: Path, resume: bool = False) -> CheckpointContents:
    """Load a checkpoint, and refuse a file that is not a checkpoint of this project.

    Args:
        path: of the file.
        resume: whether a run will resume from it.

    Raises:
        InputError: if it is missing, damaged, another kind of file, or has weights alone although a run resumes.
    """
    if not path.is_file():
        raise InputError(f"--ckpt_path: expected a checkpoint, found no file at {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = why_unreadable(path, error)
        raise InputError(f"--ckpt_path: expected a whole checkpoint, found {path}, which is not ({reason})") from None
    keys = {*found} if isinstance(found, dict) else set()
    check_rules(
        (
            not {"state_dict", "pytorch-lightning_version"} <= keys,
            f"--ckpt_path: expected a checkpoint of a run, found {path}, which is none; weights in the authors' naming "
            "go to --model.weights",
        ),
        (
            resume and "optimizer_states" not in keys,
            f"--ckpt_path: expected a checkpoint that a run can go on from, found {path}, which has weights alone; "
            "start from them with --model.weights",
        ),
    )
    return found


def use_checkpoint_shape(model: Namespace, saved: CheckpointContents) -> None:
    """Set the shape of the network from a checkpoint, in place of the file that ``--model.weights`` names.

    The run started from that file, which may be gone by now. The checkpoint holds all weights.

    Args:
        model: options of the model, as the parser holds them; changed in place.
        saved: the checkpoint.
    """
    network = saved.get("hyper_parameters", {}).get("network", {})
    for name in (name for name in SHAPE_FIELDS if name in network and name != "modalities"):
        value = network[name]
        for part, each in value.items() if isinstance(value, dict) else [(None, value)]:
            group = model["network"] if part is None else model["network"][name]
            group[part or name] = list(each) if isinstance(each, tuple) else each
    there, asked = network.get("modalities"), model["network"].get("modalities")
    if there and asked:  # the modalities of the data for which the checkpoint has weights
        model["network"]["modalities"] = [name for name in asked if name in there]
    model["weights"] = None


def set_log_root(trainer: Namespace, folder: str) -> None:
    """Make every logger of a run write below a folder.

    Args:
        trainer: options of the trainer, as the parser holds them; changed in place.
        folder: new ``save_dir`` of loggers, and place of checkpoints without a logger.
    """
    for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
        if "save_dir" in getattr(logger, "init_args", {}):
            logger.init_args.save_dir = folder
    trainer.default_root_dir = folder


def job_requirements(options: Namespace) -> slurm.JobRequirements:
    """Return the requirements of a run on its SLURM job.

    Args:
        options: of a subcommand, as the parser holds them.
    """
    trainer, data = options.trainer, options.data
    # as `auto` will choose: GPUs where there are any
    visible = 0 if trainer.accelerator == "cpu" else torch.cuda.device_count()
    gpus = visible if visible or trainer.accelerator in ("gpu", "cuda") else None
    devices = trainer.devices
    # the parser gives -1 as a number or as text
    if str(devices) in ("auto", "-1"):
        devices = gpus or 1
    elif not isinstance(devices, int):  # GPU indices as a list or a string, or their number as a string
        listed = [each for each in devices.split(",") if each.strip()] if isinstance(devices, str) else devices
        devices = int(devices) if isinstance(devices, str) and devices.isdecimal() else len(listed)
    return slurm.JobRequirements(
        devices=devices,
        num_nodes=trainer.num_nodes,
        gpus=gpus,
        root=None if data.synthetic or data.shards else Path(data.root),
        # a URL is the same on every node
        shards=Path(data.shards) if data.shards and "://" not in data.shards else None,
    )
