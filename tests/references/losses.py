"""The losses of MCN (Chen et al. 2021, arXiv 2104.12671) and their alternatives, one element at a time.

Sums run over Python loops of 0-d tensors, so that autograd gives reference gradients as well. Pass float64.
Letters: B clips, D joint width, K clusters. Every function returns a 0-d tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the products of two vectors."""
    return torch.stack([x * y for x, y in zip(a, b, strict=True)]).sum()


def log_sum_exp(values: Sequence[Tensor]) -> Tensor:
    """log(sum(exp(v))) with the largest value taken out (the result does not depend on it)."""
    largest = max(float(v.detach()) for v in values)
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + torch.exp(value - largest)
    return largest + torch.log(total)


def similarity(x: Tensor, y: Tensor) -> list[list[Tensor]]:
    """S[i][j] = x_i . y_j for rows (B, D) and (B, D)."""
    return [[dot(row, column) for column in y] for row in x]


def mean(values: Sequence[Tensor]) -> Tensor:
    """Arithmetic mean of 0-d tensors."""
    total = torch.zeros_like(values[0])
    for value in values:
        total = total + value
    return total / len(values)


def compared(i: int, count: int, clusters: Sequence[int] | None) -> list[int]:
    """The clips that clip i is compared with: all, or without the other clips of its cluster."""
    return [j for j in range(count) if clusters is None or i == j or clusters[i] != clusters[j]]


def mms(x: Tensor, y: Tensor, margin: float = 0.001, clusters: Sequence[int] | None = None) -> Tensor:
    """Masked margin softmax (Ilharco et al. 2019): row plus column cross-entropy of S - margin I, means over B."""
    s = similarity(x, y)
    count = len(s)
    for i in range(count):
        s[i][i] = s[i][i] - margin
    rows = [log_sum_exp([s[i][j] for j in compared(i, count, clusters)]) - s[i][i] for i in range(count)]
    columns = [log_sum_exp([s[i][j] for i in compared(j, count, clusters)]) - s[j][j] for j in range(count)]
    return mean(rows) + mean(columns)


def mil_nce(x: Tensor, y: Tensor, clusters: Sequence[int] | None = None) -> Tensor:
    """MIL-NCE (Miech et al. 2020) with one positive a clip.

    The denominator is one sum over row i and column i together, so that the pair (i, i) stands in it twice.
    """
    s = similarity(x, y)
    count = len(s)
    terms = []
    for i in range(count):
        row = [s[i][j] for j in compared(i, count, clusters)]
        column = [s[j][i] for j in compared(i, count, clusters)]
        terms.append(log_sum_exp(row + column) - s[i][i])
    return mean(terms)


def info_nce(x: Tensor, y: Tensor, temperature: float | Tensor, clusters: Sequence[int] | None = None) -> Tensor:
    """Symmetric InfoNCE on L2-normalised rows: mean of the two directions."""
    x = torch.stack([row / torch.sqrt(dot(row, row)) for row in x])
    y = torch.stack([row / torch.sqrt(dot(row, row)) for row in y])
    s = [[value / temperature for value in row] for row in similarity(x, y)]
    count = len(s)
    rows = [log_sum_exp([s[i][j] for j in compared(i, count, clusters)]) - s[i][i] for i in range(count)]
    columns = [log_sum_exp([s[i][j] for i in compared(j, count, clusters)]) - s[j][j] for j in range(count)]
    return (mean(rows) + mean(columns)) / 2


def max_margin(x: Tensor, y: Tensor, margin: float, clusters: Sequence[int] | None = None) -> Tensor:
    """Max-margin ranking (Miech et al. 2019): both directions summed, mean over the B (B - 1) off-diagonal pairs.

    Pairs of one cluster cost nothing and are counted in the mean.
    """
    s = similarity(x, y)
    count = len(s)
    terms = []
    for i in range(count):
        for j in range(count):
            if i != j:
                row = torch.clamp(margin + s[i][j] - s[i][i], min=0)
                column = torch.clamp(margin + s[i][j] - s[j][j], min=0)
                terms.append((row + column) * (j in compared(i, count, clusters)))
    return mean(terms)


def contrastive(video: Tensor, audio: Tensor, text: Tensor, margin: float = 0.001) -> Tensor:
    """MCN: MMS(text, video) + MMS(audio, text) + MMS(audio, video)."""
    return mms(text, video, margin) + mms(audio, text, margin) + mms(audio, video, margin)


def cluster_contrast(x: Tensor, labels: Tensor, centroids: Tensor, margin: float = 0.001) -> Tensor:
    """MCN: cross-entropy of X C^T - margin onehot(y) against y; rows (B, D), labels (B,), centroids (K, D)."""
    terms = []
    for row, label in zip(x, labels.tolist(), strict=True):
        logits = [dot(row, centroid) for centroid in centroids]
        logits[label] = logits[label] - margin
        terms.append(log_sum_exp(logits) - logits[label])
    return mean(terms)


def cluster(modalities: Sequence[Tensor], labels: Tensor, centroids: Tensor, margin: float = 0.001) -> Tensor:
    """MCN: mean of `cluster_contrast` over the modalities."""
    return mean([cluster_contrast(x, labels, centroids, margin) for x in modalities])


def reconstruction(predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """MCN: mean over B of the sum over modalities of the squared error averaged over features."""
    names = list(predictions)
    per_clip = []
    for clip in range(len(predictions[names[0]])):
        total = torch.zeros_like(predictions[names[0]][clip, 0])
        for name in names:
            squares = [(p - t) ** 2 for p, t in zip(predictions[name][clip], targets[name][clip], strict=True)]
            total = total + mean(squares)
        per_clip.append(total)
    return mean(per_clip)


def total(
    contrastive_loss: Tensor,
    cluster_loss: Tensor,
    reconstruction_loss: Tensor,
    cluster_weight: float = 1.0,
    reconstruction_weight: float = 50.0,
) -> Tensor:
    """MCN: the weighted sum of the three terms."""
    return contrastive_loss + cluster_weight * cluster_loss + reconstruction_weight * reconstruction_loss


def having(*modalities: Sequence[Tensor | None]) -> list[int]:
    """The clips that have all of these modalities; a clip without one has None there."""
    return [i for i in range(len(modalities[0])) if all(modality[i] is not None for modality in modalities)]


def of_present(loss: Callable[..., Tensor], *modalities: Sequence[Tensor | None]) -> Tensor | None:
    """A loss over the clips that have all of its modalities; None where there is no such clip."""
    clips = having(*modalities)
    if not clips:
        return None
    return loss(*(torch.stack([modality[i] for i in clips]) for modality in modalities))


def fused(*modalities: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mean m of each clip over the modalities that it has; None for a clip that has none."""
    means: list[Tensor | None] = []
    for i in range(len(modalities[0])):
        there = [modality[i] for modality in modalities if modality[i] is not None]
        means.append(torch.stack(there).sum(dim=0) / len(there) if there else None)
    return means


def cluster_of_present(
    modalities: Sequence[Sequence[Tensor | None]], labels: Sequence[int], centroids: Tensor, margin: float = 0.001
) -> Tensor:
    """MCN: mean of `cluster_contrast` over the modalities, each over the clips that have it."""
    terms = []
    for modality in modalities:
        if clips := having(modality):
            x, y = torch.stack([modality[i] for i in clips]), torch.tensor([labels[i] for i in clips])
            terms.append(cluster_contrast(x, y, centroids, margin))
    return mean(terms)
