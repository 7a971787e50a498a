"""The benchmarks' own files, read in the form that a run's data has: its streams, spectrograms and word vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mcn_lightning.batch import BadVideo, ClipBatch
from mcn_lightning.benchmarks.annotations import AnnotatedVideo, LocalizationSet, check_length
from mcn_lightning.benchmarks.crosstask import read_crosstask
from mcn_lightning.benchmarks.mining_youtube import BACKGROUND, read_classes, read_lengths, read_mining_youtube
from mcn_lightning.benchmarks.step_features import audio_windows, open_features, pool_seconds
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.spectrograms import FRAME_RATE
from mcn_lightning.data.sources.class_names import class_text
from mcn_lightning.data.sources.clip_pickles import PickledClips
from mcn_lightning.data.sources.howto100m import VideoLayout
from mcn_lightning.data.text import TextConfig, open_text
from mcn_lightning.data.videos import NarratedVideoDataset, collate
from mcn_lightning.errors import InputError


class EvaluationText:
    """The vectors of some texts, which need not be among those that the network was trained with.

    Args:
        config: how texts become vectors.
        path: the word-vector file.
        texts: all texts that vectors will be asked for.
    """

    def __init__(self, config: TextConfig, path: Path, texts: Sequence[str]) -> None:
        self.source = open_text(config, path, texts)
        self.embedder = self.source.embedder()

    def vectors(self, texts: Sequence[str], device: torch.device | str) -> Tensor:
        """Return word vectors ``(n, W, E)``, zero rows after the words of each text."""
        return self.of_indices(torch.from_numpy(np.stack([self.source.indices(text) for text in texts])), device)

    def of_indices(self, indices: Tensor, device: torch.device | str) -> Tensor:
        """Return the word vectors ``(n, W, E)`` of word indices ``(n, W)`` int32."""
        self.embedder.to(device)
        return self.embedder(indices.to(device))

    def unknown(self, texts: Sequence[str]) -> int:
        """Return how many of the texts have no word that is known."""
        return sum(not self.source.indices(text).any() for text in texts)


class EvaluationClips:
    """The clips of a benchmark pickle in batches that are the same whoever asks for them.

    Captions are numbered: first the first caption of each clip, in the order of the clips, then the further captions.

    Args:
        source: the pickle.
        dataset: its clips as they are evaluated, spectrograms at the benchmark's length.
        text: vectors of the captions; ``None`` where text is not read.
        batch_size: clips of a batch.

    Attributes:
        ids: name of each of N clips.
        caption_clips: number of the clip of each caption; N and more.
        caption_numbers: which caption of its clip each is, from 0.

    Raises:
        InputError: if a clip cannot be used; all of them are looked at.
    """

    def __init__(
        self, source: PickledClips, dataset: NarratedVideoDataset, text: EvaluationText | None, batch_size: int
    ) -> None:
        self.source, self.dataset, self.text, self.batch_size = source, dataset, text, batch_size
        self.ids = tuple(source.ids)
        records = [source.open(number).record for number in range(len(source))]  # refuses silence unless it is wanted
        heard = source.reader.audio is not None
        self.silent = tuple(heard and record.audio is None for record in records)
        more = [(row, k) for row, record in enumerate(records) for k in range(1, len(record.texts))]
        self._more = more if source.classes is None else []
        self.caption_clips = (*range(len(records)), *(row for row, _ in self._more))
        self.caption_numbers = (*(0 for _ in records), *(k for _, k in self._more))
        texts = [record.texts for record in records]
        pairs = zip(self.caption_clips, self.caption_numbers, strict=True)
        self.texts = tuple(texts[row][k] for row, k in pairs if texts[row])
        self.labels = None if source.classes is None else torch.tensor([record.label for record in records])
        self.splits = torch.tensor([record.split for record in records])
        self.changed = {"names that come more than once": source.repeated}
        self.changed |= {f"captions {reason}": count for reason, count in source.dropped().items()}
        if text is not None:
            what = "captions without a known word" if source.classes is None else "class names without a known word"
            self.changed[what] = text.unknown(self.texts if source.classes is None else self.class_texts())

    def class_texts(self) -> list[str]:
        """Return the name of each class as words, in the order of the labels."""
        return [class_text(name) for name in self.source.classes or ()]

    def batches(self) -> list[range]:
        """Return the clips of each batch, by their numbers."""
        return _parts(range(len(self.ids)), self.batch_size)

    def caption_batches(self) -> list[range]:
        """Return the further captions of each batch, by their numbers; none where clips have one caption each."""
        return _parts(range(len(self.ids), len(self.caption_clips)), self.batch_size)

    def batch(self, captions: Sequence[int], device: torch.device | str) -> ClipBatch:
        """Return clips as the network takes them, each with one caption, its words as vectors.

        Args:
            captions: numbers of the captions; those below N are those of the clips.
            device: where it goes.

        Raises:
            InputError: if a clip cannot be used.
        """
        clips = [self.caption_clips[number] for number in captions]
        once = list(dict.fromkeys(clips))
        found = self.dataset.__getitems__([(0, clip) for clip in once])
        for item in found:
            if isinstance(item, BadVideo):
                raise InputError(item.reason)
        batch = collate(found)
        first = {clip: batch.items.index(f"{self.ids[clip]}:0") for clip in once}
        rows = [first[clip] + self.caption_numbers[number] for clip, number in zip(clips, captions, strict=True)]
        if rows != list(range(len(batch))):
            batch = batch.take(rows)
        batch = batch.to(device).ready()
        if batch.words is not None and self.text is not None:
            batch = replace(batch, words=self.text.of_indices(batch.words, device))
        return batch


def _parts(numbers: range, size: int) -> list[range]:
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


class SecondsOfVideo:
    """One annotated video, second by second.

    Args:
        videos: the set that it belongs to.
        video: its annotation.
        finite: its features are read and checked; otherwise their files are only looked at.
    """

    def __init__(self, videos: EvaluationVideos, video: AnnotatedVideo, finite: bool = True) -> None:
        self.id, self.task, self._set = video.id, video.task, videos
        features = open_features(videos.layout, video.id, finite)
        video, changed = check_length(video, features.seconds)
        self.changed = changed
        self.segments = video.segments
        self.changed.update(_short_sound(features.frames, features.seconds))
        self.seconds = video.seconds or features.seconds
        self.truth = videos.annotated.truth_matrix(video, self.seconds)
        self._features = features

    @property
    def columns(self) -> slice:
        """Texts of the video's task among all."""
        first = self._set.first[self.task]
        return slice(first, first + len(self._set.annotated.tasks[self.task]))

    def column(self, step: int) -> int:
        """Return the text of a step of the video's task among all; -1 is the background."""
        return len(self._set.texts) - 1 if step < 0 else self._set.first[self.task] + step

    def entry_truth(self) -> np.ndarray:
        """Return in which seconds each segment happens, ``(T, segments)`` bool, by the rule of ``truth_matrix``."""
        truth = np.zeros((self.seconds, len(self.segments)), dtype=bool)
        for number, segment in enumerate(self.segments):
            truth[segment.seconds(), number] = True
        return truth

    def batches(self, device: torch.device | str) -> Iterator[ClipBatch]:
        """Give the seconds of the video as clips, in order."""
        videos, found = self._set, self._features
        rows = [pool_seconds(stream, self.seconds) for stream in found.rows]
        visual = torch.cat(rows, dim=1) if rows else None
        frames = starts = lengths = None
        if found.frames is not None:
            frames = found.frames.T.contiguous().to(device)
            starts, lengths = audio_windows(frames.shape[0], self.seconds, videos.window, videos.audio_frames)
        for first in range(0, self.seconds, videos.batch_size):
            some = slice(first, min(first + videos.batch_size, self.seconds))
            batch = ClipBatch(
                ids=tuple(f"{self.id}:{second}" for second in range(some.start, some.stop)),
                video=None if visual is None else visual[some],
                video_widths=tuple(stream.width for stream in videos.layout.streams) if rows else (),
                frames=frames,
                frame_start=None if starts is None else starts[some],
                audio_frames=None if lengths is None else lengths[some],
                num_frames=videos.audio_frames,
                pad_value=videos.layout.audio.pad_value,
            )
            yield batch.to(device).ready()


