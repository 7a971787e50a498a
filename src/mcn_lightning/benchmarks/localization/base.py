"""The base class of temporal action localization: step recall, average precision, and alignment of transcripts."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from mcn_lightning.batch import MODALITIES
from mcn_lightning.benchmarks.base import Benchmark, Result, check_positive
from mcn_lightning.benchmarks.embedding import embed_texts, map_over_processes
from mcn_lightning.benchmarks.files import EvaluationData
from mcn_lightning.benchmarks.localization.annotations import LocalizationSet
from mcn_lightning.benchmarks.localization.class_list import BACKGROUND_CLASS
from mcn_lightning.benchmarks.localization.lines import require
from mcn_lightning.benchmarks.localization.transcripts import BACKGROUND, Entry, second_labels, transcript
from mcn_lightning.benchmarks.localization.videos import EvaluationVideos, SecondsOfVideo
from mcn_lightning.callbacks.protocols import EmbeddingModule
from mcn_lightning.metrics import (
    RecallSoftmax,
    StepCounts,
    align,
    assign_steps,
    average_precision,
    foreground_mean,
    frame_accuracy,
    frame_labels,
    mean_average_precision,
    recall_mean_over_videos,
    recall_pooled,
    segment_overlap,
    step_hits,
    step_scores,
)
from mcn_lightning.metrics.directions import parse_direction
from mcn_lightning.metrics.scoring import Fusion, combine

Precision = tuple[np.ndarray, np.ndarray]
"""Scores of the seconds of a video for each step of its task, and the annotated steps, both ``(T, S)``."""


@dataclass(frozen=True)
class VideoResult:
    """The contribution of one video to the metrics.

    Args:
        counts: steps hit and annotated; ``None`` if the video is too short for its steps.
        scores: of each second for each step of the task, ``(T, S)``, and the annotated steps, ``(T, S)``; ``None`` if
            average precision is not computed.
        overlap: mean IoU and IoD of its actions in per cent; ``None`` without actions or if it is too short.
        labels: predicted and annotated step of each second, ``(T,)`` each; empty without an alignment.
        changed: counts of annotations that were left out or adjusted.
    """

    counts: StepCounts | None
    scores: Precision | None
    overlap: tuple[float, float] | None
    labels: tuple[np.ndarray, np.ndarray]
    changed: dict[str, int]


class LocalizationBenchmark(Benchmark):
    """Localization of steps in videos by the texts of the steps: base of ``CrossTask`` and ``MiningYouTube``.

    Step recall assigns every step to exactly one second, in order (Zhukov et al., CVPR 2019). Alignment assigns every
    second of a video to an entry of its transcript, by log-probabilities over the texts of all steps (Kuehne et al.,
    WACV 2019). A subclass reads the annotations, and chooses the steps for step recall.

    Args:
        name: of the benchmark, in tables and logs.
        steps: file with the texts of the steps.
        annotations: folder of the annotations.
        features: folder of <id>_2d.npy, <id>_3d.npy (or .npz).
        audio: folder of the spectrograms, <id>.npz or <id>_spec.npz; by default the folder of the features.
        gallery: letters of the modalities of a second: v, or va for video + audio.
        combine: how video and audio are fused, as --retrieval.combine.
        window: seconds of sound around each second.
        audio_frames: frames of 10 ms that these are cut or padded to.
        recall_softmax: texts in the log-softmax of a second before step recall: none (similarities), steps (those of
            the video itself) or all (the texts of all steps).
        background: whether a class "background" fills the time between entries of a transcript. Without it every
            second belongs to an action. IoD and frame accuracy are then low if little of a video is annotated.
        length_model: poisson models the lengths of segments, none does not.
        batch_size: seconds embedded at a time.
        **published: of ``Benchmark``: published metrics and their sources.
    """

    per_task = False
    """Whether recall and average precision are also reported for each task."""

    def __init__(
        self,
        name: str,
        steps: str,
        annotations: str,
        features: str,
        audio: str | None = None,
        gallery: str = "va",
        combine: Fusion = "sum",
        window: float = 8.0,
        audio_frames: int = 1024,
        recall_softmax: RecallSoftmax = "none",
        background: bool = False,
        length_model: Literal["poisson", "none"] = "poisson",
        batch_size: int = 64,
        **published: Any,
    ) -> None:
        super().__init__(name, **published)
        self._gallery = parse_direction(f"t->{gallery}", f"benchmark {name}: gallery")[1]
        check_positive(name, window=window, audio_frames=audio_frames, batch_size=batch_size)
        self.steps, self.annotations = steps, annotations
        self.features, self.audio, self.letters, self.combine = features, audio, gallery, combine
        self.window, self.audio_frames, self.background = window, audio_frames, background
        self.recall_softmax, self.length_model, self.batch_size = recall_softmax, length_model, batch_size
        self._videos: EvaluationVideos

    @abstractmethod
    def read(self, root: Path) -> LocalizationSet:
        """Read the annotations.

        Args:
            root: folder that the options' paths are relative to.
        """

    def read_lengths(self, root: Path) -> np.ndarray | None:
        """Read the mean length of each step in seconds, ``(S,)``; ``None`` if all entries have the same length."""
        return None

    @abstractmethod
    def recall_targets(self, video: SecondsOfVideo) -> tuple[slice | Sequence[int], np.ndarray]:
        """Return the columns of the S steps for step recall, and in which seconds each happens, ``(T, S)`` bool."""

    def open(self, data: EvaluationData, module: EmbeddingModule) -> None:
        """Read the annotations and find the features of every video.

        Raises:
            InputError: if a file cannot be used.
        """
        self.require_embeddings(module.network_config, ["text", *self._gallery])
        found = self.read(data.root)
        left_out = "; ".join(f"{count} {what}" for what, count in found.left_out.items()) or "none"
        what = f"none that is left ({left_out})"
        require(bool(found.videos), data.root / self.annotations, "annotated videos", what)
        texts = [text for own in found.tasks.values() for text in own]
        # last, where `column` looks for the step -1
        texts += [BACKGROUND_CLASS] if self.background else []
        lengths = self.read_lengths(data.root)
        listed = lengths is None or len(lengths) >= len(texts)
        require(listed, data.root / self.steps, f"the class {BACKGROUND_CLASS}", "none", "set background to false")
        layout = replace(
            data.layout,
            features=data.root / self.features,
            audio_root=data.root / (self.audio or self.features),
            modalities=tuple(name for name in MODALITIES if name in self._gallery),
        )
        form = self.window, self.audio_frames, self.batch_size
        self._videos = EvaluationVideos(found, layout, data.text(texts), texts, lengths, *form)
        for number in range(len(self._videos)):
            self._videos.open(number, finite=False)  # a missing or damaged file is an error before training

    def evaluate(self, trainer: Trainer, module: EmbeddingModule) -> Iterator[Result]:
        """Localize the steps of every video."""
        texts = embed_texts(module, self._videos.text, self._videos.texts)
        results = map_over_processes(
            len(self._videos), lambda number: self._video(module, texts, number), self.name, "videos"
        )
        setting = f"t->{self.letters}"
        counts = [result.counts for result in results if result.counts is not None]
        if any(count.annotated for count in counts):
            yield self.result(setting, "recall pooled", recall_pooled(counts))
            yield self.result(setting, "recall per video", recall_mean_over_videos(counts))
        if self.per_task:
            yield from self._precision(setting, results)
            for task in sorted({count.task for count in counts if count.annotated}):
                own = recall_pooled([count for count in counts if count.task == task])
                yield self.result(setting, f"recall pooled of {task}", own, "detail")
        overlaps = [result.overlap for result in results if result.overlap is not None]
        if overlaps:
            # the mean of the means of videos, as published: a long video counts as much as a short one
            iou, iod = np.mean(overlaps, axis=0)
            yield self.result(setting, "IoU", iou)
            yield self.result(setting, "IoD", iod)
        found, truth = (np.concatenate(labels) for labels in zip(*(result.labels for result in results), strict=True))
        if len(truth):
            yield self.result(setting, "frame accuracy", frame_accuracy(found, truth))
        if (truth != BACKGROUND).any():
            yield self.result(setting, "frame accuracy of actions", frame_accuracy(found, truth, ignore=BACKGROUND))
        yield from self._counted(results)

    def _precision(self, setting: str, results: Sequence[VideoResult]) -> Iterator[Result]:
        """Yield the average precision of each task over the seconds of all its videos, and the mean over tasks."""
        by_task: dict[str, list[Precision]] = defaultdict(list)
        for number, result in enumerate(results):
            if result.scores is not None:
                by_task[self._videos.task(number)].append(result.scores)
        found = {}
        for task, parts in by_task.items():
            scores, truth = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            if truth.any():
                found[task] = mean_average_precision(average_precision(scores, truth))
        if found:
            yield self.result(setting, "AP", float(np.mean(list(found.values()))))
            for task, value in sorted(found.items()):
                yield self.result(setting, f"AP of {task}", value, "detail")

    def _counted(self, results: Sequence[VideoResult]) -> Iterator[Result]:
        yield self.result("", "videos", len(results), "count")
        changed: dict[str, int] = dict(self._videos.changed)
        for result in results:
            for what, count in result.changed.items():
                changed[what] = changed.get(what, 0) + count
        unannotated = sum(result.counts is not None and result.counts.annotated == 0 for result in results)
        changed["videos without an annotated step (no recall)"] = unannotated
        yield from self.count_results(changed)

    def _video(self, module: EmbeddingModule, texts: Tensor, number: int) -> VideoResult:
        """Score the seconds of a video against all texts, and compute its metrics."""
        video = self._videos.open(number)
        parts = []
        for batch in video.batches(module.device):
            rows = combine(module(batch).embeddings(), self._gallery, self.combine)
            parts.append(rows @ texts.T)
        scores = torch.cat(parts).double()  # alignment sums thousands of log-probabilities
        require(bool(scores.isfinite().all()), f"video {video.id}", "finite scores", "NaN or infinity among them")
        log_probs = torch.log_softmax(scores, dim=1).cpu().numpy()
        changed = dict(video.changed)
        counts, precision = self._recall(video, scores.cpu().numpy(), changed)
        overlap, labels = self._alignment(video, log_probs, changed)
        return VideoResult(counts, precision, overlap, labels, changed)

    def _recall(
        self, video: SecondsOfVideo, scores: np.ndarray, changed: dict[str, int]
    ) -> tuple[StepCounts | None, Precision | None]:
        columns, truth = self.recall_targets(video)
        # float32 halves what processes exchange, and the model's scores are no more precise
        precision = (scores[:, columns].astype(np.float32), truth) if self.per_task else None
        own = step_scores(scores, columns, self.recall_softmax)
        if own.shape[1] == 0:
            return StepCounts(video.task, 0, 0), precision
        if len(own) < own.shape[1]:
            what = "videos with fewer seconds than steps (no recall)"
            changed[what] = changed.get(what, 0) + 1
            return None, precision
        hits = step_hits(assign_steps(own), truth)
        return StepCounts(video.task, int(hits.sum()), int(truth.any(axis=0).sum())), precision

    def _alignment(
        self, video: SecondsOfVideo, log_probs: np.ndarray, changed: dict[str, int]
    ) -> tuple[tuple[float, float] | None, tuple[np.ndarray, np.ndarray]]:
        seconds, empty = len(log_probs), np.zeros(0, dtype=np.int64)
        entries = transcript(video.segments, seconds, self.background)
        if not video.segments:
            return None, (empty, empty)
        if seconds < len(entries):
            what = "videos with fewer seconds than entries of their transcript (no alignment)"
            changed[what] = changed.get(what, 0) + 1
            return None, (empty, empty)
        columns = [video.column(entry.step) for entry in entries]
        boundaries = align(log_probs[:, columns], self._mean_lengths(video, entries, seconds))
        aligned = np.column_stack([boundaries[:-1], boundaries[1:]]).astype(np.float64)
        iou, iod = segment_overlap(aligned, np.array([(entry.start, entry.end) for entry in entries]))
        background = np.array([entry.step == BACKGROUND for entry in entries])
        found = np.array([entry.step for entry in entries])[frame_labels(boundaries)]
        labels = found, second_labels(video.segments, seconds)
        return (foreground_mean(iou, background), foreground_mean(iod, background)), labels

    def _mean_lengths(self, video: SecondsOfVideo, entries: Sequence[Entry], seconds: int) -> np.ndarray | None:
        """Return the mean length of each entry in seconds; ``None`` without a length model."""
        if self.length_model == "none":
            return None
        lengths = self._videos.lengths
        if lengths is None:
            # equal means: the Poisson model then only keeps segments from being very short or long
            return np.full(len(entries), seconds / len(entries))
        return np.array([lengths[video.column(entry.step)] for entry in entries])
