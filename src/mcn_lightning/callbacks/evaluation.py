"""Evaluation on held-out clips: recall between any modalities, and cluster quality where topics are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.batch import ClipBatch
from mcn_lightning.callbacks.planned import check_plan
from mcn_lightning.callbacks.progress import say
from mcn_lightning.clustering import KMeans, assign
from mcn_lightning.distributed import gather_rows, numbers_of_all, rank, row_counts, world
from mcn_lightning.errors import InputError
from mcn_lightning.metrics import ClusterQuality, LabelledFeatures, Ranking, RetrievalRecall, query_density
from mcn_lightning.metrics.items import hash_ids

LETTERS = {"v": "video", "a": "audio", "t": "text"}
RESTARTS = 4
"""Starts of the k-means that looks for the known topics; the one with the best objective counts."""
DEFAULT_DIRECTIONS = ("t->va", "t->v", "t->a", "v->t", "a->t", "a->v", "v->a")
AUDIO_TEXT = "audio_text"
"""Name of the joint embedding of audio and text, where the network has one (AVLnet-Text-Fused)."""
JOINT_DIRECTIONS = ("v->ta", "ta->v")


def parse_direction(direction: str, option: str = "--retrieval.directions") -> tuple[list[str], list[str]]:
    """Split ``"t->va"`` into the names of the query's and of the gallery's modalities.

    Args:
        direction: letters of v, a, t around ``->``.
        option: what the message calls it.

    Raises:
        InputError: if it is not of that form.
    """
    query, arrow, gallery = direction.partition("->")
    valid = all(side and set(side) <= set(LETTERS) and len(set(side)) == len(side) for side in (query, gallery))
    valid = valid and not set(query) & set(gallery)  # what is asked for must not be in the question
    if not arrow or not valid:
        raise InputError(f"{option}: expected letters of v, a, t around '->', as in t->va, found {direction!r}")
    return [LETTERS[letter] for letter in query], [LETTERS[letter] for letter in gallery]


def embedding_names(names: Sequence[str], joint: bool) -> list[str]:
    """Return the names of the embeddings of modalities.

    Args:
        names: modalities.
        joint: whether audio and text have one joint embedding.

    Raises:
        InputError: if they have and only one of the two is named.
    """
    if not joint:
        return list(names)
    both = [name for name in names if name in ("audio", "text")]
    if len(both) == 1:
        raise InputError(
            f"expected audio and text together, found {both[0]} alone: these weights have one joint embedding of audio "
            "and text: use ta->v or v->ta"
        )
    others = [name for name in names if name not in both]
    return [*others, AUDIO_TEXT] if both else others


def possible_directions(
    wanted: Sequence[str] | None,
    defaults: Sequence[str],
    network_config: Any,
    option: str = "--retrieval.directions",
) -> list[str]:
    """Return the directions that are evaluated with a network; see ``divide_directions``.

    Raises:
        InputError: if none is possible, or one that is wanted needs half of a joint embedding.
    """
    chosen, left_out = divide_directions(wanted, defaults, network_config, option)
    if chosen:
        return chosen
    if wanted and left_out:
        name, direction = next((name, directions[0]) for name, directions in left_out.items())
        raise InputError(f"{option}: {direction} needs {name}, which data.modalities or the weights lack; leave it out")
    names = ", ".join(network_config.modalities)
    raise InputError(f"{option}: expected directions between {names}, found {', '.join(defaults)}; set it")


def divide_directions(
    wanted: Sequence[str] | None,
    defaults: Sequence[str],
    network_config: Any,
    option: str = "--retrieval.directions",
) -> tuple[list[str], dict[str, list[str]]]:
    """Divide directions into those that are evaluated with a network, and those that it cannot serve.

    Args:
        wanted: what the user asks for; ``None`` for the defaults.
        defaults: directions without a wish; where none is possible for a joint embedding of audio and text, v->ta and
            ta->v.
        network_config: ``NetworkConfig`` of the network, of which the modalities and ``fuse_audio_text`` are read.
        option: what messages call the wish.

    Returns:
        The directions that are evaluated, and those left out by the modality that they need and the network lacks.

    Raises:
        InputError: if a direction that is wanted needs half of a joint embedding of audio and text.
    """
    modalities, joint = set(network_config.modalities), network_config.fuse_audio_text
    chosen: list[str] = []
    left_out: dict[str, list[str]] = {}
    for direction in wanted or defaults:
        sides = parse_direction(direction, option)
        absent = [name for side in sides for name in side if name not in modalities]
        if absent:
            left_out.setdefault(absent[0], []).append(direction)
            continue
        try:
            for side in sides:
                embedding_names(side, joint)
        except InputError as error:
            if wanted:
                raise InputError(f"{option}: {direction}: {error}") from None
            continue
        chosen.append(direction)
    if not chosen and not wanted and joint and modalities == set(LETTERS.values()):
        return list(JOINT_DIRECTIONS), {}
    return chosen, left_out


def served(network_config: Any, data: Any) -> Any:
    """Return the shape of a network without the modalities that the data do not have.

    Args:
        network_config: ``NetworkConfig``.
        data: data module; ``None``, or one that does not say what it has, for all of them.
    """
    there = getattr(data, "modalities", network_config.modalities)
    kept = [name for name in network_config.modalities if name in there]
    return network_config if len(kept) == len(network_config.modalities) else replace(network_config, modalities=kept)


def clips_of_sides(
    present: Mapping[str, Tensor] | None, direction: str, joint: bool
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return which clips have the query and which the gallery item of a direction, ``(B,)`` bool on the CPU each.

    Args:
        present: which clips have each embedding; ``None`` where all have all, and in the result then.
        direction: letters around ``->``.
        joint: whether audio and text have one joint embedding.
    """
    if present is None:
        return None, None
    asks, answers = (
        torch.stack([present[name] for name in embedding_names(side, joint)]).all(dim=0)
        for side in parse_direction(direction)
    )
    return asks, answers


