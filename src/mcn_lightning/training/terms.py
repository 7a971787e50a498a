"""The loss terms of a step, and their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mcn_lightning.clustering import Clustering, Target
from mcn_lightning.compiling import Compiler
from mcn_lightning.distributed import Presence, has_groups, world_size
from mcn_lightning.losses import ClusterLoss, ContrastiveLoss, LossConfig, reconstruction_loss
from mcn_lightning.models import MCNOutput, NetworkConfig
from mcn_lightning.training.exchange import features_of

Scalars = dict[str, Tensor]
Losses = tuple[LossConfig, ContrastiveLoss | None, ClusterLoss]
Clips = tuple[MCNOutput, Mapping[str, Target], Tensor | None, Sequence[int], Presence | None]
"""Output, targets, clusters, counts and presence: what the losses take of a step."""


def loss_terms(
    config: LossConfig,
    contrastive: ContrastiveLoss | None,
    cluster_loss: ClusterLoss,
    output: MCNOutput,
    targets: Mapping[str, Target],
    clusters: Tensor | None,
    counts: Sequence[int],
    present: Presence | None,
) -> tuple[Scalars, Scalars]:
    """Return the weighted terms whose sum is the loss, and the parts of contrastive and reconstruction terms.

    Args:
        config: weights of the terms.
        contrastive: contrastive loss, if there is one.
        cluster_loss: clustering loss.
        output: embeddings and reconstructions of this process's clips.
        targets: see ``Clustering.targets``.
        clusters: cluster of each of these clips ``(n,)``, if clips of one cluster are no negatives.
        counts: clips of each process.
        present: which clips have which embeddings, if some lack one.
    """
    terms: Scalars = {}
    if not sum(counts):  # a group of devices without clips
        return {}, {}
    pairs = {} if contrastive is None else contrastive(output.embeddings(), counts, clusters, present)
    rebuilt = reconstruction_loss(output.reconstructions, output.targets, config.detach_targets, counts, present)
    if pairs:
        terms["contrastive"] = config.contrastive_weight * torch.stack(list(pairs.values())).sum()
    if rebuilt:
        terms["reconstruction"] = config.reconstruction_weight * torch.stack(list(rebuilt.values())).sum()
    if targets and config.cluster_weight > 0:
        terms["cluster"] = config.cluster_weight * cluster_loss(features_of(output), targets, counts)
    return terms, {**pairs, **{f"rebuild_{name}": value for name, value in rebuilt.items()}}


def terms_of_step(compiler: Compiler | None, losses: Losses, clips: Clips) -> tuple[Scalars, Scalars]:
    """Return the result of ``loss_terms``, compiled where this is of use.

    That is on one process, as several exchange embeddings inside the losses, and for batches of the usual size, as
    every size has its own tiles. Batches of another size, or with clips that lack a modality, are not compiled.

    Args:
        compiler: that of the network, if there is one.
        losses: the first arguments of ``loss_terms``.
        clips: the others.
    """
    output, targets, clusters, counts, present = clips
    given = (*losses, *clips)
    if compiler is None or present is not None or world_size() > 1 or not compiler.is_usual(counts[0]):
        return loss_terms(*given)
    named = (output.embeddings(), output.targets, output.reconstructions)
    rows = [value for values in named for value in values.values()] + [target.codes for target in targets.values()]
    found = compiler.call(loss_terms, *given, free=rows if clusters is None else [*rows, clusters], usual=True)
    # copies: a CUDA graph writes its results to the same memory in every step, and loggers read them later
    terms, parts = ({name: value.clone() for name, value in values.items()} for values in found)
    return terms, parts


def with_all_names(
    terms: Scalars,
    parts: Scalars,
    config: LossConfig,
    network: NetworkConfig,
    clustering: Clustering | None,
    device: torch.device,
) -> tuple[Scalars, Scalars]:
    """Return terms and parts with the same names on all devices, zeros for those that this group lacks.

    A group of devices may lack a modality, or clips, that another one has.

    Args:
        terms: result of ``loss_terms``.
        parts: result of ``loss_terms``.
        config: losses and their weights.
        network: shape of the network.
        clustering: the clustering with its state.
        device: of the zeros.
    """
    if not has_groups():
        return terms, parts
    zero = torch.zeros((), device=device, requires_grad=True)
    pairs = ["_".join(pair) for pair in config.contrastive.weighted_pairs(network.embeddings)]
    rebuilt = [f"rebuild_{name}" for name in network.modalities] if network.reconstruction else []
    # k-means of some modalities may have run, and not yet that of others
    clusters = clustering is not None and (clustering.has_centroids or bool(clustering.centroids_by_name()))
    wanted = {"contrastive": pairs, "reconstruction": rebuilt, "cluster": clusters and config.cluster_weight > 0}
    found = {name: terms.get(name, zero) for name, some in wanted.items() if some}
    return found, {name: parts.get(name, zero) for name in pairs + rebuilt}
