"""Contrastive losses between the modalities of a clip, with the other clips of the batch as negatives."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.config import Options
from mcn_lightning.distributed import Presence, gather_rows, gather_summed, row_counts, world
from mcn_lightning.losses.tiled import Tiling, full_precision, hinge, normalizers, product_precision
from mcn_lightning.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

PAIRS = (("text", "video"), ("audio", "text"), ("audio", "video"), ("audio_text", "video"))
LETTERS = {"v": "video", "a": "audio", "t": "text"}
MAX_SCALE = 100.0
"""Largest inverse of a learned temperature (Radford et al., "CLIP", 2021, section 2.5)."""


@dataclass(frozen=True)
class ContrastiveConfig(Options, option="--model.loss.contrastive"):
    """Which contrastive loss, and its constants; the defaults are the released recipe.

    Args:
        kind: mms (masked margin softmax), mil_nce, info_nce (symmetric, on normalised embeddings), max_margin (ranking
            with a hinge) or none.
        margin: margin that mms takes from the similarity of a true pair.
        normalize: scale embeddings to length 1 for this loss; info_nce always does.
        temperature: similarities are divided by it (its start value when it is learned).
        learn_temperature: make the temperature a parameter, kept at 0.01 or more.
        ranking_margin: margin of max_margin.
        text_video_weight: factor of the pair text and video; 0 leaves the pair out.
        audio_text_weight: factor of the pair audio and text; 0 leaves the pair out.
        audio_video_weight: factor of the pair audio and video; 0 leaves the pair out.
        audio_text_video_weight: factor of the pair of the joint embedding of audio and text, where the network has one,
            and video; 0 leaves the pair out.
        tile: rows and columns of the parts in which the similarity matrix is computed, in clips. On one process a batch
            of up to this many clips is computed whole; above, memory is saved and each similarity computed twice.
        exclude_same_cluster: leave other clips of a clip's cluster out of its negatives, once there are clusters.
        pairs: which modalities are compared, as letters of v, a, t around ``-``: t-va compares the text with the sum of
            the embeddings of video and audio (AVLnet-Text-Tri's fine-tuning). All pairs of single modalities when not
            given. Pairs of sums have weight 1. Where embeddings are normalised, so is their sum.
    """

    kind: Literal["mms", "mil_nce", "info_nce", "max_margin", "none"] = "mms"
    margin: NonNegativeFloat = 0.001
    normalize: bool = False
    temperature: PositiveFloat = 1.0
    learn_temperature: bool = False
    ranking_margin: NonNegativeFloat = 0.1
    text_video_weight: NonNegativeFloat = 1.0
    audio_text_weight: NonNegativeFloat = 1.0
    audio_video_weight: NonNegativeFloat = 1.0
    audio_text_video_weight: NonNegativeFloat = 1.0
    tile: PositiveInt = 2048
    exclude_same_cluster: bool = False
    pairs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        flag = self.option
        named = [frozenset(_as_names(pair, joint=False)) for pair in self.pairs or ()]
        if self.pairs is not None and (not named or len(set(named)) < len(named)):
            raise ValueError(f"{flag}.pairs: expected pairs as in t-va, each once, found {list(self.pairs)}")
        if self.learn_temperature and self.temperature < 1 / MAX_SCALE:
            raise ValueError(
                f"{flag}.temperature: expected at least {1 / MAX_SCALE} when it is learned, found {self.temperature}; "
                f"raise it or set {flag}.learn_temperature to false"
            )

    def weighted_pairs(self, embeddings: Iterable[str]) -> dict[tuple[str, str], float]:
        """Return the pairs of these embeddings, or sums of them, that the loss compares, with their weights.

        Args:
            embeddings: names of the embeddings that are there.

        Returns:
            The weight of each pair of names; the name of a sum has a ``+`` between those of its parts.
        """
        present = set() if self.kind == "none" else set(embeddings)
        found = {}
        for pair in self._wanted(present):
            weight = getattr(self, "{}_{}_weight".format(*pair), 1.0)
            if weight > 0 and present.issuperset(parts_of(pair)):
                found[pair] = weight
        return found

    def check_pairs(self, embeddings: Iterable[str]) -> None:
        """Check that every pair that was asked for can be compared.

        Args:
            embeddings: names of the embeddings that a network gives.

        Raises:
            ValueError: if a pair needs another one.
        """
        names = set(embeddings)
        wanted = [] if self.pairs is None or self.kind == "none" else self._wanted(names)
        for text, pair in zip(self.pairs or (), wanted, strict=False):
            if absent := [name for name in parts_of(pair) if name not in names]:
                raise ValueError(
                    f"--model.loss.contrastive.pairs: expected pairs of {', '.join(sorted(names))}, found {text}, "
                    f"which needs {' and '.join(absent)}; leave it out, or see --data.modalities and --model.weights"
                )

    def _wanted(self, embeddings: Collection[str]) -> Sequence[tuple[str, str]]:
        if self.pairs is None:
            return PAIRS
        return [_as_names(pair, "audio_text" in embeddings) for pair in self.pairs]


def parts_of(pair: tuple[str, str]) -> list[str]:
    """Return the names of all embeddings of a pair, those in a sum each."""
    return [name for side in pair for name in side.split("+")]


def _as_names(pair: str, joint: bool) -> tuple[str, str]:
    """Return the names of the two sides of a pair in letters, in the order of ``PAIRS`` where it is one of these.

    Args:
        pair: letters of v, a, t around ``-``.
        joint: audio and text have one joint embedding.

    Raises:
        ValueError: if it is not of that form.
    """
    sides = pair.split("-") if isinstance(pair, str) else []
    letters = "".join(sides)
    if len(sides) != 2 or not all(sides) or not set(letters) <= set(LETTERS) or len(set(letters)) < len(letters):
        raise ValueError(
            "--model.loss.contrastive.pairs: expected different letters of v, a, t around '-', as in t-va, "
            f"found {pair!r}"
        )
    names = ["+".join(name for letter, name in LETTERS.items() if letter in side) for side in sides]
    first, second = ("audio_text" if joint and name == "audio+text" else name for name in names)
    return (second, first) if (second, first) in PAIRS else (first, second)


def mms(similarity: Tensor, margin: float) -> Tensor:
    """Masked margin softmax (Ilharco, Zhang and Baldridge, 2019), the contrastive loss of MCN.

    Cross-entropy of each row of ``S - margin * I`` against its diagonal plus the same for each column. As in the
    released code of MCN, every other clip of the batch is a negative, those of the same video included.

    Args:
        similarity: ``(B, B)``, true pairs on the diagonal.
        margin: taken from the diagonal.

    Returns:
        Scalar: row mean plus column mean, at least float32.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        similarity = full_precision(similarity)
        shifted = similarity - margin * torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device)
        normalizers = shifted.logsumexp(dim=1) + shifted.logsumexp(dim=0)
        return (normalizers - 2 * shifted.diagonal()).mean()


