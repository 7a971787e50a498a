"""Word vectors in a file of their own, so that a query needs no word-vector file of gigabytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mcn_lightning.data.files.word_vectors import first_words, read_word_vectors
from mcn_lightning.data.text import TextConfig, TextSource, WordVectorText
from mcn_lightning.files import reading, replacing

FREQUENT = 50_000
"""Words from the start of the source, which lists frequent words first, that are kept beside those of the captions."""


class StoredWords(WordVectorText):
    """The words that ``write_words`` stored, as a text source.

    Args:
        config: options of the text.
        path: the file.

    Raises:
        InputError: if the file cannot be read.
    """

    def __init__(self, config: TextConfig, path: Path) -> None:
        # not WordVectorText's own, which would read the word-vector file
        TextSource.__init__(self, config, path, ())
        kinds = ValueError, KeyError, TypeError, SafetensorError
        with reading(path, "stored word vectors", *kinds, advice="make the index again"), safe_open(path, "pt") as file:
            words: list[str] = json.loads(file.metadata()["words"])
            self.vectors: np.ndarray = file.get_tensor("vectors").numpy()
        self.vocabulary = {word: number + 1 for number, word in enumerate(words)}


def write_words(path: Path, source: Path, captions: Sequence[str], frequent: int = FREQUENT) -> None:
    """Store the vectors of the captions' words and of frequent words.

    Args:
        path: file to write (.safetensors).
        source: word-vector file.
        captions: words of the captions.
        frequent: words from the start of the source.

    Raises:
        InputError: if the source cannot be read.
    """
    words, vectors = read_word_vectors(source, {*captions, *first_words(source, frequent)})
    with replacing(path) as partial:
        save_file({"vectors": torch.from_numpy(np.ascontiguousarray(vectors))}, partial, {"words": json.dumps(words)})
