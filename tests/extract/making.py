"""Small videos for tests, and an encoder that needs no package."""

from __future__ import annotations

import os
import time
from fractions import Fraction
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder

server = forkserver._forkserver
if server._forkserver_pid is None and server._forkserver_address is not None and "COLD" not in os.environ:
    import forked  # noqa: F401 (this process is one of several devices: what decodes for it comes from the same server)


class Colours(Encoder):
    """The mean colours of 4 x 4 fields."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.size = 48, PictureSize(32, 32)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return ``(B, 48)``."""
        return F.adaptive_avg_pool2d(pictures.float().permute(0, 3, 1, 2) / 255, 4).flatten(1)


class Held(Colours):
    """Waits from the third batch on, where READY and GO name files: it makes the first until the second is there."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def encode(self, pictures: Tensor) -> Tensor:
        """Return ``(B, 48)``."""
        self.batches += 1
        if self.batches == 3 and "READY" in os.environ:
            Path(f"{os.environ['READY']}-{os.getpid()}").touch()
            while not Path(os.environ["GO"]).exists():
                time.sleep(0.05)
        return super().encode(pictures)


class Unit(Colours):
    """Scales rows to length 1 by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = True


class Failing(Colours):
    """Raises at the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def encode(self, pictures: Tensor) -> Tensor:
        """Return ``(B, 48)`` once."""
        self.batches += 1
        if self.batches > 1:
            raise RuntimeError("stopped here")
        return super().encode(pictures)


def write_video(path: Path, seconds: float = 3.0, seed: int = 0, sound: bool = True, rate: int = 10) -> None:
    """Write a film of one colour a second, with a tone.

    Args:
        path: with the ending of its container.
        seconds: its length.
        seed: of colours and tone.
        sound: with a tone.
        rate: frames a second.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=rate)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        tone = container.add_stream("aac", rate=16_000) if sound else None
        colours = rng.integers(0, 255, (int(seconds) + 1, 3), dtype=np.uint8)
        for number in range(round(seconds * rate)):
            pixels = np.broadcast_to(colours[number // rate], (48, 64, 3)).copy()
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        if tone is not None:
            time = np.arange(round(seconds * 16_000)) / 16_000
            wave = (0.3 * np.sin(2 * np.pi * (200 + 100 * seed) * time)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            container.mux(tone.encode(frame))
            container.mux(tone.encode())


def write_captions(path: Path, *captions: tuple[float, float, str]) -> None:
    """Write SubRip captions.

    Args:
        path: of the file.
        captions: start and end in seconds, and text.
    """

    def clock(seconds: float) -> str:
        return f"00:00:{int(seconds):02d},{round(seconds % 1 * 1000):03d}"

    lines = [f"{number}\n{clock(a)} --> {clock(b)}\n{text}\n" for number, (a, b, text) in enumerate(captions, 1)]
    path.write_text("\n".join(lines))


def rows_of(pictures: np.ndarray) -> np.ndarray:
    """Return the features of ``Colours`` of pictures ``(n, height, width, 3)``."""
    return Colours().rows(torch.from_numpy(pictures)).numpy()