Fusion = Literal["sum", "normalized_mean", "normalized_sum"]


def combine(embeddings: dict[str, Tensor], names: Sequence[str], how: Fusion, audio_weight: float = 1.0) -> Tensor:
    """Fuse the embeddings of several modalities, each ``(B, D)``, into one ``(B, D)``; see ``RetrievalEvaluation``.

    Audio and text together are their joint embedding where the network gives one.

    Raises:
        InputError: if only one of these two is named, where they have one joint embedding.
    """
    names = embedding_names(names, AUDIO_TEXT in embeddings)
    parts = [embeddings[name].float() for name in names]
    if how == "normalized_mean":
        parts = [F.normalize(part, dim=1) for part in parts]
    if len(parts) > 1:
        parts = [audio_weight * part if name == "audio" else part for name, part in zip(names, parts, strict=True)]
    total = torch.stack(parts).sum(dim=0)
    if how == "normalized_sum":
        return F.normalize(total, dim=1)
    return total if how == "sum" else total / len(parts)


@dataclass(frozen=True)
class Scoring:
    """How the scores of a direction come about; see ``RetrievalEvaluation`` for the options.

    Args:
        combine: how the modalities of one side are fused.
        audio_weight: factor of the audio embedding where it is summed with others.
        calibrate: how much of its density of queries is taken from the scores of a gallery item.
        temperature: of the similarities in the density.
        where: what messages put before the names of options.
    """

    combine: Fusion = "sum"
    audio_weight: float = 1.0
    calibrate: float = 0.0
    temperature: float = 0.05
    where: str = "--retrieval."

    def __post_init__(self) -> None:
        if not 0 < self.audio_weight < math.inf:
            raise InputError(
                f"{self.where}audio_weight: expected more than 0, found {self.audio_weight}; 1 is the plain sum"
            )
        if not 0 <= self.calibrate < math.inf:
            raise InputError(f"{self.where}calibrate: expected 0 or more, found {self.calibrate}; 0 turns it off")
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"{self.where}calibrate_temperature: expected more than 0, found {self.temperature}; try 0.05"
            )

    def warn(self, module: LightningModule, directions: Sequence[str]) -> None:
        """Say which directions are not calibrated although they should be."""
        if not self.calibrate:
            return
        plain = [direction for direction in directions if self._clusters(module, direction) is None]
        if plain:
            rank_zero_warn(
                f"{self.where}calibrate: there are no k-means clusters (yet) of the queries of {', '.join(plain)}, "
                "whose scores stay as they are; --model.clustering.kind kmeans_per_modality or kmeans finds some "
                "for queries of one modality"
            )

    def sides(
        self,
        module: LightningModule,
        embeddings: dict[str, Tensor],
        direction: str,
        gallery: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return queries and items of a direction, or one wider than D: their dot product is the score.

        Args:
            module: whose clusters calibrate.
            embeddings: of the queries, by modality ``(B, D)``.
            direction: letters, for instance t->va.
            gallery: embeddings of the items, by modality; those of the queries when not given.
        """
        sides = zip((embeddings, gallery or embeddings), parse_direction(direction), strict=True)
        queries, items = (combine(rows, side, self.combine, self.audio_weight) for rows, side in sides)
        if not self.calibrate or (clusters := self._clusters(module, direction)) is None:
            return queries, items
        density = query_density(items, clusters[0], clusters[1], self.temperature)
        # one more dimension, so that a dot product is the calibrated score
        return F.pad(queries, (0, 1), value=1.0), torch.cat([items, -self.calibrate * density[:, None]], dim=1)

    def _clusters(self, module: LightningModule, direction: str) -> tuple[Tensor, Tensor] | None:
        config: Any = module.network_config
        names = embedding_names(parse_direction(direction)[0], config.fuse_audio_text)
        return module.clusters_of(names)  # type: ignore[operator]


def captions_side(direction: str) -> Literal["queries", "gallery"] | None:
    """Return on which side of a direction the captions stand, each of which counts where a clip has several."""
    queries, gallery = parse_direction(direction)
    return "queries" if "text" in queries else "gallery" if "text" in gallery else None


def find_topics(features: Tensor, topics: int) -> Tensor:
    """Cluster held-out features into as many clusters as there are topics, and return the cluster of each ``(N,)``.

    So embeddings are compared whatever they were trained with: k-means by cosine from k-means++ starts with seeds of
    their own.

    Args:
        features: ``(N, D)``, the same on every process.
        topics: number of clusters.
    """
    best, found = -float("inf"), torch.zeros(len(features), dtype=torch.int64, device=features.device)
    for start in range(RESTARTS):
        kmeans = KMeans(topics, engine="torch", init_method="kmeans++")
        mine = features if rank() == 0 else features[:0]  # sums in one order, so that processes do not change them
        centroids, _, report = kmeans.fit(mine, generator=torch.Generator().manual_seed(start))
        if report.objective > best:
            best, found = report.objective, assign(features, centroids)
    return found


def format_table(
    metrics: dict[str, float],
    rankings: Mapping[str, Ranking],
    count: int,
    when: str = "",
    dropped: str = "",
    unknown: int = 0,
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Lay out recall and median rank, a direction a row, with chance in the last row.

    Where a direction has other queries or gallery items than the clips, as clips with several captions have, both are
    counted in each row, and chance has a row for each kind.

    Args:
        metrics: ``"<direction>/<metric>"`` to its value, and perhaps ``nmi``, ``purity`` and ``topics_nmi``.
        rankings: the rows.
        count: N, held-out clips.
        when: in training these figures were taken; not said when empty.
        dropped: how many captions are not among the clips since they cannot be used, in words.
        unknown: clips without any known word in their text.
        left_out: directions that are not evaluated, by the modality that is absent.
    """
    names, ks = ("R@1", "R@5", "R@10", "median_rank"), (1, 5, 10)
    title = f"held-out clips: {count}" + (f", {when}" if when else "")
    chances: dict[tuple[float, ...], list[str]] = {}
    body: list[tuple[str, ...]] = []
    for direction, ranking in rankings.items():
        shown = [f"{metrics[f'{direction}/{name}']:.1f}" for name in names]
        body.append((direction, *shown, str(ranking.queries), str(ranking.items)))
        chance = ranking.chance(ks)
        chances.setdefault(tuple(chance[name] for name in names), []).append(direction)
    for values, directions in chances.items():
        label = "chance" if len(chances) == 1 else f"chance {', '.join(directions)}"
        body.append((label, *(f"{value:.1f}" for value in values), "", ""))
    rows = [(title, *names[:3], "median rank", "queries", "items"), *body]
    if all(ranking.queries == ranking.items == count for ranking in rankings.values()):
        rows = [row[:5] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        row[0].ljust(widths[0])
        + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    extra = [f"{name}: {metrics[name]:.3f}" for name in ("nmi", "purity", "topics_nmi") if name in metrics]
    if dropped:
        extra.append(f"left out: {dropped}")
    if unknown:
        extra.append(f"clips without any known word in their text: {unknown}, which are in the table all the same")
    extra += [f"left out, as there is no {name}: {', '.join(each)}" for name, each in (left_out or {}).items()]
    return "\n".join([*(line.rstrip() for line in lines), *extra])


class RetrievalEvaluation(Callback):
    """Recall@K and median rank on held-out clips during fit, validate and test.

    Where topics are known: agreement with the clusters of training (``nmi``, ``purity`` and others), and with clusters
    that k-means finds among the held-out means of the modalities, as many as there are topics (``topics_nmi``).

    Args:
        directions: queries and galleries in letters, for instance t->va for text against video + audio; all pairs and
            t->va when not given (with one joint embedding of audio and text: v->ta and ta->v). ModelCheckpoint can
            monitor val/t->va/R@10 and its like.
        combine: how the modalities of one side are fused: sum of the embeddings (released), normalized_mean (mean of
            the embeddings at length 1) or normalized_sum (their sum at length 1, so that clips whose modalities agree,
            and whose sum is long, are not preferred).
        audio_weight: factor of the audio embedding where it is summed with others (released: 1); what is said is often
            less to the point than what is seen.
        calibrate: how much of its density of queries is taken from the scores of a gallery item, see
            ``metrics.query_density``: 0 for nothing (released), 0.5 is a good start. Needs k-means of the query's
            modality (kmeans_per_modality) or of the mean, and queries of one modality.
        calibrate_temperature: of the similarities in the density.
    """

    def __init__(
        self,
        directions: list[str] | None = None,
        combine: Fusion = "sum",
        audio_weight: float = 1.0,
        calibrate: float = 0.0,
        calibrate_temperature: float = 0.05,
    ) -> None:
        for direction in directions or ():
            parse_direction(direction)
        self.scoring = Scoring(combine, audio_weight, calibrate, calibrate_temperature)
        self.directions = directions
        self._recalls: dict[str, RetrievalRecall] = {}
        self._quality = ClusterQuality()
        self._labelled = LabelledFeatures()
        self._items: set[str] = set()
        self._unknown: set[str] = set()
        self._left_out: dict[str, list[str]] = {}
        self._pairs: dict[str, int] = {}  # clips of this process with both sides of a direction

    def _start(self, module: LightningModule, data: Any = None, training: bool = False) -> None:
        config = served(module.network_config, data)
        chosen, left_out = divide_directions(self.directions, DEFAULT_DIRECTIONS, config)
        # a network that is trained on fewer modalities lacks nothing
        self._left_out = {} if training and self.directions is None else left_out
        if not chosen and len(config.modalities) > 1:
            possible_directions(self.directions, DEFAULT_DIRECTIONS, config)  # which says why there is none
        self.scoring.warn(module, chosen)
        self._recalls = {direction: RetrievalRecall(captions=captions_side(direction)) for direction in chosen}
        self._quality.reset()
        self._labelled.reset()
        self._items, self._unknown = set(), set()
        self._pairs = dict.fromkeys(chosen, 0)

    def _update(self, module: LightningModule, output: Any, batch: ClipBatch) -> None:
        if len(batch) == 0:  # benchmarks alone are evaluated
            return
        embeddings = output.embeddings()
        if not self._recalls and batch.labels is None:
            raise InputError(
                f"--data.modalities: expected two or more to retrieve one by another, found {' '.join(embeddings)} "
                "alone, and no topics to compare clusters with; predict embeds one modality"
            )
        self._items.update(batch.items or batch.ids)
        self._unknown.update(batch.without_known_word())
        for direction, recall in self._recalls.items():
            queries, items = self.scoring.sides(module, embeddings, direction)
            asks, answers = clips_of_sides(output.present, direction, AUDIO_TEXT in embeddings)
            recall.update(batch.ids, queries, items, batch.items, asks, answers)
            self._pairs[direction] += len(queries) if asks is None or answers is None else int((asks & answers).sum())
        if batch.labels is not None:
            known = (batch.labels >= 0).tolist()
            self._label(module, output, batch, [row for row, is_known in enumerate(known) if is_known])

    def _label(self, module: LightningModule, output: Any, batch: ClipBatch, rows: list[int]) -> None:
        """Take the features and the clusters of the clips whose topic is known."""
        if not rows or batch.labels is None:
            return
        ids, labels = [batch.ids[row] for row in rows], batch.labels[rows]
        self._labelled.update(ids, output.mean()[rows], labels)
        if (clusters := module.assignments(output)) is not None:  # type: ignore[operator]
            clustered = [place for place, cluster in enumerate(clusters[rows].tolist()) if cluster >= 0]
            if clustered:
                names = [ids[place] for place in clustered]
                self._quality.update(names, clusters[rows][clustered], labels[clustered])

    def _finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if trainer.sanity_checking or (count := self._count(module, self._items)) == 0:
            return
        self._leave_out_empty(module)
        try:
            metrics = {
                f"{direction}/{name}": float(value)
                for direction, recall in self._recalls.items()
                for name, value in recall.compute().items()
            }
        except ValueError as error:
            raise InputError(f"evaluation at step {trainer.global_step}: {error}") from None
        if self._quality.update_called:
            metrics.update({name: float(value) for name, value in self._quality.compute().items()})
        if self._labelled.update_called:
            features, labels = self._labelled.compute()
            quality = ClusterQuality(sync_on_compute=False)
            names = [str(row) for row in range(len(labels))]
            quality.update(names, find_topics(features, len(labels.unique())), labels)
            metrics["topics_nmi"] = float(quality.compute()["nmi"])
        shown = next(iter(self._recalls), "") + "/R@10"
        for name, value in metrics.items():
            module.log(f"{stage}/{name}", value, prog_bar=name in (shown, "nmi"), batch_size=1, sync_dist=world() > 1)
        data: Any = getattr(trainer, "datamodule", None)
        dropped = data.dropped_captions(stage) if hasattr(data, "dropped_captions") else ""
        unknown = self._count(module, self._unknown)
        rankings = {name: recall.ranking for name, recall in self._recalls.items() if recall.ranking is not None}
        if trainer.is_global_zero:
            shown_as = _when(trainer), dropped, unknown, self._left_out
            say("\n" + format_table(metrics, rankings, count, *shown_as))

    def _leave_out_empty(self, module: LightningModule) -> None:
        """Leave out the directions of which no clip has both sides."""
        found = numbers_of_all(list(self._pairs.values()), module.device) if self._pairs else []
        for direction, *counts in zip(list(self._recalls), *found, strict=True):
            if sum(counts) == 0:
                del self._recalls[direction]
                self._left_out.setdefault("clip with both sides", []).append(direction)

    def _count(self, module: LightningModule, clips: set[str]) -> int:
        """Return the number of clips, each once, of all processes."""
        ids = hash_ids(sorted(clips), module.device)
        return len(gather_rows(ids, row_counts(len(ids), module.device)).unique())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the data find videos that cannot be evaluated now, and not after hours of training."""
        if (data := getattr(trainer, "datamodule", None)) is not None and hasattr(data, "check_held_out"):
            data.check_held_out()
        if trainer.limit_train_batches == 0:
            rank_zero_warn("--trainer.limit_train_batches 0: nothing is trained, and nothing is evaluated")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say now, and not at the end, that nothing will be evaluated, or no metric of a name that is waited for."""
        data: Any = getattr(trainer, "datamodule", None)
        config: Any = pl_module.network_config
        held_out = not hasattr(data, "datasets") or "val" in data.datasets
        chosen = possible_directions(self.directions, DEFAULT_DIRECTIONS, config) if held_out else []
        topics = not hasattr(data, "has_topics") or data.has_topics("val")
        check_plan(trainer, pl_module, chosen, topics)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._start(pl_module, getattr(trainer, "datamodule", None), trainer.state.fn == TrainerFn.FITTING)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._start(pl_module, getattr(trainer, "datamodule", None))

    def on_validation_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self._update(pl_module, outputs, batch)

    def on_test_batch_end(  # noqa: D102
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self._update(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: D102
        self._finish(trainer, pl_module, "test")


def _when(trainer: Trainer) -> str:
    """Return when in training an evaluation takes place, epochs counted from 1; empty outside of training."""
    if trainer.state.fn != TrainerFn.FITTING:
        return ""
    if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
        return f"after epoch {trainer.current_epoch + 1}"
    return f"in epoch {trainer.current_epoch + 1}, after step {trainer.global_step}"
