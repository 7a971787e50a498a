"""Narrated videos as a torch data set of clips, wherever they are stored: which clips, and what is in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mcn_lightning.batch import MODALITIES, AbsentError, BadVideo, ClipBatch, Modality, cut_clips
from mcn_lightning.data.captions import Captions
from mcn_lightning.data.clips import Clip, ClipConfig, all_windows, count_starts, sample_clips, sample_windows
from mcn_lightning.data.files.spectrograms import AudioConfig, augment_audio, seconds_of_frames, window_span
from mcn_lightning.data.text import TextSource
from mcn_lightning.data.videos import NewTensor, StoredVideo, Videos, check_lengths, new_tensor
from mcn_lightning.errors import InputError
from mcn_lightning.memory import Blocks, Slots


class NarratedVideoDataset(Dataset[ClipBatch | BadVideo]):
    """The clips of narrated videos: one item is one video, whose clips come as a small batch.

    A video that cannot be used gives a ``BadVideo`` and no exception, so that a long training run can go on.

    Args:
        source: where the videos are.
        clips: how clips are chosen.
        audio: how spectrograms are augmented.
        text: what turns text into indices; none where the clips have no text.
        seed: all random numbers depend only on (seed, epoch, index of the video).
        training: sample ``n_pair`` clips and augment; otherwise every caption once, or consecutive windows.
        may_lack: modalities that a video may lack. Its batch then says which clips have what; a video without captions
            has the windows of ``min_time`` seconds, of one second at least.
    """

    def __init__(
        self,
        source: Videos,
        clips: ClipConfig,
        audio: AudioConfig = AudioConfig(),  # noqa: B008 (frozen)
        text: TextSource | None = None,
        seed: int = 0,
        training: bool = True,
        may_lack: Sequence[Modality] = (),
    ) -> None:
        self.may_lack = tuple(may_lack)
        self.source = source
        self.clips = clips
        self.audio = audio
        self.text = text
        self.seed = seed
        self.training = training
        self._blocks = Blocks()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> ClipBatch | BadVideo:
        """Return the clips of a video.

        Args:
            key: epoch, and index of the video.
        """
        return self._item(key, new_tensor)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[ClipBatch | BadVideo]:
        """Return the clips of several videos, side by side in the memory of one batch (called by the data loader)."""
        slots = Slots(len(keys), self._blocks)
        return [self._item(key, slots.take) for key in keys]

    def _item(self, key: tuple[int, int], new: NewTensor) -> ClipBatch | BadVideo:
        epoch, index = key
        try:
            return self._clips_of(epoch, index, new)
        except InputError as error:
            return BadVideo(self.source.id(index), str(error), isinstance(error, AbsentError))
        except (IndexError, OverflowError, ValueError, RuntimeError) as error:
            # a damaged file can raise these anywhere; without damage it is a mistake in the code
            if (reason := self.source.damage(index, error)) is None:
                raise
            return BadVideo(self.source.id(index), reason)

    def check(self, index: int) -> None:
        """Open a video and compare the lengths of its parts, without reading its features.

        Raises:
            InputError: if it cannot be opened, or its streams or captions cannot be of one video.
        """
        check_lengths(self.source.id(index), self.source.open(index), self.clips.overrun)

    def spans(self, index: int) -> list[tuple[float, float]]:
        """Return start and end, in seconds, of the clips of a video as the data set takes them."""
        video = self.source.open(index)
        rng = np.random.default_rng((self.seed, 0, index))
        return [(clip.start, clip.end) for clip in self._choose(rng, self.source.id(index), video)]

    def _clips_of(self, epoch: int, index: int, new: NewTensor) -> ClipBatch:
        # from the key alone: the clips do not depend on workers, processes, or where a run resumed
        rng = np.random.default_rng((self.seed, epoch, index))
        name, video = self.source.id(index), self.source.open(index)
        check_lengths(name, video, self.clips.overrun)
        captions, clips = video.captions, self._choose(rng, name, video)
        ids = tuple(clip.name(name) for clip in clips)
        sound = self._audio(rng, video, clips, new)
        batch = ClipBatch(
            ids=ids,
            items=() if self.training else _items(ids, clips),
            video=video.visual(clips, new),
            words=self._words(captions, clips, rng),
            labels=None if captions is None or captions.topics is None else _labels(captions.topics, clips),
            clips_per_video=self.clips.n_pair if self.training else 1,
            video_widths=self.source.widths,
            **sound,
        )
        return self._filled(batch, new) if self.may_lack else batch

    def _filled(self, batch: ClipBatch, new: NewTensor) -> ClipBatch:
        """Say what the clips of a video have, and put zeros, no frames and no words for what they lack."""
        size, audio = len(batch), self.audio
        there = {"video": batch.video is not None, "text": batch.words is not None,
                 "audio": batch.audio is not None or batch.frames is not None}  # fmt: skip
        fields: dict[str, Any] = {}
        if "video" in self.may_lack and not there["video"]:
            fields["video"] = new("video", (size, sum(self.source.widths)), torch.float16).zero_()
        if "audio" in self.may_lack and not there["audio"]:
            fields["audio_frames"] = torch.zeros(size, dtype=torch.int64)
            if self.training and audio.augments:
                fields["audio"] = torch.full((size, audio.bands, audio.num_frames), audio.pad_value)
            else:
                fields["frames"], fields["frame_start"] = torch.empty(0, audio.bands, dtype=torch.float16), _zeros(size)
                fields |= {"num_frames": audio.num_frames, "pad_value": audio.pad_value}
        if "text" in self.may_lack and not there["text"] and self.text is not None:
            fields["words"] = torch.zeros(size, self.text.max_words, dtype=torch.int32)
        present = torch.tensor([there[name] for name in MODALITIES]).expand(size, -1).contiguous()
        return replace(batch, present=present, **fields)

    def _choose(self, rng: np.random.Generator, name: str, video: StoredVideo) -> list[Clip]:
        config, captions, duration = self.clips, video.captions, video.duration
        if captions is None:
            return self._windows(rng, video)
        grown = partial(captions.clips, widest=config.span == "widest")
        if self.training:
            inside = np.flatnonzero(captions.start < duration)  # what starts later has neither picture nor sound
            if len(inside) == 0:
                raise InputError(f"{name}: expected captions within the features of {duration:.1f} s, found none")
            if len(inside) == len(captions):
                return sample_clips(rng, len(captions), lambda sampled: grown(sampled, config.min_time), config)
            # neighbours after the features still take part: only the sampled caption must start within them
            made = grown(inside.tolist(), config.min_time)
            return sample_clips(rng, len(inside), lambda sampled: {i: made[int(inside[i])] for i in sampled}, config)
        clips = list(grown(range(len(captions)), config.eval_min_time).values())
        if (queries := captions.queries) is None:
            return clips
        return [clip._replace(query=k) for clip in clips for k in range(len(queries[clip.number]))]

    def _windows(self, rng: np.random.Generator, video: StoredVideo) -> list[Clip]:
        """Sample windows of a video in training; return all of them in evaluation."""
        config, duration = self.clips, video.duration
        if self.may_lack:  # captions may be shorter than a window of whole seconds can be
            config = replace(config, min_time=max(config.min_time, 1.0))
        if not self.training:
            return all_windows(duration, config.min_time)
        # only the spectrogram has no option for its rate
        frames = next((length.count for length in video.lengths if not length.option), None)
        sound = None if frames is None else seconds_of_frames(frames)
        starts = count_starts(duration, config.min_time, sound, seconds_of_frames(self.audio.num_frames))
        return sample_windows(rng, duration, starts, config)

    def _audio(self, rng: np.random.Generator, video: StoredVideo, clips: list[Clip], new: NewTensor) -> dict[str, Any]:
        """Return the fields of the batch that hold the sound; none without it."""
        config = self.audio
        spans = [(clip.start, clip.end) for clip in clips]
        if self.training and config.time_shift > 0:
            shift = rng.uniform(-config.time_shift, config.time_shift, len(clips)).tolist()
            # only the sound moves; it is other sound of the same video, at most `time_shift` away
            spans = [(max(start + by, 0.0), max(end + by, 0.0)) for (start, end), by in zip(spans, shift, strict=True)]
        augments = self.training and config.augments
        # as many frames as a clip takes, whatever min_time is; so the released audio-only training reads them
        if self.clips.kind == "windows" or video.captions is None:
            spans = [window_span(start, config.num_frames) for start, _ in spans]
        if (sound := video.audio(spans, new_tensor if augments else new)) is None:
            return {}
        shape = {"num_frames": config.num_frames, "pad_value": config.pad_value}
        if not augments:
            return {"frames": sound.frames, "frame_start": sound.start, "audio_frames": sound.length, **shape}
        cut = cut_clips(sound.frames, sound.start, sound.length, config.num_frames, config.pad_value)
        audio, length = augment_audio(cut, sound.length, config, rng)
        return {"audio": audio, "audio_frames": length}

    def _words(self, captions: Captions | None, clips: list[Clip], rng: np.random.Generator) -> Tensor | None:
        if self.text is None or captions is None:
            return None
        text: Sequence[str] = captions.text
        if not self.training and captions.queries is not None:
            return torch.from_numpy(np.stack([self.text.indices(each) for each in captions.texts(clips)]))
        if not (self.training and captions.choices is not None):
            if (rows := captions.word_rows(clips, self.text.max_words)) is not None:
                return torch.from_numpy(rows)
        else:
            # one for every caption of the video, so the random numbers do not depend on the chosen clips
            text = [choices[int(rng.integers(len(choices)))] for choices in captions.choices]
        texts = [" ".join(text[number] for number in clip.order) for clip in clips]
        return torch.from_numpy(np.stack([self.text.indices(each) for each in texts]))


def _items(ids: Sequence[str], clips: Sequence[Clip]) -> tuple[str, ...]:
    """Return the gallery item of each clip: clips of the same seconds are one, named after the first of them."""
    first: dict[tuple[float, float], str] = {}
    return tuple(first.setdefault((clip.start, clip.end), name) for name, clip in zip(ids, clips, strict=True))


def _zeros(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64)


def _labels(topics: np.ndarray, clips: list[Clip]) -> Tensor:
    return torch.from_numpy(topics[[clip.number for clip in clips]])


PredictSplit = Literal["train", "val", "test", "all"]


def splits_of(split: str, lists: Mapping[str, str | None]) -> list[str]:
    """Return the splits to embed; of two with the same list the first stands for both where all are asked for.

    Raises:
        InputError: if there is no such split.
    """
    if split not in get_args(PredictSplit):
        raise InputError(f"--split: expected one of {', '.join(get_args(PredictSplit))}, found {split!r}")
    if split != "all":
        return [split]
    first = {name: each for each, name in reversed(list(lists.items())) if name is not None}
    return [each for each, name in lists.items() if name is not None and first[name] == each]


class DescribedVideos(NarratedVideoDataset):
    """The clips of a split as in evaluation: every caption once, nothing augmented; each with what it is.

    ``ClipBatch.metadata`` of a clip has the ``split``, the ``video``, its ``index`` in the list, ``start`` and ``end``
    in seconds (``None`` where the clip is a file of its own), the ``text`` (``None`` without), and with word vectors
    how many ``known_words`` of it there are.

    Args:
        videos: the split as it is trained or evaluated on.
        split: its name.
    """

    def __init__(self, videos: NarratedVideoDataset, split: str) -> None:
        # the same opened videos: reading lists and captions again would take minutes
        vars(self).update(vars(videos))
        self.training, self.split = False, split
        self._blocks = Blocks()
        self._chosen: tuple[list[Clip], StoredVideo] | None = None

    def _choose(self, rng: np.random.Generator, name: str, video: StoredVideo) -> list[Clip]:
        clips = super()._choose(rng, name, video)
        self._chosen = clips, video
        return clips

    def _clips_of(self, epoch: int, index: int, new: NewTensor) -> ClipBatch:
        # leaves the clips that it chose in self._chosen
        batch = super()._clips_of(epoch, index, new)
        assert self._chosen is not None  # set by _choose
        clips, video = self._chosen
        texts = [None] * len(clips) if video.captions is None or self.text is None else video.captions.texts(clips)
        counts = None if batch.words is None or self.text is None else self.text.count_known(batch.words)
        timed, about = getattr(video, "timed", True), list[dict[str, object]]()
        for number, (clip, text) in enumerate(zip(clips, texts, strict=True)):
            place = {"split": self.split, "video": self.source.id(index), "index": index}
            span = {"start": clip.start if timed else None, "end": clip.end if timed else None, "text": text}
            about.append(place | span | ({} if counts is None or text is None else {"known_words": counts[number]}))
        return replace(batch, metadata=tuple(about))
