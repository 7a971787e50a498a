"""The benchmark of zero-shot action recognition: by class names, by nearest neighbours, and by clusters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from mcn_lightning.benchmarks.base import Benchmark, Result, check_positive
from mcn_lightning.benchmarks.embedding import embed_clips, embed_texts
from mcn_lightning.benchmarks.files import EvaluationClips, EvaluationData, EvaluationText
from mcn_lightning.callbacks.protocols import EmbeddingModule
from mcn_lightning.clustering.topics import find_topics
from mcn_lightning.errors import InputError
from mcn_lightning.metrics import class_metrics, cluster_quality, neighbour_metrics
from mcn_lightning.metrics.directions import parse_direction
from mcn_lightning.metrics.scoring import Fusion, combine


class RecognitionBenchmark(Benchmark):
    """Zero-shot action recognition on a pickle of clips with classes, such as UCF101 and HMDB51.

    A clip is assigned to the class whose name has the highest dot product. A clip of the test split is also assigned to
    the class of the nearest clip of the training split. k-means clusters of the recognised clips are compared with the
    classes. The released evaluation recognises all clips of the file, and finds neighbours by dot product. The table
    shows which options differ from the defaults.

    Args:
        name: of the benchmark, in tables and logs.
        path: the pickle, relative to data.root.
        gallery: letters of the modalities of a clip: v, or va for video + audio.
        split: clips that are recognised by class names: test (training is 0), or all of the file (released). With all,
            the table shows "all clips".
        neighbours: also recognise the test clips by the nearest clip of the training split.
        neighbour_similarity: similarity to the training clips: cosine, or dot for the dot product (released). With dot,
            the table shows "by dot product".
        clusters: also compare clusters with the classes.
        combine: how video and audio are fused, as --retrieval.combine.
        audio_frames: frames of 10 ms that spectrograms are cut or padded to.
        batch_size: clips embedded at a time.
        **published: of ``Benchmark``: published metrics and their sources.
    """

    def __init__(
        self,
        name: str,
        path: str,
        gallery: str = "v",
        split: Literal["test", "all"] = "test",
        neighbours: bool = True,
        neighbour_similarity: Literal["cosine", "dot"] = "cosine",
        clusters: bool = True,
        combine: Fusion = "sum",
        audio_frames: int = 3072,
        batch_size: int = 64,
        **published: Any,
    ) -> None:
        super().__init__(name, **published)
        self._gallery = parse_direction(f"t->{gallery}", f"benchmark {name}: gallery")[1]
        check_positive(name, audio_frames=audio_frames, batch_size=batch_size)
        self.path, self.letters, self.split, self.combine = path, gallery, split, combine
        self.neighbours, self.neighbour_similarity, self.clusters = neighbours, neighbour_similarity, clusters
        self.audio_frames, self.batch_size = audio_frames, batch_size
        self._clips: EvaluationClips
        self._text: EvaluationText

    def open(self, data: EvaluationData, module: EmbeddingModule) -> None:
        """Read the pickle and check every clip.

        Raises:
            InputError: if a part of it cannot be used.
        """
        self.require_embeddings(module.network_config, ["text", *self._gallery])
        form = [*self._gallery, "text"], self.audio_frames, self.batch_size
        self._clips = data.clips(self.path, *form, with_classes=True, silent=True)  # clips without sound have zeros
        self._text = cast(EvaluationText, self._clips.text)  # text is among the modalities
        if self.split == "test" and not (self._clips.splits == 0).any():
            raise InputError(f"{self.path}: expected test clips (training 0), found none; set split to all")

    def evaluate(self, trainer: Trainer, module: EmbeddingModule) -> Iterator[Result]:
        """Recognise every clip of the split."""
        embeddings = embed_clips(module, self._clips, self.name)
        silent = torch.tensor(self._clips.silent, device=module.device)
        rows = combine(embeddings, self._gallery, self.combine)
        splits, labels = self._clips.splits.to(module.device), self._clips.labels.to(module.device)
        train, test = splits == 1, splits == 0
        shown, suffix = (torch.ones_like(test), " all clips") if self.split == "all" else (test, "")
        names = self._clips.classes
        classes = embed_texts(module, self._text, self._clips.class_texts())
        setting = f"t->{self.letters}{suffix}"
        # classes whose names embed alike are scored once, so that they tie to the last bit
        distinct, column = torch.unique(classes, dim=0, return_inverse=True)
        yield from self._results(setting, class_metrics((rows[shown] @ distinct.T)[:, column], labels[shown]), names)
        if self.neighbours and train.any() and test.any():
            how = self.neighbour_similarity
            found = neighbour_metrics(rows[test], labels[test], rows[train], labels[train], similarity=how)
            nearest = "nearest" if how == "cosine" else "nearest by dot product"
            yield from self._results(f"{self.letters}->{self.letters} {nearest}", found, names)
        if self.clusters:
            # as many as there are classes, as in the usual comparison of clusterings
            clusters = find_topics(rows[shown], len(labels[shown].unique()))
            for metric, value in cluster_quality(clusters, labels[shown]).items():
                yield self.result(f"{self.letters} clusters{suffix}", metric, value)
        what = "clips recognised, which are all" if self.split == "all" else "clips of the test split recognised"
        yield self.result("", what, int(shown.sum()), "count")
        yield from self.count_results(self._clips.changed)
        if self.split == "test" or self.neighbours:
            kinds = {"training clips": int(train.sum()), "clips of neither split": int((splits == 2).sum())}
            yield from self.count_results(kinds)
        if "audio" in embeddings and silent[shown].any():
            yield self.result("", "clips without audio (zeros for it)", int(silent[shown].sum()), "count")

    def _results(self, setting: str, found: Mapping[str, Tensor], names: Sequence[str]) -> Iterator[Result]:
        for metric, value in found.items():
            if metric != "per_class":
                yield self.result(setting, metric, value)
                continue
            # not strict: neighbours know the classes up to the highest label, and the last ones may have no clip
            for name, one in zip(names, value.tolist(), strict=False):
                if not math.isnan(one):
                    yield self.result(setting, f"top1 of {name}", one, "detail")
