"""Metrics of action recognition without training on the classes: by class names, or by the nearest training clips.

Letters: N clips, C classes, M training clips, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mcn_lightning.metrics.checks import check_arrays, check_values
from mcn_lightning.metrics.ties import (
    best_of_group,
    check_embeddings,
    check_ks,
    distinct_rows,
    dot_products,
    expected_hits,
    rows_at_once,
)
from mcn_lightning.options.ranges import PositiveInt, checked


@torch.no_grad()
def class_metrics(scores: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """Compute top-k accuracy from scores of the classes. Ties count with their expected value.

    For zero-shot recognition the scores are dot products of clips with embedded class names (UCF101, HMDB51). A clip
    counts with the probability that its class is among the first k, if classes that tie are put in random order. So a
    constant score gives chance, ``k / C``. ``MulticlassAccuracy`` of torchmetrics orders classes that tie by their
    index. There a constant score gets all clips of class 0 right and no others.

    Args:
        scores: of the classes, higher is better, ``(N, C)``. Classes tie where their scores are equal to the last bit.
        labels: true class of each clip, ``(N,)`` int64.
        ks: cut-offs.

    Returns:
        ``top<k>`` for each k, 0-d; ``per_class``, top-1 of the clips of each class, ``(C,)``, NaN for a class without
        clips; ``mean_class``, 0-d, the mean of these over the classes that have clips. Float32, in per cent.

    Raises:
        ValueError: if the shapes do not fit, or there is no clip or class. Also if a label is no class, a score is not
            finite, or a cut-off is below 1.
    """
    check_ks(ks)
    check_arrays(scores=(scores, "(N, C)"), labels=(labels, "(N,) int64"))
    _check_labels("labels", labels, scores.shape[1])
    check_values("scores", scores.isfinite(), "finite numbers", scores)
    return _summary(expected_hits(scores, labels, [1, *ks]), labels, scores.shape[1], ks)


@torch.no_grad()
def neighbour_metrics(
    queries: Tensor,
    labels: Tensor,
    train: Tensor,
    train_labels: Tensor,
    ks: Sequence[int] = (1, 5),
    chunk: int = 1024,
    similarity: Literal["cosine", "dot"] = "cosine",
) -> dict[str, Tensor]:
    """Compute top-k accuracy by the nearest training clips, found by cosine or by dot product.

    A hit at k is a clip of the true class among the k nearest training clips, as in retrieval: the neighbours do not
    vote. A clip counts with the probability of a hit, if training clips that tie are put in random order. So a constant
    embedding gets no more than chance. Equal training rows tie exactly. An embedding of zeros has cosine 0 to all.

    The working memory is bounded: ``4 * chunk * M`` numbers, never more than 2**26 (256 MB in float32), and a copy of
    the training embeddings.

    Args:
        queries: embeddings of the clips to recognise, ``(N, D)``.
        labels: their true classes, ``(N,)`` int64.
        train: embeddings of the training clips, ``(M, D)``.
        train_labels: their classes, ``(M,)`` int64.
        ks: cut-offs.
        chunk: most clips compared at a time.
        similarity: cosine, or dot for the dot product, by which the released evaluation finds neighbours. A training
            clip with a long embedding is then near many clips.

    Returns:
        Metrics as of `class_metrics`, where the number of classes is the highest label plus 1. A clip whose class has
        no training clip is a miss.

    Raises:
        ValueError: if the shapes do not fit, or there is no clip to compare. Also if a label is negative, an embedding
            is not finite, or a cut-off is below 1.
    """
    check_ks(ks)
    check_embeddings(queries, train)
    check_arrays(queries=(queries, "(N, D)"), labels=(labels, "(N,) int64"))
    check_arrays(train=(train, "(M, D)"), train_labels=(train_labels, "(M,) int64"))
    checked(PositiveInt, chunk, "chunk")
    count = 1 + int(torch.maximum(labels.max(), train_labels.max()))
    for name, classes in (("labels", labels), ("train_labels", train_labels)):
        _check_labels(name, classes, count)
    dtype = torch.promote_types(torch.promote_types(queries.dtype, train.dtype), torch.float32)
    # equal rows are merged before they are scaled: rounding in scaling or scoring could make them differ
    rows, column, _ = distinct_rows(train.to(dtype))
    scale = _unit_length if similarity == "cosine" else torch.Tensor.contiguous
    rows = scale(rows)
    size = rows_at_once(chunk, 4 * len(train))
    hits = []
    for part, own in zip(queries.split(size), labels.split(size), strict=True):
        scores = dot_products(scale(part.to(dtype)), rows)[:, column]
        higher, tied, own_tied = best_of_group(scores, own[:, None] == train_labels)
        hits.append(_hits_of_first(higher, tied, own_tied, [1, *ks]))
    return _summary(torch.cat(hits), labels, count, ks)


def _unit_length(rows: Tensor) -> Tensor:
    """Scale ``(B, D)`` to length 1, first to a largest entry of 1: so no square overflows or underflows."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    return F.normalize(rows / torch.where(largest > 0, largest, 1), dim=1)


def _hits_of_first(higher: Tensor, tied: Tensor, own_tied: Tensor, ks: Sequence[int]) -> Tensor:
    """Return the probability that one of ``own_tied`` candidates among the ``tied`` is at rank k or before.

    The complement is that candidates of others fill all j = 0, 1, ... of the remaining ranks. Its probability is
    ``prod_j (tied - own_tied - j) / (tied - j)``. The result is ``(B, K)`` float64.
    """
    missed = torch.ones(len(higher), dtype=torch.float64, device=higher.device)
    at_place = [missed]
    # float64: a product of up to k factors is subtracted from 1
    others, candidates = (tied - own_tied).double(), tied.double()
    for rank in range(max(ks)):
        taken = rank - higher  # places that candidates with the tied score have taken before this one
        # candidates scored higher fill the first places, and no candidate is left after the last
        open_place = (taken >= 0) & (taken < tied)
        factor = (others - taken).clamp(min=0) / (candidates - taken).clamp(min=1)
        missed = torch.where(open_place, missed * factor, missed)
        at_place.append(missed)
    found = own_tied > 0
    return torch.stack([(1 - at_place[k]) * found for k in ks], dim=1)


def _check_labels(name: str, labels: Tensor, classes: int) -> None:
    check_values(name, (labels >= 0) & (labels < classes), f"classes from 0 to {classes - 1}", labels)


def _summary(hits: Tensor, labels: Tensor, classes: int, ks: Sequence[int]) -> dict[str, Tensor]:
    """Average hits ``(N, 1 + K)`` at 1 and at each k over clips and over classes."""
    clips = torch.bincount(labels, minlength=classes)
    # a class without clips gives 0 / 0, which is NaN as promised
    per_class = 100 * torch.bincount(labels, weights=hits[:, 0], minlength=classes) / clips
    means = 100 * hits.mean(dim=0)
    result = {f"top{k}": means[1 + position] for position, k in enumerate(ks)}
    result |= {"per_class": per_class, "mean_class": per_class[clips > 0].mean()}
    return {name: value.float() for name, value in result.items()}
