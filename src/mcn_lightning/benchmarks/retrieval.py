"""The benchmark of retrieval between any modalities, and of whole videos by their captions."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from mcn_lightning.batch import MODALITIES
from mcn_lightning.benchmarks.base import Benchmark, Result, UnsupportedNetworkError, check_positive
from mcn_lightning.benchmarks.embedding import embed_clips, run_on_first_process
from mcn_lightning.benchmarks.files import EvaluationClips, EvaluationData
from mcn_lightning.callbacks.protocols import EmbeddingModule
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.files import replacing, writing
from mcn_lightning.metrics import full_video_metrics, item_ranks, retrieval_metrics
from mcn_lightning.metrics.directions import (
    AUDIO_TEXT,
    DEFAULT_DIRECTIONS,
    divide_directions,
    parse_direction,
    possible_directions,
)
from mcn_lightning.metrics.scoring import Fusion, Scoring
from mcn_lightning.runs.folder import run_folder

VIDEO_ID = 11
"""Length of a YouTube id, with which the clip ids of YouCook2 begin."""


CAPTIONED = ("text", AUDIO_TEXT)
"""Embeddings that exist for each caption; the others exist once for each clip."""


@dataclass(frozen=True)
class _Side:
    """The queries, or the gallery, of one direction.

    Args:
        embeddings: by modality ``(n, D)``.
        clips: clip of each row, ``(n,)`` int64.
        rows: index of each row among all captions or clips of the file, ``(n,)`` int64.
        total: number of captions or clips of the file.
    """

    embeddings: dict[str, Tensor]
    clips: Tensor
    rows: Tensor
    total: int


class RetrievalBenchmark(Benchmark):
    """Retrieval on a pickle of clips: YouCook2, MSR-VTT, LSMDC, YouCook-Japanese and any dataset of the same format.

    A clip may have several captions: a list under ``caption`` or ``eval_caption``, or several rows of one id with the
    same features. It is one gallery item, and each of its captions is a query. If the clip is the query, its best
    caption counts.

    Args:
        name: of the benchmark, in tables and logs.
        path: the pickle, relative to data.root.
        directions: queries and galleries in letters, for instance t->va for text against video + audio. The default is
            t->va and all pairs that the network has.
        combine: how the modalities of one side are fused, as --retrieval.combine.
        audio_weight: factor of the audio embedding where it is summed with others.
        audio_frames: frames of 10 ms that spectrograms are cut or padded to (released: 5120 for YouCook2, 3072 for
            MSR-VTT and LSMDC).
        without_audio: treatment of clips without sound in a direction that needs audio. error refuses the first one.
            miss leaves them out of the gallery and counts their queries as misses (MSR-VTT in the authors' protocol).
            zero uses zeros as their audio embedding, or silence for a joint embedding of audio and text.
        benchmark_size: number of clips of the benchmark. Clips that the file lacks count as misses. (1000 for MSR-VTT,
            where the authors' file holds the 968 clips with audio.)
        full_video: for text queries, also retrieve whole videos by captions, see ``metrics.full_video_metrics``. Clip
            ids must begin with the 11 characters of the video id, as on YouCook2.
        calibrate: as --retrieval.calibrate.
        calibrate_temperature: as --retrieval.calibrate_temperature.
        ranks_file: CSV file for the rank of every query in every direction. A relative path starts at the run's folder.
            By default none is written.
        batch_size: clips embedded at a time.
        **published: of ``Benchmark``: published metrics and their sources.
    """

    def __init__(
        self,
        name: str,
        path: str,
        directions: list[str] | None = None,
        combine: Fusion = "sum",
        audio_weight: float = 1.0,
        audio_frames: int = 5120,
        without_audio: Literal["error", "miss", "zero"] = "error",
        benchmark_size: int | None = None,
        full_video: bool = False,
        calibrate: float = 0.0,
        calibrate_temperature: float = 0.05,
        ranks_file: str | None = None,
        batch_size: int = 64,
        **published: Any,
    ) -> None:
        super().__init__(name, **published)
        for direction in directions or ():
            parse_direction(direction, f"benchmark {name}: directions")
        check_positive(name, audio_frames=audio_frames, batch_size=batch_size)
        self.scoring = Scoring(combine, audio_weight, calibrate, calibrate_temperature, f"benchmark {name}: ")
        self.path, self.directions = path, directions
        self.audio_frames, self.without_audio, self.benchmark_size = audio_frames, without_audio, benchmark_size
        self.full_video, self.ranks_file, self.batch_size = full_video, ranks_file, batch_size
        self._chosen: list[str] = []
        self._left_out: dict[str, list[str]] = {}
        self._clips: EvaluationClips

    def open(self, data: EvaluationData, module: EmbeddingModule) -> None:
        """Read the pickle and check every clip.

        Raises:
            InputError: if a part of it cannot be used.
        """
        config = module.network_config
        asked = self.directions, DEFAULT_DIRECTIONS, config.modalities, config.fuse_audio_text, "directions"
        self._chosen, self._left_out = divide_directions(*asked)
        if not self._chosen:
            try:
                possible_directions(*asked)  # only for its message: it finds none either
            except InputError as error:
                raise UnsupportedNetworkError(str(error)) from None
        # a modality that no direction asks for need not be in the file
        used = {name for direction in self._chosen for side in parse_direction(direction) for name in side}
        modalities = [name for name in MODALITIES if name in used]
        silent = self.without_audio != "error"
        self._clips = data.clips(self.path, modalities, self.audio_frames, self.batch_size, silent=silent)
        size, clips, captions = self.benchmark_size, len(self._clips.ids), len(self._clips.caption_clips)
        short = next((name for name in self._clips.ids if self.full_video and len(name) <= VIDEO_ID), None)
        check_rules(
            (
                size is not None and size < clips,
                f"benchmark_size: expected at least the {clips} clips of {self.path}, found {size}",
            ),
            (
                size is not None and captions > clips,
                f"benchmark_size: expected clips with one caption each, found {captions} captions of {clips} clips in "
                f"{self.path}; set it to null: the file cannot tell how many queries its missing clips have",
            ),
            (
                short is not None,
                f"full_video: expected clip ids that begin with the {VIDEO_ID} characters of the video id, found "
                f"{short!r} in {self.path}",
            ),
        )

    def metric_names(self) -> list[str] | None:
        """Return the keys of the metrics; ``None`` with retrieval of whole videos, which has many more."""
        metrics = retrieval_metrics(torch.ones(1, dtype=torch.float64))
        return None if self.full_video else [f"{direction}/{name}" for direction in self._chosen for name in metrics]

    def evaluate(self, trainer: Trainer, module: EmbeddingModule) -> Iterator[Result]:
        """Rank every query's clip in the gallery, in every direction."""
        embeddings = embed_clips(module, self._clips, self.name)
        silent = torch.tensor(self._clips.silent, device=module.device)
        joint = module.network_config.fuse_audio_text
        if warning := self.scoring.calibration_warning(module.clusters_of, self._chosen, joint):
            rank_zero_warn(warning)
        ranks_of: dict[str, Tensor] = {}
        counted: dict[tuple[int, str], list[str]] = {}
        for direction in self._chosen:
            kept = ~silent if self.without_audio == "miss" and "a" in direction else torch.ones_like(silent)
            if not kept.any():
                raise InputError(f"{self.path}: expected clips with sound for {direction}, found none")
            asking, found = (self._side(embeddings, kept, letters) for letters in direction.split("->"))
            queries, items = self.scoring.sides(module.clusters_of, asking.embeddings, direction, found.embeddings)
            ranks = torch.full((asking.total,), math.inf, dtype=torch.float64, device=module.device)
            ranks[asking.rows] = item_ranks(queries, items, asking.clips, found.clips).to(ranks)
            ranks_of[direction] = ranks.cpu()
            # clips of the benchmark that the file lacks are queries that nobody can answer
            missing = (self.benchmark_size or len(silent)) - len(silent)
            everyone = torch.cat([ranks, ranks.new_full((missing,), math.inf)])
            for metric, value in retrieval_metrics(everyone).items():
                yield self.result(direction, metric, value)
            counted.setdefault((len(everyone), "queries"), []).append(direction)
            counted.setdefault((len(items), "items"), []).append(direction)
            if lost := len(everyone) - len(queries):
                counted.setdefault((lost, "queries counted as misses"), []).append(direction)
            if self.full_video and "t" in direction.split("->")[0]:
                for metric, value in self._whole_videos(queries, items, asking.clips, found.clips).items():
                    setting, _, measure = metric.rpartition("/")
                    if setting != "caption_clip":  # the same as the retrieval of clips above
                        yield self.result(f"{direction} {setting}", measure, value)
        yield from self._counts(silent, counted)
        if self.ranks_file is not None:
            run_on_first_process(lambda: self._write_ranks(trainer, ranks_of))

    def _side(self, embeddings: Mapping[str, Tensor], kept: Tensor, letters: str) -> _Side:
        """Return one side of a direction: a row for each caption if it has text, else a row for each clip."""
        clips = torch.tensor(self._clips.caption_clips, device=kept.device)
        if "t" not in letters:
            clips = clips[: len(kept)]  # captions 0 to N - 1 belong to clips 0 to N - 1
        rows = kept[clips].nonzero()[:, 0]
        of_captions = {
            name: values[rows] for name, values in embeddings.items() if name in CAPTIONED and "t" in letters
        }
        of_clips = {name: values[clips[rows]] for name, values in embeddings.items() if name not in CAPTIONED}
        return _Side(of_captions | of_clips, clips[rows], rows, len(clips))

    def _counts(self, silent: Tensor, counted: Mapping[tuple[int, str], list[str]]) -> Iterator[Result]:
        """Yield the numbers of clips and captions, and of queries and items in directions that use fewer or more."""
        clips = len(silent)
        yield self.result("", "clips", clips, "count")
        if (captions := len(self._clips.caption_clips)) > clips:
            yield self.result("", "captions", captions, "count")
        yield from self.count_results(self._clips.changed)
        for name, directions in self._left_out.items():
            what = f"directions left out, as there is no {name}: {', '.join(directions)}"
            yield self.result("", what, len(directions), "count")
        if silent.any():
            yield self.result("", "clips without audio", int(silent.sum()), "count")
        uniform = all(count == clips for count, what in counted if what in ("queries", "items"))
        kinds = ("queries", "items", "queries counted as misses")
        for (count, what), directions in sorted(counted.items(), key=lambda item: kinds.index(item[0][1])):
            if not (uniform and what in ("queries", "items")):
                yield self.result("", f"{what} in {', '.join(directions)}", count, "count")

    def _whole_videos(
        self, queries: Tensor, items: Tensor, caption_clips: Tensor, clips: Tensor
    ) -> Mapping[str, Tensor]:
        ids = [self._clips.ids[clip][:VIDEO_ID] for clip in clips.tolist()]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        videos = torch.tensor([numbers[name] for name in ids], device=queries.device)
        # `clips` is ascending, so the search gives the gallery row of each caption's clip
        return full_video_metrics(queries, items, videos, clips=torch.searchsorted(clips, caption_clips))

    def _write_ranks(self, trainer: Trainer, ranks_of: Mapping[str, Tensor]) -> None:
        """Write a row for each caption. The rank of a clip as a query stands in the row of its first caption."""
        path = run_folder(trainer) / str(self.ranks_file)
        captions = [str(number + 1) for number in self._clips.caption_numbers]
        ids = [self._clips.ids[clip] for clip in self._clips.caption_clips]
        named = {"id": ids} | ({"caption": captions} if len(captions) > len(self._clips.ids) else {})
        columns = [*named.values(), *(ranks.tolist() for ranks in ranks_of.values())]
        with writing(f"ranks_file {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([*named, *ranks_of])
                # a direction without text has a rank for each clip, and so a shorter column
                writer.writerows(zip_longest(*columns, fillvalue=""))
