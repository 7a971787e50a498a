"""Checks of the module before training and on loading a checkpoint, and small repairs of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mcn_lightning.batch import MODALITIES
from mcn_lightning.clustering import ClusteringConfig, Target
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.losses import LossConfig
from mcn_lightning.models import NetworkConfig
from mcn_lightning.models.options import AUDIO_TEXT
from mcn_lightning.models.weights import absent_weights


def check_terms(
    network: NetworkConfig, loss: LossConfig, clustering: ClusteringConfig, clusters: nn.Module | None
) -> None:
    """Refuse loss options that contradict each other, or that leave no loss.

    Args:
        network: shape of the network.
        loss: losses and their weights.
        clustering: options of the clustering.
        clusters: the clustering itself, if there is one.

    Raises:
        InputError: naming the option to change.
    """
    learned = clusters is not None and next(clusters.parameters(), None) is not None
    pairs = loss.contrastive.pairs or loss.contrastive.weighted_pairs(network.embeddings)  # fit checks the first
    alone = len(network.embeddings) < 2  # fit refuses it
    some_loss = alone or pairs or network.reconstruction or (clusters is not None and loss.cluster_weight > 0)
    check_rules(
        (
            learned and loss.cluster_weight == 0,
            "--model.loss.cluster_weight: expected more than 0 for the prototypes of --model.clustering.kind "
            f"{clustering.class_path or clustering.kind}, which learn by it alone, found 0; "
            "set the kind to none for no clusters",
        ),
        (
            loss.contrastive.exclude_same_cluster and clusters is None,
            "--model.loss.contrastive.exclude_same_cluster: expected clusters, found --model.clustering.kind none; "
            "set it to false or choose a kind",
        ),
        (
            not some_loss,
            "--model.loss.contrastive: expected at least one loss, found contrastive (its kind, or every pair that "
            "data.modalities leaves), clustering and reconstruction all off",
        ),
    )


def check_targets(targets: Mapping[str, Target], features: Mapping[str, Tensor], name: str | None) -> None:
    """Refuse targets of a clustering of one's own that do not fit the features; only shapes are read.

    Args:
        targets: what the clustering gave.
        features: what it gave them for, ``(n, D)`` by name.
        name: class path of the clustering; ``None`` for a built-in one.

    Raises:
        InputError: naming the first target that does not fit.
    """
    if name is None:
        return
    for feature, target in targets.items():
        if fault := _target_fault(feature, target, features):
            raise InputError(f"--model.clustering: {name}.targets: {feature}: expected {fault}")


def _target_fault(feature: str, target: object, features: Mapping[str, Tensor]) -> str:
    """Return what was expected of a target and what was found; "" if it fits."""
    if feature not in features or not isinstance(target, Target):
        return f"a Target for some of {', '.join(features)}, found a {type(target).__name__}"
    rows = len(features[feature] if target.some is None else target.some.rows)
    width, shape, codes = features[feature].shape[1], tuple(target.prototypes.shape), tuple(target.codes.shape)
    if len(shape) != 2 or shape[1] != width:
        return f"prototypes (K, {width}), found {shape}"
    if codes not in ((rows,), (rows, shape[0])):
        return f"codes ({rows},) or ({rows}, {shape[0]}), found {codes}"
    return ""


def check_trainable(network: NetworkConfig, loss: LossConfig) -> None:
    """Refuse to train a network of one embedding, or with pairs of embeddings that it lacks.

    Args:
        network: shape of the network.
        loss: losses and their weights.

    Raises:
        InputError: naming the option to change.
    """
    if len(network.embeddings) < 2:
        wanted = f"two or three of {', '.join(MODALITIES)} to train with"
        raise InputError(f"--data.modalities: expected {wanted}, found {list(network.modalities)}; add one")
    loss.contrastive.check_pairs(network.embeddings)


def mark_epoch_unfinished(loop: Mapping[str, Any]) -> None:
    """Mark an epoch that max_steps or max_time cut short as unfinished.

    Lightning counts it as done, and a resumed run would skip the rest of it.

    Args:
        loop: state of the fit loop in a checkpoint; changed in place.
    """
    batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]["current"]
    if batches["current"]["processed"] and not batches["is_last_batch"]:
        # Lightning starts the epoch after the one that is processed
        epochs["processed"] = min(epochs["processed"], epochs["ready"] - 1)


def check_sizes(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose weights have other names or shapes than the module.

    Args:
        own: state dict of the module.
        saved: state dict of the checkpoint.

    Raises:
        InputError: naming the first weight that differs.
    """
    # sorted: all processes and all runs name the same weight
    for name in sorted({*own, *saved}):
        expected, found = _shape_of(name, own), _shape_of(name, saved)
        if expected != found:
            advice = "use the options saved beside it (config.yaml, or what convert wrote)"
            raise InputError(f"--ckpt_path: {name}: expected {expected}, found {found} in the checkpoint; {advice}")


def _shape_of(name: str, state: Mapping[str, Tensor]) -> str:
    """Return the shape of a weight, as part of a sentence."""
    return f"{tuple(state[name].shape) or 'a scalar'}" if name in state else "no such weight"


def drop_absent_weights(state: Mapping[str, Tensor], network: NetworkConfig) -> dict[str, Tensor]:
    """Return the weights of a checkpoint without those of modalities that the network lacks.

    Args:
        state: state dict of the checkpoint.
        network: shape of the network.
    """
    # k-means of a modality has a queue and centroids of its own
    absent = [f"network.{start}" for start in absent_weights(network)]
    absent += [f"clustering.of.{name}." for name in (*MODALITIES, AUDIO_TEXT) if name not in network.embeddings]
    return {name: value for name, value in state.items() if not name.startswith(tuple(absent))}