def _short_sound(frames: Tensor | None, seconds: float, tolerance: float = 5.0) -> dict[str, int]:
    """Count a video whose spectrogram ends long before its visual features: the rest is silence."""
    short = frames is not None and frames.shape[1] / FRAME_RATE < seconds - tolerance
    return {"videos whose sound ends more than 5 s before their features": 1} if short else {}


class EvaluationVideos:
    """Annotated videos of a benchmark with their features.

    Args:
        annotated: what is annotated.
        layout: folders, streams, and which modalities are read.
        text: vectors of the steps' texts.
        texts: texts of all steps of all tasks, and of the background after them where it takes part.
        lengths: mean length of each text in seconds, or none.
        window: seconds of sound around each second.
        audio_frames: frames that these are cut or padded to.
        batch_size: seconds of a batch.
    """

    def __init__(
        self,
        annotated: LocalizationSet,
        layout: VideoLayout,
        text: EvaluationText,
        texts: Sequence[str],
        lengths: np.ndarray | None,
        window: float,
        audio_frames: int,
        batch_size: int,
    ) -> None:
        self.annotated, self.layout, self.text, self.texts, self.lengths = annotated, layout, text, texts, lengths
        self.window, self.audio_frames, self.batch_size = window, audio_frames, batch_size
        self.first, size = {}, 0
        for task, steps in annotated.tasks.items():
            self.first[task], size = size, size + len(steps)
        self.changed = {**annotated.left_out, **annotated.adjusted}
        if unknown := text.unknown(texts):
            self.changed["texts of steps without a known word"] = unknown

    def __len__(self) -> int:
        return len(self.annotated.videos)

    def task(self, number: int) -> str:
        """Return the task of a video."""
        return self.annotated.videos[number].task

    def open(self, number: int, finite: bool = True) -> SecondsOfVideo:
        """Open a video; unless ``finite``, without reading its features.

        Raises:
            InputError: if its features cannot be used, or do not fit its annotation.
        """
        return SecondsOfVideo(self, self.annotated.videos[number], finite)


