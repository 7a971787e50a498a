"""The folder of a shared model: weights, options, word vectors. It holds nothing that can run code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import read_json, reading, replacing
from mcn_lightning.inference.inputs import Inputs, without_places
from mcn_lightning.inference.model import Model
from mcn_lightning.inference.words import write_words

CONFIG, WEIGHTS, WORDS, CARD = "config.json", "model.safetensors", "words.safetensors", "README.md"
FORMAT = 1
"""Number of the form of the folder. A later form gets another one."""
_QUEUE = ".queue."
"""Part of the names of the queue's rows, which only training needs."""


@dataclass(frozen=True)
class SharedOptions:
    """The content of ``config.json``.

    Args:
        model: options of the module: network, loss, clustering, optimizer.
        inputs: how sentences, sounds and pictures become features; ``None`` if it is not known.
    """

    model: Mapping[str, Any]
    inputs: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the file."""
        from mcn_lightning import __version__  # whose package imports this one, for type checkers

        return {"format": FORMAT, "mcn_lightning": __version__, "model": dict(self.model), "inputs": self.inputs}


def is_shared(folder: Path) -> bool:
    """Return whether a folder holds a shared model."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def write_shared(folder: Path, model: Model, words: Sequence[str] = ()) -> None:
    """Write a model for others. The same model gives the same bytes.

    Args:
        folder: exists; files of an earlier export in it are replaced.
        model: with its ``inputs``, if they are known.
        words: whose vectors are stored beside those of frequent words, such as the words of the captions.

    Raises:
        InputError: if its word vectors cannot be read.
        OSError: if a file cannot be written.
    """
    inputs = model.inputs
    if inputs is not None and inputs.text.kind == "word_vectors" and "text" in model.network_config.modalities:
        if inputs.words is None:
            write_words(folder / WORDS, Path(inputs.text.source), words)
        elif not (folder / WORDS).exists() or not inputs.words.samefile(folder / WORDS):
            with replacing(folder / WORDS) as partial:  # of a shared model, whose source is not at hand
                shutil.copyfile(inputs.words, partial)
    options = SharedOptions(model.hparams, None if inputs is None else without_places(inputs).as_dict())
    with replacing(folder / WEIGHTS) as partial:
        save_file(_weights(model), partial)
    with replacing(folder / CONFIG) as partial:
        partial.write_text(json.dumps(options.as_dict(), indent=2) + "\n", encoding="utf-8")


def _weights(model: Model) -> dict[str, Tensor]:
    """Return the weights and centroids by name, without the rows of the queue."""
    return {name: value.contiguous() for name, value in model.state_dict().items() if _QUEUE not in name}


def read_shared(folder: Path) -> Model:
    """Load a shared model, on the CPU and in evaluation mode.

    Args:
        folder: that ``write_shared`` filled.

    Raises:
        InputError: if a file is missing, damaged, or of a newer version.
    """
    options = _read_options(folder / CONFIG)
    with reading(folder / WEIGHTS, "the weights of a model", SafetensorError, advice="export it again"):
        state = load_file(folder / WEIGHTS)
    model = Model(**options.model)
    expected = {name for name in model.state_dict() if _QUEUE not in name}
    if unlike := sorted(expected ^ {*state}):
        found = f"{'none for' if unlike[0] in expected else 'also'} {unlike[0]}"
        raise InputError(f"{folder / WEIGHTS}: expected the weights of its {CONFIG}, found {found}; export it again")
    try:
        # not strict: the rows of the queue are not stored, and the names are compared above
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{folder / WEIGHTS}: expected the weights of its {CONFIG}, found {reason}") from None
    if options.inputs is not None:
        words = folder / WORDS
        model.inputs = Inputs.from_dict(options.inputs, words if words.is_file() else None)
    return model.eval()


def _read_options(path: Path) -> SharedOptions:
    found = read_json(path, "the options of a shared model")
    known = isinstance(found, Mapping) and isinstance(found.get("model"), Mapping)
    if not known or not isinstance(found.get("inputs"), Mapping | None):
        raise InputError(f"{path}: expected the options of a shared model, found something else; export it again")
    if found.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected format {FORMAT} of a shared model, found {found.get('format')}, which mcn-lightning "
            f"{found.get('mcn_lightning')} wrote; install that version"
        )
    return SharedOptions(found["model"], found["inputs"])
