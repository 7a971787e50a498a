"""Films that feed an encoder: how much of the time is the encoder at work."""

from __future__ import annotations

import importlib.util
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gpu_parts.run import Run
from mcn_lightning.extract.decode import PictureSize
from mcn_lightning.extract.encoders.base import Encoder
from mcn_lightning.extract.encoders.howto100m import CLIP_MEAN, ReleasedResNeXt
from mcn_lightning.extract.encoders.resnext3d import ResNeXt3D
from mcn_lightning.extract.job import extract
from mcn_lightning.extract.options import EncodedStream, ExtractConfig

batches: list[tuple[float, float]] = []
"""Begin and end of each batch of the encoder, in seconds of the host, which waits for it here."""


class Timed(Encoder):
    """An encoder whose batches are timed."""

    def rows(self, pictures: Tensor) -> Tensor:
        """Return the rows of pictures, and keep when they were made."""
        begun = time.perf_counter()
        found = super().rows(pictures)
        if found.is_cuda:
            torch.cuda.synchronize()
        batches.append((begun, time.perf_counter()))
        return found


class RandomResNeXt(Timed, ReleasedResNeXt):
    """The 3D ResNeXt-101 of the HowTo100M release, without its weights."""

    def __init__(self) -> None:
        super(ReleasedResNeXt, self).__init__()
        self.network = ResNeXt3D()
        self.register_buffer("mean", torch.tensor(CLIP_MEAN), persistent=False)


class Fields(Timed):
    """The mean colours of 4 x 4 fields: an encoder for a test."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.size = 48, PictureSize(32, 32)

    def encode(self, pictures: Tensor) -> Tensor:
        """Return ``(B, 48)``."""
        return F.adaptive_avg_pool2d(pictures.float().permute(0, 3, 1, 2) / 255, 4).flatten(1)


def write_film(path: Path, seconds: int, width: int, height: int) -> None:
    """Write a film of moving noise, 25 frames a second."""
    import av

    noise = np.random.default_rng(0).integers(0, 255, (2 * height, 2 * width, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(noise[number % height :, number % width :][:height, :width].copy())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def extraction(run: Run, work: Path) -> None:
    """Extract the clip features of the release of some films, and add the share of time that the encoder works."""
    if importlib.util.find_spec("av") is None:
        return run.add("extract", "films", "left out", "", "PyAV is not installed")
    count, seconds, width, height = (2, 3, 64, 48) if run.tiny else (32, 40, 640, 360)
    films = work / "films"
    films.mkdir()
    write_film(films / "film_0.mp4", seconds, width, height)
    for number in range(1, count):
        (films / f"film_{number}.mp4").write_bytes((films / "film_0.mp4").read_bytes())
    name = f"gpu_parts.extraction.{'Fields' if run.tiny else 'RandomResNeXt'}"
    (work / "words.txt").write_text("one 1 0\n")
    streams = (EncodedStream("clip", name, 1.0 if run.tiny else None),)
    config = ExtractConfig(
        str(films), str(work / "extracted"), streams, sound=False, text=str(work / "words.txt"), devices=1
    )
    batches.clear()
    extract(config)
    first, last = batches[0][0], batches[-1][1]
    busy = sum(end - begun for begun, end in batches) / (last - first)
    note = f"{count * seconds / (last - first):,.0f} times the length of the films"
    run.add("extract", f"encoder at work, {len(batches)} batches", 100 * busy, "% of the time", note)
