"""Contents of a shard: consecutive videos of a source as the tensors of one file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.data.captions import Captions, total_reasons
from mcn_lightning.data.clips import Clip, ClipConfig
from mcn_lightning.data.files.arrays import check_finite
from mcn_lightning.data.files.pooling import VisualStream, empty_rows, max_rows
from mcn_lightning.data.shards.files import BAD, column_names
from mcn_lightning.data.sources.raw import RawVideo, RawVideos
from mcn_lightning.data.text import split_words
from mcn_lightning.data.videos import check_lengths
from mcn_lightning.errors import InputError, naming


@dataclass(frozen=True)
class Split:
    """A split that is packed.

    Args:
        source: its videos.
        min_time: length in seconds to which the clip of each caption grows.
    """

    source: RawVideos
    min_time: float


class ShardContents:
    """Collects the contents of a shard.

    Args:
        streams: visual streams, in their order.
        clips: how captions become clips.
        keep_frames: store the rows of the visual features in place of the pooled vector of each caption.
    """

    def __init__(self, streams: Sequence[VisualStream], clips: ClipConfig, keep_frames: bool) -> None:
        self.streams, self.clips, self.keep_frames = list(streams), clips, keep_frames
        self.parts: dict[str, list[Tensor]] = {}
        self.rows: dict[str, list[int]] = {name: [] for name in column_names(len(self.streams)) if name != "id_end"}
        # the first free row of each table, which the next video takes
        self.next = dict.fromkeys(("caption", "frame", *(f"row_{s}" for s in range(len(self.streams)))), 0)
        self.skipped: dict[str, str] = {}
        self.dropped: Mapping[str, int] = {}
        self.words: dict[str, int] = {}
        self.seconds, self.bytes_in = 0.0, 0

    def add(self, split: Split, index: int) -> None:
        """Add a video, or note the reason why it is skipped."""
        # words of skipped videos count too, so that the vocabulary equals that of the unpacked data set
        for text in split.source.texts(index):
            for word in split_words(text):
                self.words.setdefault(word, len(self.words))
        try:
            video = split.source.open(index)
            parts, counts = self._read(split, index, video)
        except InputError as error:
            self.skipped[str(index)] = str(error)
            for name, column in self.rows.items():
                column.append(BAD if name == "shard" else 0)
            return
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part)
        for name, column in self.rows.items():
            column.append(counts.get(name, 0))
        for name, size in (("caption", "captions"), ("frame", "frames")):
            # negative for windows
            self.next[name] += abs(counts[size])
        for number in range(len(self.streams) if self.keep_frames else 0):
            self.next[f"row_{number}"] += counts[f"rows_{number}"]
        if video.captions is not None:
            self.dropped = total_reasons([self.dropped, video.captions.dropped])
        self.seconds += video.duration if np.isfinite(video.duration) else 0.0
        self.bytes_in += sum(split.source.stored_bytes(index))

    def _read(self, split: Split, index: int, video: RawVideo) -> tuple[dict[str, Tensor], dict[str, int]]:
        parts: dict[str, Tensor] = {}
        counts = dict(self.next)
        name, captions = split.source.id(index), video.captions
        counts["captions"] = 0 if captions is None else len(captions)
        check_lengths(name, video, self.clips.overrun)
        spans: list[tuple[float, float]] = []
        pooled: list[Tensor] = []
        if captions is not None:
            clips = list(captions.clips(range(len(captions)), split.min_time, self.clips.span == "widest").values())
            spans = [(clip.start, clip.end) for clip in clips]
            parts |= _caption_parts(captions, clips)
            counts["topics"] = int(captions.topics is not None)
            parts["word"], parts["word_end"] = self._words(captions, clips)
        elif self.streams and not self.keep_frames:
            windows, clips = _windows(video.duration, max(self.clips.min_time, 1.0))
            spans, counts["captions"] = [(clip.start, clip.end) for clip in clips], -len(clips)
            parts |= _caption_parts(windows, clips)
            parts["word"], parts["word_end"] = self._words(windows, clips)
        for number, (stream, rows) in enumerate(zip(self.streams, video.rows, strict=False)):
            counts[f"rows_{number}"] = 0 if rows is None else len(rows)
            if not self.keep_frames:  # a missing stream becomes zeros beside the others
                pooled.append(_maxima(name, stream, empty_rows(stream) if rows is None else rows, spans))
            elif rows is not None:
                check_finite(rows, f"{name}: expected finite numbers in {stream.suffix}")
                parts[f"visual_{number}"] = rows
        if pooled:
            parts["visual"] = torch.cat(pooled, dim=1)
        counts["frames"] = 0
        if video.frames is not None:
            check_finite(video.frames, f"{name}: expected finite numbers in the spectrogram")
            counts["frames"] = video.frames.shape[1]
            # time-major: the frames of a clip then are adjacent bytes
            parts["audio"] = video.frames.T
        return parts, counts

    def _words(self, captions: Captions, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Return the word indices of all clips, and the end of each clip's indices."""
        indices = [[self.words[word] for word in split_words(text)] for text in captions.text]
        merged = [[index for caption in clip.order for index in indices[caption]] for clip in clips]
        joined = torch.tensor([index for clip in merged for index in clip], dtype=torch.int32)
        return joined, torch.tensor([len(clip) for clip in merged], dtype=torch.int64).cumsum(0)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the shard, and free the parts."""
        if not any(len(part) for part in self.parts.get("choice", ())):  # windows have none
            for name in ("choice", "choice_end", "choices_end"):
                self.parts.pop(name, None)
        joined = {}
        # popped one by one, so that parts and joined tensor are in memory together for one name only
        for name in sorted(self.parts):
            parts = self.parts.pop(name)
            if name.endswith("_end"):  # ends within each video become ends within the shard
                shift, moved = 0, []
                for part in parts:
                    moved.append(part + shift)
                    shift = int(moved[-1][-1]) if len(part) else shift
                parts = moved
            joined[name] = torch.cat(parts).contiguous()
        joined["vocabulary"], joined["vocabulary_end"] = bytes_of(self.words)
        return joined

    def describe(self) -> dict[str, object]:
        """Return the description of the shard for the index."""
        return {
            "rows": self.rows,
            "skipped": self.skipped,
            "dropped": dict(self.dropped),
            "words": list(self.words),
            "seconds": self.seconds,
            "bytes_in": self.bytes_in,
        }


def _windows(duration: float, min_time: float) -> tuple[Captions, list[Clip]]:
    """Return the windows of a video without captions, one at each whole second, as captions without text."""
    # at every second: training samples a window at any of them
    seconds = range(math.ceil(duration))
    clips = [Clip(second, float(second), min(second + min_time, duration)) for second in seconds]
    start, end = np.array([clip.start for clip in clips]), np.array([clip.end for clip in clips])
    return Captions(start, end, [""] * len(clips), choices=[()] * len(clips)), clips


def _caption_parts(captions: Captions, clips: Sequence[Clip]) -> dict[str, Tensor]:
    text, text_end = bytes_of(captions.text)
    topics = captions.topics if captions.topics is not None else np.zeros(len(captions), dtype=np.int64)
    parts = {
        "start": torch.from_numpy(np.array(captions.start, dtype=np.float64)),
        "end": torch.from_numpy(np.array(captions.end, dtype=np.float64)),
        "clip": torch.tensor([(clip.start, clip.end) for clip in clips], dtype=torch.float64),
        "order": torch.tensor([number for clip in clips for number in clip.order], dtype=torch.int32),
        "order_end": torch.tensor([len(clip.order) for clip in clips]).cumsum(0),
        "text": text,
        "text_end": text_end,
        "topic": torch.from_numpy(np.array(topics)),
    }
    if captions.choices is not None:
        parts["choice"], parts["choice_end"] = bytes_of([text for choices in captions.choices for text in choices])
        parts["choices_end"] = torch.tensor([len(choices) for choices in captions.choices]).cumsum(0)
    return parts


def bytes_of(texts: Iterable[str]) -> tuple[Tensor, Tensor]:
    """Return strings as concatenated UTF-8 bytes ``(bytes,)``, and the end of each string ``(strings,)`` int64."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]  # JSON may hold lone surrogates
    ends = torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)
    return torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()), ends


def _maxima(name: str, stream: VisualStream, rows: Tensor, spans: list[tuple[float, float]]) -> Tensor:
    with naming(f"{name}{stream.suffix}"):
        return max_rows(rows, spans, stream.rate)
