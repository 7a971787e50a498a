"""Networks of one's own in a file of ONNX: ``onnx:<file>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder, Pixels
from mcn_lightning.extract.encoders.torch_file import FILE_ADVICE
from mcn_lightning.extract.encoders.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    fetching,
    find_whole,
    import_package,
)

TYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(double)": torch.float64}
"""Types of the input of a network by their names in onnxruntime."""


class OnnxEncoder(Encoder):
    """A network in a file of ONNX. Its first input and its first output are used.

    The network takes ``(B, 3, height, width)``, scaled to [0, 1] and standardised by ``mean`` and ``std``, or clips
    ``(B, 3, frames, height, width)``. It returns ``(B, width)``. A size, a number of frames or of pictures in a batch
    that the file fixes is followed.

    Args:
        file: path of the file.
        weights: must be left out, as the file has them.
        short_side: pixels of the shorter side of pictures after scaling; 8/7 of the crop unless given.
        crop: side of the square that is cut from the middle; 0 for the whole picture. The size that the file fixes, or
            224, unless given.
        mean: of each channel; those of ImageNet unless given.
        std: standard deviation of each channel.
        frames: frames of a clip, where the file does not fix them.
        frame_rate: frames a second of a clip.

    Raises:
        InputError: if onnxruntime is not installed, or the file does not fit.
    """

    def __init__(
        self,
        file: str,
        weights: str | None = None,
        short_side: int | None = None,
        crop: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        frames: int | None = None,
        frame_rate: float = 15.0,
    ) -> None:
        super().__init__()
        self.name = f"onnx:{file}"
        self.path = find_whole(file, weights, self.name, "a file of ONNX")
        self.sessions: dict[str, Any] = {}
        taken = self._session(torch.device("cpu")).get_inputs()[0]
        shape = [each if isinstance(each, int) else None for each in taken.shape]
        if len(shape) not in (4, 5) or shape[1] not in (3, None) or taken.type not in TYPES:
            found = f"{taken.shape} of {taken.type}"
            raise InputError(
                f"{self.name}: expected an input (B, 3, height, width) or (B, 3, frames, height, width), found {found}"
            )
        self.batch, self.dtype = shape[0], TYPES[taken.type]
        crop = (shape[-1] or 224) if crop is None else crop
        # 8/7, as 256 is to 224
        self.size = PictureSize(short_side or round(crop * 8 / 7) or 256, crop or None)
        if len(shape) == 5:
            self.frames, self.frame_rate = frames or shape[2] or 16, frame_rate
        self.pixels = Pixels(mean, std)
        self.width = self.find_width(self.name, FILE_ADVICE)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return what the network returns."""
        planes = self.pixels(pictures)
        planes = (planes if self.frame_rate is None else planes.movedim(1, 2)).to(self.dtype)
        session = self._session(planes.device)
        name = session.get_inputs()[0].name
        rows = []
        for part in planes.split(self.batch or len(planes)):
            padding = (self.batch or len(part)) - len(part)  # the last part of a batch whose size the file fixes
            full = torch.cat([part, part[-1:].expand(padding, *part.shape[1:])]) if padding else part
            rows.append(torch.from_numpy(session.run(None, {name: full.cpu().numpy()})[0])[: len(part)])
        return torch.cat(rows).to(planes.device)

    def _session(self, device: torch.device) -> Any:
        """Return the session for a device: on its GPU where onnxruntime can use it, else on the CPU."""
        runtime = import_package("onnxruntime", self.name, "extract-onnx")
        if str(device) not in self.sessions:
            options = runtime.SessionOptions()
            # by default onnxruntime takes every core of the machine, also those of other jobs
            options.intra_op_num_threads = torch.get_num_threads()
            providers: list[Any] = ["CPUExecutionProvider"]
            if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            with fetching(self.name, ""):
                try:
                    self.sessions[str(device)] = runtime.InferenceSession(Path(self.path), options, providers)
                except Exception as error:  # of onnxruntime's own class, which derives from no other
                    raise ValueError(str(error)) from None
        return self.sessions[str(device)]