class EvaluationData:
    """Opens the files of benchmarks.

    Args:
        root: folder that their paths are relative to.
        layout: the streams and spectrograms that the network knows.
        text: how captions become vectors.
    """

    def __init__(self, root: Path, layout: VideoLayout, text: TextConfig) -> None:
        self.root, self.layout, self.text_config = root, layout, text

    def text(self, texts: Sequence[str]) -> EvaluationText:
        """Open the source of word vectors for some texts.

        Raises:
            InputError: if it cannot be read, or knows no word of them.
        """
        return EvaluationText(self.text_config, self.root / self.text_config.source, texts)

    def clips(
        self,
        path: str,
        modalities: Sequence[str],
        audio_frames: int,
        batch_size: int,
        with_classes: bool = False,
        silent: bool = False,
    ) -> EvaluationClips:
        """Open a benchmark pickle and look at all of its clips.

        Args:
            path: the pickle, relative to the root.
            modalities: those that are read, of video, audio and text.
            audio_frames: frames that spectrograms are cut or padded to.
            batch_size: clips of a batch.
            with_classes: the pickle has classes, whose names are the captions.
            silent: clips without sound are silence and not an error.

        Raises:
            InputError: if the file or one of its clips cannot be used.
        """
        audio = replace(self.layout.audio, num_frames=audio_frames)
        source = PickledClips(
            self.root / path,
            self.layout.streams if "video" in modalities else (),
            audio if "audio" in modalities else None,
            "text" in modalities,
            with_classes,
            silent,
            merge=not with_classes,
        )
        text = self.text(source.texts()) if "text" in modalities else None
        config = ClipConfig(n_pair=1, min_time=0.0)
        dataset = NarratedVideoDataset(source, config, audio, None if text is None else text.source, training=False)
        return EvaluationClips(source, dataset, text, batch_size)

    def annotated_videos(
        self,
        kind: Literal["crosstask", "mining_youtube"],
        videos: str | None,
        steps: str,
        annotations: str,
        features: str,
        audio: str | None,
        modalities: Sequence[str],
        window: float,
        audio_frames: int,
        background: bool,
        lengths: str | None,
        frame_rate: float,
        unknown: Literal["error", "leave_out"],
        batch_size: int,
    ) -> EvaluationVideos:
        """Open the annotated videos of a benchmark; see ``LocalizationBenchmark`` for the arguments.

        Raises:
            InputError: if annotations, steps, word vectors or the features of a video cannot be used.
        """
        if kind == "crosstask":
            found = read_crosstask(self.root / str(videos), self.root / steps, self.root / annotations)
            listed = {video.task for video in found.videos}
            found = replace(found, tasks={task: texts for task, texts in found.tasks.items() if task in listed})
        else:
            ids = None if videos is None else self.root / videos
            found = read_mining_youtube(self.root / annotations, self.root / steps, ids, frame_rate, unknown)
        if not found.videos:
            what = "; ".join(f"{count} {what}" for what, count in found.left_out.items()) or "none"
            raise InputError(f"{self.root / annotations}: expected annotated videos, found none that is left ({what})")
        texts = [text for own in found.tasks.values() for text in own] + ([BACKGROUND] if background else [])
        means = None
        if lengths is not None:
            means = read_lengths(self.root / lengths, read_classes(self.root / steps)) / frame_rate
            if len(means) < len(texts):
                raise InputError(
                    f"{self.root / steps}: expected the class {BACKGROUND}, found none; set background to false"
                )
        layout = replace(
            self.layout,
            features=self.root / features,
            audio_root=self.root / (audio or features),
            modalities=tuple(modalities),  # type: ignore[arg-type]
        )
        opened = EvaluationVideos(found, layout, self.text(texts), texts, means, window, audio_frames, batch_size)
        for number in range(len(opened)):
            opened.open(number, finite=False)  # a file that is missing or damaged is told now
        return opened
