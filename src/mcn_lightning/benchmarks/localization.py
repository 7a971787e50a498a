"""Temporal action localization: step recall, average precision, and the alignment of transcripts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from mcn_lightning.benchmarks.base import Benchmark, Figure, embed_texts, share_out
from mcn_lightning.callbacks.evaluation import Fusion, combine, parse_direction
from mcn_lightning.errors import InputError
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

BACKGROUND = -1
"""Step of the seconds in which nothing of the transcript happens."""


@dataclass(frozen=True)
class VideoResult:
    """What one video adds to the figures.

    Args:
        counts: steps hit and annotated; ``None`` where the video is too short for its steps.
        scores: of each second for each step of the task, ``(T, S)``, and what is annotated, ``(T, S)``; ``None`` where
            no precision is asked for.
        overlap: mean IoU and IoD of its actions in per cent; ``None`` where it has none or is too short.
        labels: step of each second as it was found, and as it is annotated, ``(T,)``; empty without an alignment.
        changed: what was left out of its annotation or adjusted, and how often.
    """

    counts: StepCounts | None
    scores: tuple[np.ndarray, np.ndarray] | None
    overlap: tuple[float, float] | None
    labels: tuple[np.ndarray, np.ndarray]
    changed: dict[str, int]


@dataclass(frozen=True)
class Entry:
    """One entry of a transcript: a step, or background, with its annotated seconds."""

    step: int
    start: float
    end: float


def transcript(segments: Sequence[Any], seconds: int, background: bool) -> list[Entry]:
    """Return the annotated segments in order, with background between them where at least a second is free.

    Args:
        segments: with step, start and end in seconds, in order of their start.
        seconds: length of the video.
        background: put entries for the time between.
    """
    entries, last = [], 0.0
    for segment in segments:
        if background and segment.start - last >= 1.0:
            entries.append(Entry(BACKGROUND, last, segment.start))
        entries.append(Entry(segment.step, segment.start, segment.end))
        last = max(last, segment.end)
    if background and seconds - last >= 1.0:
        entries.append(Entry(BACKGROUND, last, float(seconds)))
    return entries


def second_labels(segments: Sequence[Any], seconds: int) -> np.ndarray:
    """Return the step annotated at the middle of each second ``(T,)``, of several the one that began last."""
    labels = np.full(seconds, BACKGROUND)
    middle = np.arange(seconds) + 0.5
    for segment in segments:
        labels[(segment.start <= middle) & (middle < segment.end)] = segment.step
    return labels


class LocalizationBenchmark(Benchmark):
    """CrossTask and MiningYouTube: which second of a video shows a step, told by the step's text.

    Step recall puts every step at exactly one second, in order (Zhukov et al., CVPR 2019). On CrossTask the steps are
    those of the video's task and the scores are similarities. On MiningYouTube the steps are the entries of the video's
    transcript and the scores are their log-softmax, as in the released evaluation. Average precision takes
    similarities. Alignment gives every second of a video to an entry of its transcript, by log-probabilities over the
    texts of all steps (Kuehne et al., WACV 2019).

    Args:
        name: of the benchmark, in tables and logs.
        kind: form of the files, crosstask or mining_youtube.
        steps: CrossTask: JSON {task: [step, ...]} or tasks_primary.txt; MiningYouTube: the list of classes.
        annotations: folder of the annotations: <task>_<id>.csv or .npy; <id>.srt or .gt.
        features: folder of <id>_2d.npy, <id>_3d.npy (or .npz).
        audio: folder of the spectrograms, <id>.npz or <id>_spec.npz; that of the features when not given.
        videos: CrossTask: the list of videos, cvpr19_test.csv or videos_val.csv; MiningYouTube: a list of ids, or all
            videos of the folder when not given.
        gallery: letters of what is seen and heard of a second: v, or va for video + audio.
        combine: how video and audio are fused, as --retrieval.combine.
        window: seconds of sound around each second.
        audio_frames: frames of 10 ms that these are cut or padded to.
        recall_softmax: what the log-softmax of a second runs over before step recall: none (similarities), steps (those
            of the video itself) or all (the texts of all steps). By default none on CrossTask and steps on
            MiningYouTube, as released.
        background: a class "background" takes part, between the entries of a transcript. Without it every second of a
            video goes to an action, and IoD and frame accuracy are low where little of a video is annotated.
        length_model: poisson takes the lengths of segments into account, none does not.
        lengths: file with one mean length a class, in frames; when not given, every entry is as long.
        frame_rate: frames a second of that file, and of .gt files.
        unknown: what is done with annotations whose class the list lacks: error or leave_out.
        batch_size: seconds embedded at a time.
        published: published figures by <setting>/<metric>, for instance t->va/IoU, shown beside ours.
        source: where they were published.
        sources: where single ones were published, by the same keys, and how sure they are.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["crosstask", "mining_youtube"],
        steps: str,
        annotations: str,
        features: str,
        audio: str | None = None,
        videos: str | None = None,
        gallery: str = "va",
        combine: Fusion = "sum",
        window: float = 8.0,
        audio_frames: int = 1024,
        recall_softmax: RecallSoftmax | None = None,
        background: bool = False,
        length_model: Literal["poisson", "none"] = "poisson",
        lengths: str | None = None,
        frame_rate: float = 30000 / 1001,
        unknown: Literal["error", "leave_out"] = "error",
        batch_size: int = 64,
        published: dict[str, float] | None = None,
        source: str = "",
        sources: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, published, source, sources)
        self._gallery = parse_direction(f"t->{gallery}", f"benchmark {name}: gallery")[1]
        positive = {"window": window, "audio_frames": audio_frames, "batch_size": batch_size, "frame_rate": frame_rate}
        for option, value in positive.items():
            if not 0 < value < math.inf:
                raise InputError(f"benchmark {name}: {option}: expected more than 0, found {value}")
        if kind == "crosstask" and videos is None:
            raise InputError(f"benchmark {name}: videos: expected the list of CrossTask's videos, found none")
        if kind == "crosstask" and lengths:
            raise InputError(
                f"benchmark {name}: lengths: expected none with kind crosstask, which has no list of classes"
            )
        self.kind, self.steps, self.annotations, self.videos = kind, steps, annotations, videos
        self.features, self.audio, self.letters, self.combine = features, audio, gallery, combine
        self.window, self.audio_frames, self.background = window, audio_frames, background
        self.recall_softmax: RecallSoftmax = recall_softmax or ("none" if kind == "crosstask" else "steps")
        self.length_model, self.lengths, self.frame_rate = length_model, lengths, frame_rate
        self.unknown, self.batch_size = unknown, batch_size
        self._videos: Any = None

    def open(self, data: Any, module: LightningModule) -> None:
        """Read the annotations and look for the features of every video.

        Raises:
            InputError: if something of it cannot be used.
        """
        config: Any = module.network_config
        self.need(config, ["text", *self._gallery])
        self._videos = data.annotated_videos(
            self.kind,
            videos=self.videos,
            steps=self.steps,
            annotations=self.annotations,
            features=self.features,
            audio=self.audio,
            modalities=self._gallery,
            window=self.window,
            audio_frames=self.audio_frames,
            background=self.background,
            lengths=self.lengths,
            frame_rate=self.frame_rate,
            unknown=self.unknown,
            batch_size=self.batch_size,
        )

    def evaluate(self, trainer: Trainer, module: LightningModule) -> Iterator[Figure]:
        """Localize the steps of every video."""
        texts = embed_texts(module, self._videos.text, self._videos.texts)
        results = share_out(len(self._videos), lambda number: self._video(module, texts, number), self.name, "videos")
        setting = f"t->{self.letters}"
        counts = [result.counts for result in results if result.counts is not None]
        if any(count.annotated for count in counts):
            yield self.figure(setting, "recall pooled", recall_pooled(counts))
            yield self.figure(setting, "recall per video", recall_mean_over_videos(counts))
        if self.kind == "crosstask":
            yield from self._precision(setting, results)
            for task in sorted({count.task for count in counts if count.annotated}):
                own = recall_pooled([count for count in counts if count.task == task])
                yield self.figure(setting, f"recall pooled of {task}", own, "detail")
        overlaps = [result.overlap for result in results if result.overlap is not None]
        if overlaps:
            iou, iod = np.mean(overlaps, axis=0)
            yield self.figure(setting, "IoU", iou)
            yield self.figure(setting, "IoD", iod)
        found, truth = (np.concatenate(labels) for labels in zip(*(result.labels for result in results), strict=True))
        if len(truth):
            yield self.figure(setting, "frame accuracy", frame_accuracy(found, truth))
        if (truth != BACKGROUND).any():
            yield self.figure(setting, "frame accuracy of actions", frame_accuracy(found, truth, ignore=BACKGROUND))
        yield from self._counted(results)

    def _precision(self, setting: str, results: Sequence[VideoResult]) -> Iterator[Figure]:
        """Give the average precision of each task, over the seconds of all of its videos, and the mean over tasks."""
        by_task: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        for number, result in enumerate(results):
            if result.scores is not None:
                by_task[self._videos.task(number)].append(result.scores)
        found = {}
        for task, parts in by_task.items():
            scores, truth = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
            if truth.any():
                found[task] = mean_average_precision(average_precision(scores, truth))
        if found:
            yield self.figure(setting, "AP", float(np.mean(list(found.values()))))
            for task, value in sorted(found.items()):
                yield self.figure(setting, f"AP of {task}", value, "detail")

    def _counted(self, results: Sequence[VideoResult]) -> Iterator[Figure]:
        yield self.figure("", "videos", len(results), "count")
        changed: dict[str, int] = dict(self._videos.changed)
        for result in results:
            for what, count in result.changed.items():
                changed[what] = changed.get(what, 0) + count
        unannotated = sum(result.counts is not None and result.counts.annotated == 0 for result in results)
        changed["videos without an annotated step (no recall)"] = unannotated
        yield from self.left_out(changed)

    def _video(self, module: LightningModule, texts: Tensor, number: int) -> VideoResult:
        """Score the seconds of a video against all texts, and measure it."""
        video = self._videos.open(number)
        parts = []
        for batch in video.batches(module.device):
            rows = combine(module(batch).embeddings(), self._gallery, self.combine)
            parts.append(rows @ texts.T)
        scores = torch.cat(parts).double()
        if not scores.isfinite().all():
            raise InputError(f"video {video.id}: expected finite scores, found NaN or infinity among them")
        log_probs = torch.log_softmax(scores, dim=1).cpu().numpy()
        changed = dict(video.changed)
        counts, precision = self._recall(video, scores.cpu().numpy(), changed)
        overlap, labels = self._alignment(video, log_probs, changed)
        return VideoResult(counts, precision, overlap, labels, changed)

    def _recall(
        self, video: Any, scores: np.ndarray, changed: dict[str, int]
    ) -> tuple[StepCounts | None, tuple[np.ndarray, np.ndarray] | None]:
        if self.kind == "crosstask":
            columns, truth = video.columns, video.truth
            precision = scores[:, columns].astype(np.float32), truth
        else:
            columns, truth = [segment.step for segment in video.segments], video.entry_truth()
            precision = None
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
        self, video: Any, log_probs: np.ndarray, changed: dict[str, int]
    ) -> tuple[tuple[float, float] | None, tuple[np.ndarray, np.ndarray]]:
        seconds, nothing = len(log_probs), np.zeros(0, dtype=np.int64)
        entries = transcript(video.segments, seconds, self.background)
        if not video.segments:
            return None, (nothing, nothing)
        if seconds < len(entries):
            what = "videos with fewer seconds than entries of their transcript (no alignment)"
            changed[what] = changed.get(what, 0) + 1
            return None, (nothing, nothing)
        columns = [video.column(entry.step) for entry in entries]
        boundaries = align(log_probs[:, columns], self._mean_lengths(video, entries, seconds))
        aligned = np.column_stack([boundaries[:-1], boundaries[1:]]).astype(np.float64)
        iou, iod = segment_overlap(aligned, np.array([(entry.start, entry.end) for entry in entries]))
        background = np.array([entry.step == BACKGROUND for entry in entries])
        found = np.array([entry.step for entry in entries])[frame_labels(boundaries)]
        labels = found, second_labels(video.segments, seconds)
        return (foreground_mean(iou, background), foreground_mean(iod, background)), labels

    def _mean_lengths(self, video: Any, entries: Sequence[Entry], seconds: int) -> np.ndarray | None:
        """Return the mean length of each entry in seconds; ``None`` without a length model."""
        if self.length_model == "none":
            return None
        lengths = self._videos.lengths
        if lengths is None:
            return np.full(len(entries), seconds / len(entries))
        return np.array([lengths[video.column(entry.step)] for entry in entries])