def mil_nce(similarity: Tensor) -> Tensor:
    """MIL-NCE with one positive per clip (Miech et al., CVPR 2020, eq. 1).

    One log-sum-exp over row i and column i together. The true pair stands in both, as in the authors' released code.

    Args:
        similarity: ``(B, B)``, true pairs on the diagonal.

    Returns:
        Scalar, mean over the clips, at least float32.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        similarity = full_precision(similarity)
        normalizer = torch.logaddexp(similarity.logsumexp(dim=1), similarity.logsumexp(dim=0))
        return (normalizer - similarity.diagonal()).mean()


def info_nce(similarity: Tensor) -> Tensor:
    """Symmetric InfoNCE (van den Oord et al., 2018, eq. 4; both directions as in CLIP, Radford et al., 2021, figure 3).

    Args:
        similarity: cosine similarities over the temperature, ``(B, B)``, true pairs on the diagonal.

    Returns:
        Scalar, mean of the two directions, at least float32.
    """
    return mms(similarity, 0.0) / 2


def max_margin(similarity: Tensor, margin: float) -> Tensor:
    """Max-margin ranking loss (Miech et al., HowTo100M, ICCV 2019), both directions.

    Args:
        similarity: ``(B, B)``, true pairs on the diagonal.
        margin: by how much a true pair should beat a false one.

    Returns:
        Scalar, mean over the B (B - 1) false pairs (0 when B is 1), at least float32. The released HowTo100M code takes
        the mean over all B * B entries, the constant diagonal included.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        similarity = full_precision(similarity)
        true, size = similarity.diagonal(), len(similarity)
        costs = F.relu(margin + similarity - true[:, None]) + F.relu(margin + similarity - true[None, :])
        same = torch.eye(size, dtype=torch.bool, device=similarity.device)
        return costs.masked_fill(same, 0.0).sum() / max(size * (size - 1), 1)


def _sum(embeddings: Sequence[Tensor]) -> Tensor:
    """Return the sum of embeddings, each ``(n, D)``, added up in float32 or better and in their own precision."""
    return torch.stack([full_precision(each) for each in embeddings]).sum(dim=0).to(embeddings[0].dtype)


