"""The batch of clips that the data loaders give and that all other code takes.

One letter alphabet serves the whole project:

====== =====================================================================
B      clips in a batch
C      width of the video feature: the widths of all visual streams together
M      mel bands of the spectrogram
T      audio frames (10 ms each)
W      words of a text
E      width of a word vector
D      width of the joint embedding
K      clusters
Q      rows of the clustering queue
N      items of a retrieval gallery
====== =====================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.errors import InputError
from mcn_lightning.memory import Blocks, in_one_piece, moved, received

_blocks = Blocks(max_blocks=2)
Modality = Literal["video", "audio", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "audio", "text")


class AbsentError(InputError):
    """A file or an entry does not exist. ``data.allow_missing`` may allow that, but no damaged file."""


@dataclass(frozen=True)
class BadVideo:
    """A video that could not be used, and the reason.

    Args:
        video: id of the video.
        reason: one line that names the file, what was expected and what was found.
        absent: the video has no captions, which ``data.allow_missing`` allows; no file is damaged.
    """

    video: str
    reason: str
    absent: bool = False


@dataclass(frozen=True)
class ClipBatch:
    """A batch of B clips. A modality that the dataset does not have is ``None``.

    A loader gives raw features: visual maxima, and the spectrogram frames that clips share. ``ready`` makes of them
    what the network takes.

    Args:
        ids: B names, ``"<video id>:<clip number>"``.
        video: pooled visual features, ``(B, C)``. From a loader: maxima in the stored precision. After ``ready``:
            float32, each stream L2-normalised.
        audio: log-mel spectrograms in dB relative to the maximum, ``(B, M, T)``, padded on the right. In the stored
            precision, as float16 halves the bytes to copy; float32 once augmented. ``None`` before ``ready`` where
            ``frames`` is given.
        audio_frames: frames of each spectrogram before padding, ``(B,)`` int64.
        words: word or token indices, ``(B, W)`` int32; 0 is "no word".
        labels: known topic of each clip, ``(B,)`` int64, where the dataset has topics; -1 for a clip without any.
        clips_per_video: number of adjacent clips that come from one video (``n_pair`` in training, else 1).
        skipped: videos of this batch that could not be read.
        video_widths: widths of the visual streams that ``ready`` will normalise; empty afterwards.
        frames: spectrogram frames of all clips, ``(F, M)`` in the stored precision. Frames that clips of a video share
            are stored once.
        frame_start: first row of each clip in ``frames``, ``(B,)`` int64.
        num_frames: T, to which ``ready`` pads the clips.
        pad_value: dB that it pads with.
        metadata: description of each clip for ``predict`` (see ``data.dataset.DescribedVideos``); else empty.
        items: name of each row's gallery item, B names. Several captions of one clip are rows with the same item.
            Empty in training, which does not use it.
        present: which clips have video, audio and text, ``(B, 3)`` bool; ``None`` where all clips have all modalities.
            A clip without one has zeros, no frames or no words. The tensor stays on the CPU: it decides shapes, and
            reading it from a device would make the step wait.
    """

    ids: tuple[str, ...]
    video: Tensor | None = None
    audio: Tensor | None = None
    audio_frames: Tensor | None = None
    words: Tensor | None = None
    labels: Tensor | None = None
    clips_per_video: int = 1
    skipped: tuple[BadVideo, ...] = ()
    video_widths: tuple[int, ...] = ()
    frames: Tensor | None = None
    frame_start: Tensor | None = None
    num_frames: int = 0
    pad_value: float = 0.0
    metadata: tuple[Mapping[str, object], ...] = ()
    items: tuple[str, ...] = ()
    present: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def without_known_word(self) -> tuple[str, ...]:
        """Return the ids of the clips whose text has no known word. Their text embeddings do not depend on the text."""
        if self.words is None:
            return ()
        unknown = ~(self.words != 0).flatten(1).any(1).cpu()
        if (present := self.present) is not None:  # a clip without text has no word by design
            unknown &= present[:, MODALITIES.index("text")].cpu()
        return tuple(name for name, alone in zip(self.ids, unknown.tolist(), strict=True) if alone)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """Return the batch with its tensors on ``device``, after ``pin_memory`` in a single copy."""
        return self._with(moved(self._tensors(), device, non_blocking))

    def ready(self) -> ClipBatch:
        """Return the batch as the network takes it: visual streams L2-normalised in float32, spectrograms cut.

        Call it on the device that uses the batch: then fewer than half of the bytes are copied there. Visual rows of
        zeros stay zeros.
        """
        batch = self
        if self.video is not None and self.video_widths:
            parts = self.video.split(self.video_widths, dim=1)
            # torch's default eps (1e-12) would leave rows with tiny features shorter than 1
            streams = [F.normalize(part.float(), dim=1, eps=1e-30) for part in parts]
            batch = replace(batch, video=torch.cat(streams, dim=1), video_widths=())
        if self.frames is not None and self.frame_start is not None and self.audio_frames is not None:
            audio = cut_clips(self.frames, self.frame_start, self.audio_frames, self.num_frames, self.pad_value)
            batch = replace(batch, audio=audio, frames=None, frame_start=None)
        return batch

    def take(self, rows: Sequence[int]) -> ClipBatch:
        """Return a batch of the given rows, in their order. ``frames`` is kept whole, as clips may share its rows."""
        index = torch.tensor(rows, dtype=torch.int64)
        taken = {name: value[index] for name, value in self._tensors().items() if name != "frames"}
        # items are empty in training
        ids, items = (tuple(names[row] for row in rows) if names else () for names in (self.ids, self.items))
        present = None if self.present is None else self.present[index]
        return replace(self._with(taken), ids=ids, items=items, present=present)

    def pin_memory(self) -> ClipBatch:
        """Return the batch with its tensors in one piece of page-locked memory (called by the data loader)."""
        return self._with(in_one_piece(self._tensors(), pin=True))

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory of the tensors until a stream that did not make them is done with them."""
        for value in self._tensors().values():
            value.record_stream(stream)

    def received(self) -> ClipBatch:
        """Return the batch with its tensors taken over from the worker process (called by the data loader)."""
        return self._with({name: received(value) for name, value in self._tensors().items()})

    def _with(self, tensors: Mapping[str, Any]) -> ClipBatch:
        return replace(self, **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        # without `present`, which stays on the CPU
        names = ("video", "audio", "audio_frames", "words", "labels", "frames", "frame_start")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def cut_clips(frames: Tensor, start: Tensor, length: Tensor, num_frames: int, pad_value: float) -> Tensor:
    """Cut clips out of the spectrogram frames that they share, and pad them.

    Args:
        frames: ``(F, M)``.
        start: first row of each clip, ``(B,)`` int64.
        length: rows of each clip, ``(B,)`` int64, at most ``num_frames``.
        num_frames: T.
        pad_value: written after a clip's own rows.

    Returns:
        ``(B, M, T)`` in the precision of ``frames``; a view of ``(B, T, M)``.
    """
    # a loop over clips on a GPU would start two kernels for each of them
    cut = _copy if frames.device.type == "cpu" else _gather
    return cut(frames, start, length, num_frames, pad_value).transpose(1, 2)


def _copy(frames: Tensor, start: Tensor, length: Tensor, num_frames: int, pad_value: float) -> Tensor:
    """Cut clip by clip on the CPU, where each frame is copied once."""
    cut, source = _blocks.new((len(start), num_frames, frames.shape[1]), frames.dtype), frames.numpy()
    for clip, first, count in zip(cut.numpy(), start.tolist(), length.tolist(), strict=True):
        clip[:count] = source[first : first + count]
        clip[count:] = pad_value
    return cut


def _gather(frames: Tensor, start: Tensor, length: Tensor, num_frames: int, pad_value: float) -> Tensor:
    """Cut all clips with one index on a GPU, which takes few kernels."""
    step = torch.arange(num_frames, device=frames.device)
    own = step < length[:, None]
    rows = torch.where(own, start[:, None] + step, 0)  # padding reads row 0, and is overwritten below
    # without a single frame there is no row 0 to read
    cut = frames[rows] if len(frames) else frames.new_empty(*rows.shape, frames.shape[1])
    return cut.masked_fill_(~own[:, :, None], pad_value)
