"""The queues of a module in training: each device holds a share, and checkpoints hold the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mcn_lightning.clustering import FeatureQueue, OnlineClustering
from mcn_lightning.distributed import rank


def _queues(module: nn.Module) -> Iterator[tuple[str, FeatureQueue]]:
    """Yield the queues of built-in clusterings, with their names; those of a user's clustering may be read whole."""
    for name, part in module.named_modules():
        if isinstance(part, OnlineClustering):
            yield f"{name}.queue", part.queue


def divide_queues(module: nn.Module) -> None:
    """Leave each process a share of the queues. All processes call it together."""
    for _, queue in _queues(module):
        queue.divide()


def restore_queues(module: nn.Module) -> None:
    """Give each process the whole queues again. All processes call it together."""
    for _, queue in _queues(module):
        queue.restore()


def save_queues(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Put the whole queues into a checkpoint, so that any number of processes can go on from it.

    All processes call it together. Process 0 gets the rows, as it alone writes the checkpoint.

    Args:
        module: that the state dicts in the checkpoint are of.
        checkpoint: changed in place.
    """
    for name, queue in _queues(module):
        if not queue.divided:
            continue
        whole = queue.whole(None if rank() else torch.device("cpu"))
        # averaged weights have a state dict of their own
        for state in checkpoint.values():
            if whole is not None and isinstance(state, dict) and f"{name}.data" in state:
                state[f"{name}.data"] = whole