class ContrastiveLoss(nn.Module):
    """The chosen loss for every pair of modalities that are present, as MCN sums it.

    Dot products follow autocast to bfloat16; all else is float32, so that float16 overflows nowhere. On several
    processes, the negatives of a clip are the clips of all.

    Args:
        config: which loss, and its constants.
    """

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        self.config = config
        self.log_temperature: nn.Parameter | None = None
        if config.learn_temperature and config.kind != "none":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    @property
    def learns_temperature(self) -> bool:
        """Whether the temperature is a parameter."""
        return self.log_temperature is not None

    @property
    def temperature(self) -> Tensor | float:
        """What similarities are divided by: a number, or a scalar tensor with gradient when it is learned."""
        if self.log_temperature is None:
            return self.config.temperature
        bounded = self.log_temperature.detach().clamp(min=-math.log(MAX_SCALE))
        # the gradient passes the bound, else a temperature that stepped over it could never come back
        return (bounded + (self.log_temperature - self.log_temperature.detach())).exp()

    def forward(
        self,
        embeddings: dict[str, Tensor],
        counts: Sequence[int] | None = None,
        clusters: Tensor | None = None,
        present: Presence | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of each pair over the clips of all processes, times the weight of the pair.

        Args:
            embeddings: video, audio, text embeddings ``(n, D)`` of this process's clips, of the modalities present; or
                video and audio_text.
            counts: clips of every process from ``distributed.row_counts``, which is asked when they are not given.
            clusters: cluster of each of these clips ``(n,)``, read when clips of one cluster are to be left out; a clip
                with a negative number is in none.
            present: which clips have which embeddings, where some lack one: the loss of a pair is then that of the
                clips that have both, and each of them has the others of these as negatives.

        Returns:
            Scalars named ``text_video``, ``audio_text``, ``audio_video``, ``audio_text_video``, or ``text_video+audio``
            for a sum, of the pairs that are present, in one clip at least, and have a weight; empty for the kind none.
            They are the same on every process, and their gradients the part of the process (see ``distributed``).
        """
        pairs = self.config.weighted_pairs(embeddings)
        if not pairs:
            return {}
        sums = {side for pair in pairs for side in pair if "+" in side}
        embeddings = embeddings | {name: _sum([embeddings[part] for part in name.split("+")]) for name in sums}
        if not self.config.exclude_same_cluster:
            clusters = None
        if present is None:
            values = self._values(embeddings, list(pairs), counts, clusters)
        else:
            values = {}
            for pair in pairs:
                if some := present.having(*parts_of(pair)):
                    both = {name: embeddings[name][some.rows] for name in pair}
                    near = None if clusters is None else clusters[some.rows]
                    values |= self._values(both, [pair], some.counts, near)
        return {"_".join(pair): pairs[pair] * value for pair, value in values.items()}

    def _values(
        self,
        embeddings: dict[str, Tensor],
        pairs: Sequence[tuple[str, str]],
        counts: Sequence[int] | None,
        clusters: Tensor | None,
    ) -> dict[tuple[str, str], Tensor]:
        """Return the loss of each pair over clips that have all of its embeddings."""
        if self.config.normalize or self.config.kind == "info_nce":
            embeddings = {name: F.normalize(full_precision(value), dim=1) for name, value in embeddings.items()}
        own = embeddings[pairs[0][0]]
        if world() == 1 and len(own) <= self.config.tile:
            return {(a, b): self._whole(embeddings[a], embeddings[b], clusters) for a, b in pairs}
        counts = row_counts(len(own), own.device) if counts is None else counts
        return self._tiled(embeddings, pairs, counts, clusters)

    def _whole(self, x: Tensor, y: Tensor, clusters: Tensor | None) -> Tensor:
        """Return the loss of a pair from its whole similarity matrix."""
        precision = product_precision(x, y)
        with torch.autocast(x.device.type, enabled=False):
            similarity = x.to(precision) @ y.to(precision).T
        similarity = full_precision(similarity) / self.temperature
        if clusters is not None:
            same = (clusters[:, None] == clusters) & (clusters >= 0)
            similarity = similarity.masked_fill(same.fill_diagonal_(False), -math.inf)
        if self.config.kind == "mms":
            return mms(similarity, self.config.margin)
        if self.config.kind == "mil_nce":
            return mil_nce(similarity)
        if self.config.kind == "info_nce":
            return info_nce(similarity)
        return max_margin(similarity, self.config.ranking_margin)

    def _tiled(
        self,
        embeddings: dict[str, Tensor],
        pairs: Sequence[tuple[str, str]],
        counts: Sequence[int],
        clusters: Tensor | None,
    ) -> dict[tuple[str, str], Tensor]:
        """Return the loss of each pair from the rows of this process, tile by tile."""
        clusters = None if clusters is None else gather_rows(clusters, counts)
        # once for all pairs; in a fixed order, because all processes take part
        seconds = dict.fromkeys(second for _, second in pairs)
        everyone = {name: gather_summed(full_precision(embeddings[name]), counts) for name in seconds}
        values = {}
        for first, second in pairs:
            x, y = embeddings[first], embeddings[second]
            tiling = Tiling(counts, self.config.tile, product_precision(x, y), clusters)
            x = full_precision(x) / self.temperature
            values[first, second] = self._from_tiles(x, full_precision(y), everyone[second], tiling)
        return values

    def _from_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the loss of own embeddings ``x``, ``own`` ``(n, D)`` against those of all clips ``y`` ``(B, D)``."""
        if self.config.kind == "max_margin":
            true, size = gather_summed((x * own).sum(1), tiling.counts), len(y)
            return hinge(x, y, true, self.config.ranking_margin, tiling) / max(size * (size - 1), 1)
        margin = self.config.margin if self.config.kind == "mms" else 0.0
        row, column, true = normalizers(x, y, margin, tiling)
        if self.config.kind == "mil_nce":
            return (torch.logaddexp(row, column) - true).mean()
        loss = (row + column - 2 * true).mean()
        return loss / 2 if self.config.kind == "info_nce" else loss
