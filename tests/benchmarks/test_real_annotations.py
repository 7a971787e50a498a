"""Alignment and step recall on all published annotations of MiningYouTube and CrossTask, with scores made from them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from references.localization import alignment_score, alignment_total

from mcn_lightning.benchmarks.localization.crosstask_files import read_crosstask
from mcn_lightning.benchmarks.localization.mining_youtube_files import read_mining_youtube
from mcn_lightning.benchmarks.localization.transcripts import BACKGROUND, second_labels, transcript
from mcn_lightning.metrics import (
    StepCounts,
    align,
    assign_steps,
    average_precision,
    frame_labels,
    recall_mean_over_videos,
    recall_pooled,
    segment_overlap,
    step_hits,
)

pytestmark = pytest.mark.shared


def log_probs_of(labels: np.ndarray, entries: list, right: float = 0.9) -> np.ndarray:
    """Log-probability ``right`` for the annotated step of each second, the rest shared by the others."""
    steps = np.array([entry.step for entry in entries])
    return np.where(labels[:, None] == steps[None], math.log(right), math.log((1 - right) / 512))


def test_every_video_of_mining_youtube_is_aligned_as_annotated(annotations):
    folder = annotations / "mining_youtube"
    found = read_mining_youtube(folder / "annotations", folder / "mapping_without_meta.txt")
    assert len(found.videos) == 250
    right = seconds = compared = 0
    overlaps = []
    for video in found.videos:
        length = math.ceil(video.segments[-1].end) + 5
        entries, labels = transcript(video.segments, length, background=True), second_labels(video.segments, length)
        scores = log_probs_of(labels, entries)
        boundaries = align(scores)
        assert boundaries[0] == 0 and boundaries[-1] == length and (np.diff(boundaries) >= 1).all()
        aligned = np.column_stack([boundaries[:-1], boundaries[1:]]).astype(float)
        iou, iod = segment_overlap(aligned, np.array([(entry.start, entry.end) for entry in entries]))
        assert ((0 <= iou) & (iou <= iod + 1e-9) & (iod <= 100)).all()
        action = np.array([entry.step != BACKGROUND for entry in entries])
        overlaps.append((iou[action].mean(), iod[action].mean()))
        steps = np.array([entry.step for entry in entries])[frame_labels(boundaries)]
        right, seconds = right + int((steps == labels).sum()), seconds + length
        rounded = [0, *(round(entry.start) for entry in entries[1:]), length]
        if (np.diff(rounded) >= 1).all():  # no alignment may be worse than the annotation itself
            compared += 1
            least = alignment_score(scores, rounded, None)
            assert alignment_score(scores, boundaries.tolist(), None) >= least - 1e-9
    assert right / seconds > 0.98  # what is lost are segments in which no second has its middle
    assert compared > 200
    assert np.mean(overlaps, axis=0) == pytest.approx([75, 85], abs=10)  # segments of a few seconds, cut at whole ones


def test_alignments_of_real_transcripts_are_the_best_there_are(annotations):
    folder = annotations / "mining_youtube"
    found = read_mining_youtube(folder / "annotations", folder / "mapping_without_meta.txt")
    rng = np.random.default_rng(0)
    short = sorted(found.videos, key=lambda video: video.segments[-1].end)[:8]
    for video in short:
        length = math.ceil(video.segments[-1].end)
        entries = transcript(video.segments, length, background=True)
        scores = rng.standard_normal((length, len(entries)))
        for means in (None, rng.uniform(2, 20, len(entries))):
            best = alignment_total(scores, means)
            assert alignment_score(scores, align(scores, means).tolist(), means) == pytest.approx(best, abs=1e-8)


def test_steps_of_every_video_of_crosstask_are_found_where_they_are_annotated(annotations, tmp_path):
    folder = annotations / "crosstask_release"
    primary = [block.split("\n")[0] for block in (folder / "tasks_primary.txt").read_text().strip().split("\n\n")]
    listed = folder / "videos.csv"
    kept = [line for line in listed.read_text().splitlines() if line.split(",")[0] in primary]
    (tmp_path / "primary.csv").write_text("\n".join(kept) + "\n")
    found = read_crosstask(tmp_path / "primary.csv", folder / "tasks_primary.txt", folder / "annotations")
    assert len(found.videos) == 2750 and len({video.task for video in found.videos}) == 18
    counts, precise = [], 0
    for number, video in enumerate(found.videos):
        seconds = math.ceil(max(segment.end for segment in video.segments))
        truth = found.truth_matrix(video, seconds)
        if seconds < truth.shape[1]:
            continue
        hits = step_hits(assign_steps(truth.astype(float)), truth)
        counts.append(StepCounts(video.task, int(hits.sum()), int(truth.any(axis=0).sum())))
        if number % 10 == 0:  # scikit-learn takes its time
            values = average_precision(truth.astype(float), truth)
            assert (values[truth.any(axis=0)] == 100).all()
            precise += 1
    assert len(counts) > 2700 and precise > 250
    # videos whose steps are annotated out of order cannot be hit everywhere
    assert 80 < recall_pooled(counts) < 100 and 80 < recall_mean_over_videos(counts) < 100
