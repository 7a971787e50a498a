"""The benchmark of retrieval between any modalities, and of whole videos."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from mcn_lightning.callbacks.benchmark import Benchmark, Figure, NotPossibleError, at_least, embed_clips, on_first
from mcn_lightning.callbacks.evaluation import (
    DEFAULT_DIRECTIONS,
    Fusion,
    Scoring,
    parse_direction,
    possible_directions,
)
from mcn_lightning.callbacks.files import run_folder
from mcn_lightning.data.batch import MODALITIES, InputError
from mcn_lightning.metrics import expected_ranks, full_video_metrics, retrieval_metrics

VIDEO_ID = 11
"""Characters of a YouTube id, with which the clip ids of YouCook2 begin."""


class RetrievalBenchmark(Benchmark):
    """Retrieval on a pickle of clips: YouCook2, MSR-VTT, LSMDC, YouCook-Japanese and any data set in the same form.

    Args:
        name: of the benchmark, in tables and logs.
        path: the pickle, relative to data.root.
        directions: queries and galleries in letters, for instance t->va for text against video + audio; when not
            given, t->va and all pairs that the network has.
        combine: how the modalities of one side are fused, as --retrieval.combine.
        audio_weight: factor of the audio embedding where it is summed with others.
        audio_frames: frames of 10 ms that spectrograms are cut or padded to (released: 5120 for YouCook2, 3072 for
            MSR-VTT and LSMDC).
        without_audio: what is done with clips without sound where a direction needs it: error refuses the first one;
            miss leaves them out of the gallery and counts their queries as misses (MSR-VTT in the authors' protocol);
            zero takes zeros for their audio embedding (silence, where audio and text have one joint embedding).
        benchmark_size: clips that the benchmark has; those that the file lacks count as misses (1000 for MSR-VTT, where
            the authors' file holds the 968 clips with audio).
        full_video: where text is the query, also retrieve whole videos by captions, in the variants of
            ``metrics.full_video_metrics``; clip ids begin with the 11 characters of the video id (YouCook2).
        calibrate: as --retrieval.calibrate.
        calibrate_temperature: as --retrieval.calibrate_temperature.
        ranks_file: CSV of the rank of every query in every direction, in the run's folder when relative; none for none.
        batch_size: clips embedded at a time.
        published: published figures by <setting>/<metric>, for instance t->va/R@10, shown beside ours.
        source: where they were published.
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
        published: dict[str, float] | None = None,
        source: str = "",
    ) -> None:
        super().__init__(name, published, source)
        for direction in directions or ():
            parse_direction(direction, f"benchmark {name}: directions")
        at_least(name, audio_frames=(audio_frames, 1), batch_size=(batch_size, 1))
        self.scoring = Scoring(combine, audio_weight, calibrate, calibrate_temperature, f"benchmark {name}: ")
        self.path, self.directions = path, directions
        self.audio_frames, self.without_audio, self.benchmark_size = audio_frames, without_audio, benchmark_size
        self.full_video, self.ranks_file, self.batch_size = full_video, ranks_file, batch_size
        self._chosen: list[str] = []
        self._clips: Any = None

    def open(self, data: Any, module: LightningModule) -> None:
        """Read the pickle and look at every clip.

        Raises:
            InputError: if something of it cannot be used.
        """
        config: Any = module.network_config
        try:
            self._chosen = possible_directions(self.directions, DEFAULT_DIRECTIONS, config, "directions")
        except InputError as error:
            if self.directions:
                raise
            raise NotPossibleError(str(error)) from None
        used = {name for direction in self._chosen for side in parse_direction(direction) for name in side}
        modalities = [name for name in MODALITIES if name in used]
        silent = self.without_audio != "error"
        self._clips = data.clips(self.path, modalities, self.audio_frames, self.batch_size, silent=silent)
        if self.benchmark_size is not None and self.benchmark_size < len(self._clips.ids):
            raise InputError(
                f"benchmark_size: expected at least the {len(self._clips.ids)} clips of {self.path}, "
                f"found {self.benchmark_size}"
            )
        if self.full_video and (short := [name for name in self._clips.ids if len(name) <= VIDEO_ID]):
            raise InputError(
                f"full_video: expected clip ids that begin with the {VIDEO_ID} characters of the video id, "
                f"found {short[0]!r} in {self.path}"
            )

    def expected(self) -> list[str] | None:
        """Return the keys of the metrics; ``None`` with those of whole videos, which are many."""
        metrics = retrieval_metrics(torch.ones(1, dtype=torch.float64))
        return None if self.full_video else [f"{direction}/{name}" for direction in self._chosen for name in metrics]

    def evaluate(self, trainer: Trainer, module: LightningModule) -> Iterator[Figure]:
        """Rank every query's clip among the gallery, in every direction."""
        embeddings = embed_clips(module, self._clips, self.name)
        silent = torch.tensor(self._clips.silent, device=module.device)
        self.scoring.warn(module, self._chosen)
        ranks_of: dict[str, Tensor] = {}
        misses: dict[int, list[str]] = {}
        for direction in self._chosen:
            kept = ~silent if self.without_audio == "miss" and "a" in direction else torch.ones_like(silent)
            if not kept.any():
                raise InputError(f"{self.path}: expected clips with sound for {direction}, found none")
            some = {name: rows[kept] for name, rows in embeddings.items()}
            queries, items = self.scoring.sides(module, some, direction)
            targets = torch.arange(len(queries), device=module.device)
            ranks = torch.full((len(silent),), math.inf, dtype=torch.float64, device=module.device)
            ranks[kept] = expected_ranks(queries, items, targets).to(ranks)
            ranks_of[direction] = ranks.cpu()
            missing = (self.benchmark_size or len(ranks)) - len(ranks)
            everyone = torch.cat([ranks, ranks.new_full((missing,), math.inf)])
            for metric, value in retrieval_metrics(everyone).items():
                yield self.figure(direction, metric, value)
            if lost := missing + int((~kept).sum()):
                misses.setdefault(lost, []).append(direction)
            if self.full_video and "text" in parse_direction(direction)[0]:
                for metric, value in self._whole_videos(queries, items, kept).items():
                    setting, _, measure = metric.rpartition("/")
                    if setting != "caption_clip":  # the plain retrieval above
                        yield self.figure(f"{direction} {setting}", measure, value)
        yield self.figure("", "clips", len(silent), "count")
        yield from self.left_out(self._clips.changed)
        if silent.any():
            yield self.figure("", "clips without audio", int(silent.sum()), "count")
        for lost, directions in misses.items():
            yield self.figure("", f"queries counted as misses in {', '.join(directions)}", lost, "count")
        if self.ranks_file is not None:
            on_first(lambda: self._write_ranks(trainer, ranks_of))

    def _whole_videos(self, queries: Tensor, items: Tensor, kept: Tensor) -> Mapping[str, Tensor]:
        ids = [name[:VIDEO_ID] for name, keep in zip(self._clips.ids, kept.tolist(), strict=True) if keep]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        return full_video_metrics(queries, items, torch.tensor([numbers[name] for name in ids], device=queries.device))

    def _write_ranks(self, trainer: Trainer, ranks_of: Mapping[str, Tensor]) -> None:
        path = run_folder(trainer) / str(self.ranks_file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["id", *ranks_of])
                writer.writerows(zip(self._clips.ids, *(ranks.tolist() for ranks in ranks_of.values()), strict=True))
        except OSError as error:
            raise InputError(f"ranks_file: expected a place to write {path}, found {error}") from None
