"""The base class of contrastive losses: pairs and weights, temperature, missing modalities, several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcn_lightning.distributed import Presence, gather_rows, gather_summed, row_counts, world_size
from mcn_lightning.errors import InputError
from mcn_lightning.losses.pairs import MAX_SCALE, ContrastiveConfig, parts_of
from mcn_lightning.losses.products import dot_products
from mcn_lightning.losses.tiled import Tiling, full_precision, product_precision

Pair = tuple[str, str]


def _sum(embeddings: Sequence[Tensor]) -> Tensor:
    """Return the sum of embeddings, each ``(n, D)``, computed in float32 or better and returned in their precision."""
    return torch.stack([full_precision(embedding) for embedding in embeddings]).sum(dim=0).to(embeddings[0].dtype)


def _gather(embedding: Tensor, counts: Sequence[int], rounds: bool = True) -> Tensor:
    """Gather an embedding ``(n, D)`` of all processes, ``(B, D)`` at least float32.

    Args:
        embedding: of this process's clips.
        counts: clips of each process.
        rounds: whether only products of it follow, so that it travels in their precision.
    """
    return gather_summed(full_precision(embedding), counts, product_precision(embedding, embedding) if rounds else None)


def _share_gradient(value: Tensor) -> Tensor:
    """Return a loss that every process has computed, with 1 / world size of its gradient: the parts sum to it."""
    if world_size() == 1:
        return value
    part = value / world_size()
    return part + (value - part).detach()


class ContrastiveLoss(nn.Module):
    """A contrastive loss between the modalities of a clip, with the other clips of the batch as negatives.

    A custom loss derives from this class and implements ``of_similarity``, or ``of_pair`` if it needs more than the
    similarity matrix. Its parameters and buffers are trained and saved. The options of ``ContrastiveConfig`` apply to
    it: pairs and their weights, temperature, ``normalize``, ``exclude_same_cluster``.

    With several processes it gets the clips of all, and every process computes the whole loss. If clips lack a
    modality, it gets the clips that have both sides of the pair.

    Args:
        config: the options. Arguments from ``init_args`` follow by name.
    """

    unit_length: ClassVar[bool] = False
    """Whether embeddings are always scaled to length 1, whatever ``normalize`` is."""

    def __init__(self, config: ContrastiveConfig) -> None:
        super().__init__()
        kind, base = type(self), ContrastiveLoss
        # no abstract methods: a loss needs only one of the two
        if kind.of_similarity is base.of_similarity and kind.of_pair is base.of_pair:
            wanted = f"{kind.__name__} to have the method of_similarity or of_pair"
            raise InputError(f"{config.option}: expected {wanted}, found none; write one")
        self.config = config
        self.log_temperature: nn.Parameter | None = None
        if config.learn_temperature:
            # its logarithm, as in CLIP: so steps are relative and the temperature stays above 0
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    def of_similarity(self, similarity: Tensor) -> Tensor:
        """Return the loss of one pair of modalities, a scalar.

        Args:
            similarity: dot products over the temperature ``(B, B)``, at least float32; row i and column i are clip i.
                Pairs that ``exclude_same_cluster`` excludes are ``-inf``.
        """
        raise NotImplementedError

    def of_pair(self, x: Tensor, y: Tensor, clusters: Tensor | None) -> Tensor:
        """Return the loss of one pair of modalities, a scalar.

        Args:
            x: embeddings of the first modality ``(B, D)``.
            y: embeddings of the second modality ``(B, D)``.
            clusters: cluster of each clip ``(B,)``, -1 for none; ``None`` without ``exclude_same_cluster``.
        """
        return self.of_similarity(self.similarity(x, y, clusters))

    def similarity(self, x: Tensor, y: Tensor, clusters: Tensor | None = None) -> Tensor:
        """Return dot products over the temperature ``(B, B)``, ``-inf`` between different clips of one cluster."""
        similarity = dot_products(x, y, product_precision(x, y)) / self.temperature
        if clusters is not None:
            # clips without a cluster are negative numbers, which would match each other
            same = (clusters[:, None] == clusters) & (clusters >= 0)
            similarity = similarity.masked_fill(same.fill_diagonal_(False), -math.inf)
        return similarity

    @property
    def learns_temperature(self) -> bool:
        """Whether the temperature is a parameter."""
        return self.log_temperature is not None

    @property
    def temperature(self) -> Tensor | float:
        """Divisor of the similarities: a number, or a scalar tensor with gradient if it is learned."""
        if self.log_temperature is None:
            return self.config.temperature
        bounded = self.log_temperature.detach().clamp(min=-math.log(MAX_SCALE))
        # the gradient passes the bound: otherwise a temperature below it would get no gradient and stay there
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
            embeddings: video, audio, text embeddings ``(n, D)`` of this process's clips, as far as they exist; or
                video and audio_text.
            counts: clips of each process; by default from ``distributed.row_counts``.
            clusters: cluster of each of these clips ``(n,)``, used with ``exclude_same_cluster``; negative for none.
            present: which clips have which embeddings, if some lack one. The loss of a pair is then over the clips that
                have both. Their negatives are the others of these clips.

        Returns:
            Scalars named ``text_video``, ``audio_text``, ``audio_video``, ``audio_text_video``, or ``text_video+audio``
            for a sum. They are of the pairs with a weight that at least one clip has. The values are the same on every
            process; the gradients are the part of the process (see ``distributed``).
        """
        pairs = self.config.weighted_pairs(embeddings)
        if not pairs:
            return {}
        # before scaling to length 1, so that the length of each part is its weight in the sum
        sums = {side for pair in pairs for side in pair if "+" in side}
        # not `|`: torch 2.4 would compile two graphs
        embeddings = {**embeddings, **{name: _sum([embeddings[part] for part in name.split("+")]) for name in sums}}
        if not self.config.exclude_same_cluster:
            clusters = None
        if present is None:
            values = self._values(embeddings, list(pairs), counts, clusters)
        else:
            values = {}
            for pair in pairs:
                # pair by pair, as each pair has other clips; a pair that no process has is left out everywhere
                if some := present.having(*parts_of(pair)):
                    both = {name: embeddings[name][some.rows] for name in pair}
                    near = None if clusters is None else clusters[some.rows]
                    values |= self._values(both, [pair], some.counts, near)
        return {"_".join(pair): pairs[pair] * value for pair, value in values.items()}

    def _values(
        self,
        embeddings: dict[str, Tensor],
        pairs: Sequence[Pair],
        counts: Sequence[int] | None,
        clusters: Tensor | None,
    ) -> dict[Pair, Tensor]:
        """Return the loss of each pair over clips that have all of its embeddings."""
        embeddings = self._scaled(embeddings)
        if world_size() > 1:
            counts = (
                row_counts(len(embeddings[pairs[0][0]]), embeddings[pairs[0][0]].device) if counts is None else counts
            )
            names = dict.fromkeys(name for pair in pairs for name in pair)  # one order on all processes
            # a class with its own `of_pair` may do more than the products, which round to this precision anyway
            rounds = type(self).of_pair is ContrastiveLoss.of_pair
            embeddings = {name: _gather(embeddings[name], counts, rounds) for name in names}
            clusters = None if clusters is None else gather_rows(clusters, counts)
        return {
            (a, b): _share_gradient(self._scalar(self.of_pair(embeddings[a], embeddings[b], clusters)))
            for a, b in pairs
        }

    def _scalar(self, value: Tensor) -> Tensor:
        """Return the loss of a pair, which must be a scalar."""
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        if found != "shape ()":
            wanted = f"a scalar from {type(self).__name__}"
            raise InputError(f"{self.config.option}: expected {wanted}, found {found}; return the mean")
        return value

    def _scaled(self, embeddings: dict[str, Tensor]) -> dict[str, Tensor]:
        if not (self.config.normalize or self.unit_length):
            return embeddings
        return {name: F.normalize(full_precision(value), dim=1) for name, value in embeddings.items()}


