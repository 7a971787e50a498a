"""The encoders of the HowTo100M release: ``howto100m:resnet152`` and ``howto100m:resnext101/<resnext101.pth>``.

New videos get the features on which the released models were trained. One thing differs: the release scales a rotated
film by its unrotated size, and so distorts it. Here it is upright before it is scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder
from mcn_lightning.extract.encoders.resnext3d import ResNeXt3D
from mcn_lightning.extract.encoders.timm import TimmEncoder
from mcn_lightning.extract.encoders.weights import load_state

RESNET = "resnet152.tv_in1k"
"""The first ImageNet weights of torchvision, by their name in timm."""
CLIP_MEAN = (110.6, 103.2, 96.3)
"""Mean of each channel over Kinetics, of pixels from 0 to 255. The clips are not divided by a deviation."""


class ReleasedResNet(TimmEncoder):
    """ResNet-152 over whole pictures: shorter side 224, no crop, mean over the picture, rows of length 1.

    Args:
        model: ``resnet152``, perhaps with ``/`` and a file of weights with the names of torchvision.
        weights: such a file. Without one timm fetches the weights.

    Raises:
        InputError: if timm is not installed, or the weights are missing or do not fit.
    """

    normalize = True

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__(RESNET, weights or model.partition("/")[2] or None)
        self.size = PictureSize(224)


class ReleasedResNeXt(Encoder):
    """3D ResNeXt-101 over clips of 16 frames at 24 a second, 112 pixels wide, rows of length 1.

    Args:
        model: ``resnext101``, perhaps with ``/`` and the released file ``resnext101.pth``.
        weights: that file.

    Raises:
        InputError: if the file is missing or does not fit.
    """

    size = PictureSize(112, 112)
    frames = 16
    frame_rate = 24.0
    fixed_rate = True
    normalize = True
    width = ResNeXt3D.width
    mean: Tensor

    def __init__(self, model: str, weights: str | None = None) -> None:
        super().__init__()
        file = weights or model.partition("/")[2]
        if not file:
            raise InputError(
                "howto100m:resnext101: expected released weights, found none; write howto100m:resnext101/resnext101.pth"
            )
        self.network = ResNeXt3D()
        # the released file has the classifier of Kinetics too
        load_state(self.network, file, f"howto100m:{model}", ["fc."])
        self.register_buffer("mean", torch.tensor(CLIP_MEAN), persistent=False)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the mean over time and space of the last layer."""
        return self.network((pictures.float() - self.mean).movedim(-1, 1).contiguous())
