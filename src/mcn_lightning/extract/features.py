"""From pictures to rows: batches of one size over the pictures of several videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.extract.encoders.base import Encoder


@dataclass
class _Waiting:
    """Pictures of one shape that wait for a full batch."""

    pictures: list[np.ndarray] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)


class FeatureStream:
    """Encodes the pictures of one stream.

    Every batch has the same number of pictures, the last one is filled up. So a row does not depend on the videos that
    were encoded with it, and a job that goes on ends in the same bytes.

    Args:
        encoder: of the stream, on its device.
        batch_size: pictures (or clips) in a batch.
        half: run the encoder in float16 (on GPUs).
    """

    def __init__(self, encoder: Encoder, batch_size: int, half: bool) -> None:
        self.encoder, self.batch_size, self.half = encoder, batch_size, half
        self.device = next(chain(encoder.parameters(), encoder.buffers()), torch.empty(0)).device
        # by shape, as one batch holds pictures of one size
        self._waiting: dict[tuple[int, ...], _Waiting] = {}
        self._rows: dict[int, list[Tensor]] = {}

    def add(self, video: int, pictures: np.ndarray) -> None:
        """Take pictures of a video, in order.

        Args:
            video: its number.
            pictures: ``(n, height, width, 3)`` uint8, or ``(n, frames, height, width, 3)``.
        """
        waiting = self._waiting.setdefault(pictures.shape[1:], _Waiting())
        waiting.pictures.extend(pictures)
        waiting.owners.extend([video] * len(pictures))
        while len(waiting.pictures) >= self.batch_size:
            self._encode(waiting)

    def count(self, video: int) -> int:
        """Return how many rows of a video are encoded."""
        return len(self._rows.get(video, ()))

    def flush(self) -> None:
        """Encode what waits, in batches that are filled up."""
        for waiting in self._waiting.values():
            while waiting.pictures:
                self._encode(waiting)

    def pop(self, video: int) -> np.ndarray:
        """Return the rows ``(rows, width)`` float16 of a video, and forget them."""
        rows = self._rows.pop(video, [])
        return torch.stack(rows).numpy() if rows else np.zeros((0, self.encoder.width), dtype=np.float16)

    def forget(self, video: int) -> None:
        """Drop what there is of a video that failed."""
        self._rows.pop(video, None)
        for waiting in self._waiting.values():
            kept = [place for place, owner in enumerate(waiting.owners) if owner != video]
            waiting.pictures = [waiting.pictures[place] for place in kept]
            waiting.owners = [waiting.owners[place] for place in kept]

    def _encode(self, waiting: _Waiting) -> None:
        pictures, owners = waiting.pictures[: self.batch_size], waiting.owners[: self.batch_size]
        del waiting.pictures[: self.batch_size], waiting.owners[: self.batch_size]
        # filled up with black pictures: kernels of another batch size round in another way
        batch = np.zeros((self.batch_size, *pictures[0].shape), dtype=np.uint8)
        np.stack(pictures, out=batch[: len(pictures)])
        for owner, row in zip(owners, self._run(torch.from_numpy(batch)), strict=False):
            self._rows.setdefault(owner, []).append(row)

    def _run(self, batch: Tensor) -> Tensor:
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        # not on CPUs, where float16 is emulated and slower
        with torch.autocast(self.device.type, torch.float16) if self.half else nullcontext():
            return self.encoder.rows(batch).half().cpu()


def finished(streams: list[FeatureStream], wanted: dict[int, tuple[int, ...]]) -> Iterator[int]:
    """Return the videos whose rows are all encoded.

    Args:
        streams: of the job.
        wanted: rows that each stream was sent, of the videos that are decoded.
    """
    for video, rows in list(wanted.items()):
        if all(stream.count(video) >= count for stream, count in zip(streams, rows, strict=True)):
            yield video