class TiledContrastiveLoss(ContrastiveLoss):
    """A contrastive loss that computes the similarity matrix of a large batch in tiles, and never holds it whole.

    On one process, a batch of up to ``config.tile`` clips is computed at once by ``of_similarity``. Under
    bfloat16 autocast the factors of dot products are bfloat16. All else is float32, as float16 would overflow.
    """

    def of_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the loss of one pair over the clips of all processes, a scalar with this process's gradient.

        Args:
            x: this process's embeddings of the first modality over the temperature ``(n, D)``.
            own: this process's embeddings of the second modality ``(n, D)``.
            y: embeddings of the second modality of all clips ``(B, D)``, from ``gather_summed``.
            tiling: size of the tiles; see ``losses.tiled``.
        """
        raise NotImplementedError

    def _values(
        self,
        embeddings: dict[str, Tensor],
        pairs: Sequence[Pair],
        counts: Sequence[int] | None,
        clusters: Tensor | None,
    ) -> dict[Pair, Tensor]:
        own = embeddings[pairs[0][0]]
        # a small matrix is cheaper at once: tiles compute each similarity a second time in the backward pass
        if world_size() == 1 and len(own) <= self.config.tile:
            return super()._values(embeddings, pairs, counts, clusters)
        embeddings = self._scaled(embeddings)
        counts = row_counts(len(own), own.device) if counts is None else counts
        clusters = None if clusters is None else gather_rows(clusters, counts)
        # gathered once for all pairs, in the same order on all processes
        seconds = dict.fromkeys(second for _, second in pairs)
        gathered = {name: _gather(embeddings[name], counts) for name in seconds}
        values = {}
        for first, second in pairs:
            x, y = embeddings[first], embeddings[second]
            tiling = Tiling(counts, self.config.tile, product_precision(x, y), clusters)
            # one side is scaled instead of each tile, and the temperature gets its gradient here
            x = full_precision(x) / self.temperature
            values[first, second] = self._scalar(self.of_tiles(x, full_precision(y), gathered[second], tiling))
        return values
