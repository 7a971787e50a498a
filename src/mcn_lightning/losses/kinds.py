"""The built-in contrastive losses: functions of a similarity matrix, and the class of each kind."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mcn_lightning.distributed import gather_summed
from mcn_lightning.losses.contrastive import ContrastiveLoss, TiledContrastiveLoss
from mcn_lightning.losses.pairs import ContrastiveConfig
from mcn_lightning.losses.tiled import Tiling, full_precision, hinge, normalizers


def mms(similarity: Tensor, margin: float) -> Tensor:
    """Masked margin softmax (Ilharco, Zhang and Baldridge, 2019), the contrastive loss of MCN.

    Cross-entropy of each row of ``S - margin * I`` against its diagonal plus the same for each column. As in the
    released code of MCN, every other clip of the batch is a negative, those of the same video included.

    Args:
        similarity: ``(B, B)``, true pairs on the diagonal.
        margin: subtracted from the diagonal.

    Returns:
        Scalar: row mean plus column mean, at least float32.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        similarity = full_precision(similarity)
        shifted = similarity - margin * torch.eye(len(similarity), dtype=similarity.dtype, device=similarity.device)
        # both directions share the diagonal, hence the factor 2 below
        normalizers = shifted.logsumexp(dim=1) + shifted.logsumexp(dim=0)
        return (normalizers - 2 * shifted.diagonal()).mean()


def mil_nce(similarity: Tensor) -> Tensor:
    """MIL-NCE with one positive per clip (Miech et al., CVPR 2020, eq. 1).

    One log-sum-exp over row i and column i together. It contains the true pair twice, as in the authors' released code.

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
        margin: required difference between a true and a false pair.

    Returns:
        Scalar, mean over the B (B - 1) false pairs (0 if B is 1), at least float32. The released HowTo100M code takes
        the mean over all B * B entries, with the constant diagonal.
    """
    with torch.autocast(similarity.device.type, enabled=False):
        similarity = full_precision(similarity)
        true, size = similarity.diagonal(), len(similarity)
        costs = F.relu(margin + similarity - true[:, None]) + F.relu(margin + similarity - true[None, :])
        same = torch.eye(size, dtype=torch.bool, device=similarity.device)
        # the diagonal is the margin itself: a constant without gradient
        return costs.masked_fill(same, 0.0).sum() / max(size * (size - 1), 1)


class MMS(TiledContrastiveLoss):
    """Masked margin softmax; see ``mms``."""

    def of_similarity(self, similarity: Tensor) -> Tensor:
        """Return the loss of similarities ``(B, B)``, a scalar."""
        return mms(similarity, self.config.margin)

    def of_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the same loss tile by tile; see ``TiledContrastiveLoss``."""
        row, column, true = normalizers(x, y, self.config.margin, tiling)
        return (row + column - 2 * true).mean()


class MILNCE(TiledContrastiveLoss):
    """MIL-NCE; see ``mil_nce``."""

    def of_similarity(self, similarity: Tensor) -> Tensor:
        """Return the loss of similarities ``(B, B)``, a scalar."""
        return mil_nce(similarity)

    def of_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the same loss tile by tile; see ``TiledContrastiveLoss``."""
        row, column, true = normalizers(x, y, 0.0, tiling)
        return (torch.logaddexp(row, column) - true).mean()


class InfoNCE(TiledContrastiveLoss):
    """Symmetric InfoNCE on embeddings of length 1; see ``info_nce``."""

    unit_length = True

    def of_similarity(self, similarity: Tensor) -> Tensor:
        """Return the loss of similarities ``(B, B)``, a scalar."""
        return info_nce(similarity)

    def of_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the same loss tile by tile; see ``TiledContrastiveLoss``."""
        row, column, true = normalizers(x, y, 0.0, tiling)
        return (row + column - 2 * true).mean() / 2


class MaxMargin(TiledContrastiveLoss):
    """Max-margin ranking; see ``max_margin``."""

    def of_similarity(self, similarity: Tensor) -> Tensor:
        """Return the loss of similarities ``(B, B)``, a scalar."""
        return max_margin(similarity, self.config.ranking_margin)

    def of_tiles(self, x: Tensor, own: Tensor, y: Tensor, tiling: Tiling) -> Tensor:
        """Return the same loss tile by tile; see ``TiledContrastiveLoss``."""
        true, size = gather_summed((x * own).sum(1), tiling.counts), len(y)
        return hinge(x, y, true, self.config.ranking_margin, tiling) / max(size * (size - 1), 1)


KINDS: dict[str, type[ContrastiveLoss]] = {"mms": MMS, "mil_nce": MILNCE, "info_nce": InfoNCE, "max_margin": MaxMargin}
"""The class of each kind except none."""


def make_contrastive(config: ContrastiveConfig) -> ContrastiveLoss | None:
    """Make the contrastive loss that the options name; ``None`` for the kind none.

    Args:
        config: options with the kind, or the path of a custom class.

    Raises:
        InputError: if a custom class cannot be imported or made.
    """
    found = config.find(ContrastiveLoss, KINDS.get(config.kind))
    return None if found is None else config.make(found, config=config)
