"""Inference without a trainer: load a checkpoint, embed sentences, rank clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mcn_lightning.benchmarks.embedding import embed_texts
from mcn_lightning.benchmarks.files import EvaluationText
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json
from mcn_lightning.models.released import WeightsError
from mcn_lightning.models.weights import OWN_CHECKPOINT, read_weights
from mcn_lightning.module import MCNModule
from mcn_lightning.options.config import as_config


def load(path: str | Path) -> MCNModule:
    """Load a trained module, on the CPU and in evaluation mode.

    A checkpoint holds its options, weights and centroids. A file of weights alone, as the authors released them,
    defines the shape of the network; other options have their defaults. No code in the file is run.

    Args:
        path: a checkpoint (.ckpt), or any file that ``--model.weights`` takes.

    Returns:
        The module. It has no word vectors: see `embed_sentences`.

    Raises:
        InputError: if the file is missing, damaged, or holds no weights of such a network.
    """
    try:
        weights = read_weights(path)
    except WeightsError as error:
        raise InputError(str(error)) from None
    if weights.kind == OWN_CHECKPOINT:
        # a checkpoint also restores options and centroids, which weights alone do not have
        return MCNModule.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    module = MCNModule(weights.config)
    weights.load(module.network)
    return module.eval()


@torch.no_grad()
def embed_sentences(module: MCNModule, texts: Sequence[str], text: TextConfig | Mapping[str, object]) -> Tensor:
    """Embed N sentences.

    Args:
        module: a trained module.
        texts: the sentences.
        text: value of ``--data.text`` in training, for instance ``{"source": "word_vectors.bin"}``. The width ``dim``
            defaults to that of the network.

    Returns:
        ``(N, D)`` float32 on the module's device.

    Raises:
        InputError: if there is no sentence, the network has no text embedding, or a sentence has no known word.
    """
    network = module.network
    if not texts:
        raise InputError("expected at least one sentence, found none")
    if network.text is None or network.fusion is not None:
        raise InputError(f"expected a network with a text embedding, found {', '.join(network.config.embeddings)}")
    if isinstance(text, Mapping):
        text = {"dim": network.config.text_dim, **text}
    config = as_config(TextConfig, text, "text")
    opened = EvaluationText(config, Path(config.source), texts)
    for sentence in texts:
        if opened.unknown([sentence]):
            raise InputError(f"{config.source}: expected a sentence with a known word, found {sentence!r}; reword it")
    # in training mode dropout would change the embeddings
    training = network.training
    try:
        network.eval()
        return embed_texts(module, opened, texts)
    finally:
        network.train(training)


@dataclass(frozen=True)
class Embeddings:
    """Embeddings that ``lightning predict`` wrote.

    Args:
        clips: ``id``, ``video``, ``start`` and ``end`` in seconds, ``text`` and ``cluster`` of each of the N clips.
        tensors: ``video``, ``audio`` and ``text`` ``(N, D)``, ``cluster`` ``(N,)``, ``centroids`` ``(K, D)``, where the
            model has them. Row i belongs to clip i.
    """

    clips: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def read_embeddings(path: str | Path) -> Embeddings:
    """Read the two files that ``lightning predict`` wrote.

    Args:
        path: the file of the tensors, .safetensors or .npz, with the .json file beside it.

    Raises:
        InputError: if a file is missing or damaged, or the two do not belong together.
    """
    path = Path(path)
    content = read_json(path.with_suffix(".json"), "what lightning predict wrote")
    clips = content.get("clips") if isinstance(content, Mapping) else None
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        else:
            tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: expected tensors that lightning predict wrote, found {error}") from None
    # centroids have a row for each cluster, so they are not counted
    rows = {len(tensors[name]) for name in ("video", "audio", "text", "cluster") if name in tensors}
    if clips is None or rows - {len(clips)}:
        found = "no clips" if clips is None else f"{len(clips)} clips there and {max(rows)} rows here"
        raise InputError(f"{path}: expected a row for each clip of its .json file, found {found}; predict again")
    return Embeddings(clips, tensors)


class Ranked(NamedTuple):
    """The best items of each query, best first.

    Args:
        scores: ``(Q, top)`` float32.
        rows: rows of the gallery, ``(Q, top)`` int64.
    """

    scores: Tensor
    rows: Tensor


def rank(queries: Tensor, gallery: Tensor, top: int = 10) -> Ranked:
    """Find the gallery items with the highest dot products, which is how the evaluation scores them.

    Args:
        queries: ``(Q, D)``.
        gallery: ``(N, D)``; for several modalities the sum of their embeddings.
        top: items to return for each query; N if that is less.

    Raises:
        ValueError: if the widths differ.
        InputError: if ``top`` is below 1.
    """
    if top < 1:
        raise InputError(f"top: expected at least 1 item for each query, found {top}")
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        found = f"{tuple(queries.shape)} and {tuple(gallery.shape)}"
        raise ValueError(f"expected queries (Q, D) and gallery (N, D), found {found}")
    scores = queries.float() @ gallery.to(queries.device).float().T
    return Ranked(*scores.topk(min(top, len(gallery)), dim=1))
