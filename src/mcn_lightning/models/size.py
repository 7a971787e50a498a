"""A check of the memory that a network needs, before it is built."""

from __future__ import annotations

import os

import torch

from mcn_lightning.errors import InputError
from mcn_lightning.models.mcn import MCN
from mcn_lightning.models.options import NetworkConfig


def check_memory(config: NetworkConfig, queue_bytes: int = 0) -> None:
    """Refuse a network that does not fit into this machine's memory. Training takes about four times as much.

    Args:
        config: options of the network.
        queue_bytes: bytes of the clustering queue.

    Raises:
        InputError: if weights and queue are larger than the machine's memory.
    """
    with torch.device("meta"):  # shapes without memory
        # weights are float32 in every precision of the trainer
        weights = sum(4 * weight.numel() for weight in MCN(config).parameters())
    needed, available = weights + queue_bytes, _memory()
    if needed > available:
        queue = f" and {queue_bytes / 1e9:.1f} GB of queue (--model.clustering.queue_rows)" if queue_bytes else ""
        found = f"{weights / 1e9:.1f} GB of weights{queue}, with {available / 1e9:.1f} GB there"
        option = f"--model.network.embedding_dim {config.embedding_dim}"
        raise InputError(f"{option}: expected a network that fits into memory, found {found}; lower it")


def _memory() -> float:
    """Return the bytes of memory of this machine; infinity if the system does not report them."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return float("inf")
