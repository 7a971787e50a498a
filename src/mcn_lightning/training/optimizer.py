"""The optimiser and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, PositiveShare


@dataclass(frozen=True)
class OptimizerConfig(Options, option="--model.optimizer"):
    """Options of the optimiser; the defaults are the released recipe.

    Args:
        kind: adam, or adamw with decoupled weight decay.
        lr: highest learning rate, after the warm-up.
        weight_decay: weight decay of the weight matrices; biases, batch norm and temperature have none.
        warmup_steps: steps of linear warm-up.
        schedule: after the warm-up, cosine to 0 over the rest of the run, constant, or exponential: times ``decay``
            after each epoch.
        decay: factor after each epoch in the exponential schedule (AVLnet-Text-Tri on YouCook2: 0.9).
    """

    kind: Literal["adam", "adamw"] = "adam"
    lr: NonNegativeFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.0
    warmup_steps: NonNegativeInt = 5000
    schedule: Literal["cosine", "constant", "exponential"] = "cosine"
    decay: PositiveShare = 0.9


def learning_rate_factor(
    step: int, warmup_steps: int, total_steps: float, schedule: str, decay: float = 1.0, epoch_steps: float = math.inf
) -> float:
    """Return the learning rate at a step, as a factor of the highest one.

    Args:
        step: optimiser steps done.
        warmup_steps: steps of the linear warm-up.
        total_steps: steps of the whole run.
        schedule: cosine (MCN; Chen et al., ICCV 2021), constant, or exponential (AVLnet; Rouditchenko et al., 2021).
        decay: factor after each epoch in the exponential schedule.
        epoch_steps: optimiser steps of an epoch.
    """
    # the first step has the rate 0, as in the released schedule
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "exponential":
        # in steps, not continuously: the factor changes at the end of an epoch
        return decay ** (step // epoch_steps)
    if schedule == "constant" or not math.isfinite(total_steps):
        return 1.0
    progress = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(
    config: OptimizerConfig,
    parameters: Sequence[nn.Parameter],
    total_steps: float,
    epoch_steps: float,
    fused: bool | None = None,
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Return the optimiser and its schedule, which is stepped after each batch.

    Args:
        config: options.
        parameters: all trainable parameters.
        total_steps: optimiser steps of the whole run.
        epoch_steps: optimiser steps of an epoch; infinity for data of unknown length.
        fused: update all weights in one kernel; by default where all of them are on CUDA.

    Raises:
        InputError: if the schedule is exponential and epochs have no end.
    """
    if config.schedule == "exponential" and not math.isfinite(epoch_steps):
        found = "an endless epoch; use constant, or --trainer.limit_train_batches"
        raise InputError(f"--model.optimizer.schedule exponential: expected data of known length, found {found}")
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    # one-dimensional parameters are biases, scales of batch norm and the temperature
    matrices = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() <= 1]
    # decay would pull biases, batch-norm scales and the temperature towards 0, which is no neutral value for them
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if fused is None:
        fused = all(parameter.is_cuda for parameter in parameters)
    optimizer = kind([group for group in groups if group["params"]], lr=config.lr, fused=fused or None)
    # a fused optimiser offers to unscale the gradients itself, and Lightning then refuses to clip them, in bf16 too
    vars(optimizer).update(_step_supports_amp_scaling=False)
    optimizer.register_load_state_dict_pre_hook(_keep_fused)

    def factor(step: int) -> float:
        return learning_rate_factor(step, config.warmup_steps, total_steps, config.schedule, config.decay, epoch_steps)

    return optimizer, LambdaLR(optimizer, factor)


def _keep_fused(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Return the saved state of an optimiser for the kernel of this run; torch would take that of the saved run."""
    fused = optimizer.defaults["fused"]
    return {**state, "param_groups": [{**group, "fused": fused} for group in state["param_groups"]]}


def fill_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give trained parameters without a gradient one of zeros.

    Args:
        parameters: of the network.
    """
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
