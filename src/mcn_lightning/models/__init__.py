"""Networks: tensors in, tensors out."""

from mcn_lightning.models.mcn import MCN, MCNOutput, NetworkConfig

__all__ = ["MCN", "MCNOutput", "NetworkConfig"]
