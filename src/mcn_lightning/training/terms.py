"""The loss terms of a step, and their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mcn_lightning.clustering import Clustering, Target
from mcn_lightning.distributed import Presence
from mcn_lightning.losses import ClusterLoss, ContrastiveLoss, LossConfig, reconstruction_loss
from mcn_lightning.models import MCNOutput, NetworkConfig
from mcn_lightning.training.exchange import features_of

Scalars = dict[str, Tensor]


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
    return terms, pairs | {f"rebuild_{name}": value for name, value in rebuilt.items()}


def with_zeros(found: Mapping[str, Tensor], names: Sequence[str], device: torch.device) -> Scalars:
    """Return scalars of given names; zeros for those that are absent.

    Args:
        found: scalars by name.
        names: wanted names, in their order.
        device: of the zeros.
    """
    zero = torch.zeros((), device=device, requires_grad=True)
    return {name: found.get(name, zero) for name in names}


def possible_terms(
    config: LossConfig, network: NetworkConfig, clustering: Clustering | None
) -> tuple[list[str], list[str]]:
    """Return the names of the terms and parts that ``loss_terms`` returns if no embedding is absent everywhere.

    Args:
        config: losses and their weights.
        network: shape of the network.
        clustering: the clustering with its state.
    """
    pairs = ["_".join(pair) for pair in config.contrastive.weighted_pairs(network.embeddings)]
    rebuilt = [f"rebuild_{name}" for name in network.modalities] if network.reconstruction else []
    # k-means of some modalities may have run, and not yet that of others
    clusters = clustering is not None and (clustering.has_centroids or bool(clustering.centroids_by_name()))
    wanted = {"contrastive": pairs, "reconstruction": rebuilt, "cluster": clusters and config.cluster_weight > 0}
    return [name for name, some in wanted.items() if some], pairs + rebuilt
