"""Visual encoders: what turns pictures into rows of features."""

from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels
from mcn_lightning.extract.encoders.kinds import KINDS, make_encoder

__all__ = ["KINDS", "Encoder", "PictureSize", "Pixels", "make_encoder"]
