"""Loading of trained models, and embedding of sentences with any text source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mcn_lightning.benchmarks.embedding import embed_texts
from mcn_lightning.benchmarks.files import EvaluationText
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError
from mcn_lightning.inference.hub import fetch, is_name
from mcn_lightning.inference.inputs import Inputs
from mcn_lightning.inference.model import Model
from mcn_lightning.inference.shared import is_shared, read_shared
from mcn_lightning.models.weights import OWN_CHECKPOINT, read_weights
from mcn_lightning.module import MCNModule
from mcn_lightning.options.config import as_config
from mcn_lightning.runs.checkpoints import steps_of
from mcn_lightning.runs.saved import CONFIG, folder_of, read_options


def load(path: str | Path) -> Model:
    """Load a trained model, on the CPU and in evaluation mode.

    A checkpoint holds its options, weights and centroids. A file of weights alone, as the authors released them,
    defines the shape of the network; other options have their defaults. No code in the file is run.

    Args:
        path: folder of a run, of which the checkpoint with the most steps is loaded; a checkpoint (.ckpt); any file
            that ``--model.weights`` takes; or a folder that ``lightning export`` wrote, also by its name on the
            Hugging Face hub, such as ``user/name``.

    Returns:
        The model. Beside the ``config.yaml`` of its run it knows how to embed new sentences, sounds and videos.
        Without that file it has no ``inputs``: see `embed_sentences`.

    Raises:
        InputError: if the file is missing, damaged, or holds no weights of such a network; a folder has no checkpoint;
            or the hub has no such model.
    """
    name, path = str(path), Path(path)
    # what exists on this machine wins over a name of the hub
    if not path.exists() and is_name(name):
        path = fetch(name)
    if is_shared(path):
        return read_shared(path)
    path = newest_checkpoint(path) if path.is_dir() else path
    weights = read_weights(path)
    if weights.kind == OWN_CHECKPOINT:
        # a checkpoint also restores options and centroids, which weights alone do not have
        module = Model.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    else:
        module = Model(weights.config)
        weights.load(module.network)
    options = read_options(folder_of(path.parent) / CONFIG)
    if "data" in options:
        module.inputs = Inputs.of_options(options["data"])
    return module.eval()


def newest_checkpoint(folder: Path) -> Path:
    """Return the checkpoint of a run with the most steps.

    Args:
        folder: of the run.

    Raises:
        InputError: if it has none.
    """
    for place in (folder / "checkpoints", folder):
        if steps := steps_of(place):
            return max(steps, key=lambda path: (steps[path], path.stat().st_mtime_ns))
    raise InputError(f"{folder}: expected the folder of a run with a checkpoint, found none; give a file")


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
