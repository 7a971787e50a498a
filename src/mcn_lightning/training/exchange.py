"""What a training step needs of its clips: features to cluster, and how many clips each process has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcn_lightning.batch import MODALITIES, ClipBatch
from mcn_lightning.clustering import MEAN
from mcn_lightning.distributed import Presence, gather_integers
from mcn_lightning.errors import InputError
from mcn_lightning.models import MCNOutput, NetworkConfig
from mcn_lightning.models.options import AUDIO_TEXT


def masks_of(output: MCNOutput) -> dict[str, Tensor] | None:
    """Return which clips have each feature that can be clustered, ``(B,)`` bool by name; ``None`` if all do."""
    some = output.has_any()
    return None if output.present is None or some is None else {**output.present, MEAN: some}


def features_of(output: MCNOutput) -> dict[str, Tensor]:
    """Return the features that can be clustered: the embeddings and their mean."""
    return {**output.embeddings(), MEAN: output.mean()}


def present_embeddings(batch: ClipBatch, names: Sequence[str]) -> Tensor:
    """Return which clips have which embeddings, ``(B, names)`` bool, on the CPU."""
    if batch.present is None:
        return torch.ones(len(batch), len(names), dtype=torch.bool)
    # the joint embedding needs both audio and text, the last two columns
    columns = dict(zip(MODALITIES, batch.present.T, strict=True)) | {AUDIO_TEXT: batch.present[:, 1:].all(dim=1)}
    return torch.stack([columns[name] for name in names], dim=1)


def predictions(batch: ClipBatch, output: MCNOutput, clusters: Tensor | None) -> dict[str, object]:
    """Return what ``predict`` saves of a batch of clips, see ``MCNModule.predict_step``.

    Args:
        batch: the clips.
        output: of the network.
        clusters: cluster of each clip ``(B,)``, if there are any.
    """
    embeddings = output.embeddings()
    found: dict[str, object] = {"ids": batch.ids, **embeddings, **({} if clusters is None else {"cluster": clusters})}
    if batch.present is not None:
        table = present_embeddings(batch, tuple(embeddings))
        columns = zip(embeddings.items(), table.T, strict=True)
        found |= {f"has_{name}": column.to(value.device) for (name, value), column in columns}
    return found


def exchange(batch: ClipBatch, network: NetworkConfig, device: torch.device | str) -> tuple[list[int], Presence | None]:
    """Return the number of clips on each process, and which clips lack an embedding (``None`` if none does).

    Both are found in one collective operation.

    Args:
        batch: clips of this process.
        network: modalities that the network takes.
        device: of the embeddings.

    Raises:
        InputError: on all processes, if the processes with clips have different modalities.
    """
    # before `ready` a batch has frames in place of spectrograms
    sound = batch.audio if batch.frames is None else batch.frames
    given = {"video": batch.video, "audio": sound, "text": batch.words}
    wanted = [name for name in MODALITIES if name in network.modalities]
    table = present_embeddings(batch, network.embeddings)
    # one list for all numbers: each collective operation makes every process wait
    own = [len(batch), *(given[name] is not None for name in wanted), *Presence.histogram(table)]
    found = gather_integers(own, device)
    counts = _checked_counts([row[: 1 + len(wanted)] for row in found], wanted)
    present = Presence(network.embeddings, table, [row[1 + len(wanted) :] for row in found], device)
    return counts, None if present.complete else present


def _checked_counts(found: Sequence[Sequence[int]], wanted: Sequence[str]) -> list[int]:
    """Return the number of clips on each process, after checking that all have the same modalities."""
    kinds = {tuple(name for name, has in zip(wanted, row[1:], strict=True) if has) for row in found if row[0]}
    if any(row[0] == 0 for row in found) and kinds:  # a process without clips joins the losses with all modalities
        kinds.add(tuple(wanted))
    if len(kinds) > 1:
        given = " / ".join(", ".join(kind) or "none" for kind in sorted(kinds))
        raise InputError(f"a step: expected the same modalities on every process, found {given}; give each the same")
    return [row[0] for row in found]
