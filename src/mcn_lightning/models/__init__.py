"""Networks: tensors in, tensors out."""

from mcn_lightning.models.audio import AudioNetwork
from mcn_lightning.models.mcn import MCN, MCNOutput
from mcn_lightning.models.options import AudioNetworkConfig, NetworkConfig

__all__ = ["MCN", "AudioNetwork", "AudioNetworkConfig", "MCNOutput", "NetworkConfig"]
