"""From the text of a clip to word indices, and the frozen modules that map indices to vectors.

``TextSource.indices`` runs in the worker processes. ``TextSource.embedder`` returns a module that becomes part of the
model and runs on its device.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mcn_lightning.data.files.word_vectors import read_word_vectors
from mcn_lightning.errors import InputError, check_rules, first_line
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveInt, Share

# as in the released code: letters, digits, underscores and apostrophes
_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True)
class TextConfig(Options, option="--data.text"):
    """How captions become vectors.

    Args:
        kind: "word_vectors" looks each word up in a table. "tokens" takes the token embeddings of a frozen sentence
            encoder instead. "sentence" takes its one embedding of the whole text.
        source: word-vector file (word2vec ``.bin`` or text format, with or without ``.gz``). Or the name or folder of a
            sentence-transformers model that is on this machine. Nothing is downloaded.
        dim: E, width of the vectors.
        max_words: W, number of words of a text. For a sentence encoder, number of tokens, including special ones.
        lowercase: change words to lower case before they are looked up (word vectors only).
        train_column: column of the caption file with the texts of training. If a caption has several texts, one is
            sampled at each visit.
        max_unknown_share: largest share of the caption words of a split without a vector (word vectors only). A run
            with more stops at its start. 1 stops only if no word has a vector.
        eval_column: column with the texts of evaluation. If a caption has several texts, each is a query for its clip.
    """

    kind: Literal["word_vectors", "tokens", "sentence"] = "word_vectors"
    source: str = "GoogleNews-vectors-negative300.bin"
    dim: PositiveInt = 300
    max_words: PositiveInt = 20
    lowercase: bool = False
    train_column: str = "text"
    max_unknown_share: Share = 0.5
    eval_column: str = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words < (least := KINDS[self.kind].min_words):
            raise InputError(f"--data.text.max_words: expected {least} or more for {self.kind}, found {self.max_words}")


class TextSource(ABC):
    """Maps text to indices, and indices to vectors: one class for each ``kind`` of ``TextConfig``.

    Args:
        config: options of the text.
        path: the word-vector file, if the kind reads one.
        texts: all captions of the data set, if the kind needs its vocabulary.

    Raises:
        InputError: if it cannot be read, or does not fit the options.

    Attributes:
        min_words: smallest ``max_words`` that is enough for a word.
    """

    min_words: ClassVar[int] = 1

    def __init__(self, config: TextConfig, path: Path, texts: Iterable[str]) -> None:
        self.config, self.max_words = config, config.max_words

    @abstractmethod
    def indices(self, text: str) -> np.ndarray:
        """Return the indices of a text, ``(W,)`` int32. The index 0 means "no word"."""

    @abstractmethod
    def embedder(self) -> nn.Module:
        """Return the frozen module that maps ``(B, W)`` int32 to ``(B, W, E)`` float32."""

    def word_table(self, words: Sequence[str]) -> np.ndarray | None:
        """Return the index of each word, int32, 0 for unknown words, or ``None`` if a text is more than its words."""
        return None

    def count_known(self, indices: Tensor) -> list[int] | None:
        """Return the number of known words of each text ``(B, W)``, or ``None`` if all words are known."""
        return None


def split_words(text: str, lowercase: bool = False) -> list[str]:
    r"""Return the words of a text by the regular expression ``[\w']+``. Their case stays unless ``lowercase``."""
    return _WORD.findall(text.lower() if lowercase else text)


class WordVectorText(TextSource):
    """Text as words of a word-vector file. Words outside its vocabulary are dropped.

    Args:
        config: the file, its width, and the number of words of a text.
        path: the file of ``config.source``.
        texts: all captions of the data set. Only the vectors of their words are read.

    Raises:
        InputError: if the file cannot be read, has another width, or knows no word of the captions.
    """

    def __init__(self, config: TextConfig, path: Path, texts: Iterable[str]) -> None:
        super().__init__(config, path, texts)
        wanted = {word for text in texts for word in split_words(text, config.lowercase)}
        if not wanted:
            advice = "check the column of the texts, or leave text out of --data.modalities"
            raise InputError(f"--data.captions: expected captions with words, found none; {advice}")
        words, self.vectors = read_word_vectors(path, wanted)
        width, sample = self.vectors.shape[1], ", ".join(sorted(wanted)[:3])
        check_rules(
            (width != config.dim, f"{path}: expected vectors of --data.text.dim {config.dim}, found {width}"),
            (
                not words,
                f"{path}: knows none of the {len(wanted)} words of the captions ({sample}, ...): check "
                "--data.text.source and --data.text.lowercase",
            ),
        )
        # from 1, as index 0 stands for no word
        self.vocabulary = {word: number + 1 for number, word in enumerate(words)}

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the vectors: a worker process needs only the vocabulary."""
        return {name: value for name, value in vars(self).items() if name != "vectors"}

    def indices(self, text: str) -> np.ndarray:
        """Return the indices of the first W known words of a text, ``(W,)`` int32, padded with zeros."""
        known = [self.vocabulary.get(word, 0) for word in split_words(text, self.config.lowercase)]
        # unknown words are dropped before the text is cut: 20 known words, wherever they stand
        return _padded([index for index in known if index], self.config.max_words)

    def word_table(self, words: Sequence[str]) -> np.ndarray | None:
        """Return the index of each word, int32, 0 for unknown words."""
        if self.config.lowercase:
            words = [word.lower() for word in words]
            if any(split_words(word) != [word] for word in words):  # some letters become two characters in lower case
                return None
        return np.array([self.vocabulary.get(word, 0) for word in words], dtype=np.int32)

    def count_known(self, indices: Tensor) -> list[int]:
        """Return the number of known words of each text, ``(B, W)``."""
        return (indices != 0).sum(dim=1).tolist()

    def embedder(self) -> nn.Module:
        """Return the table of the words as a frozen module."""
        return WordVectors(torch.from_numpy(self.vectors))


class WordVectors(nn.Module):
    """A frozen table of word vectors, without parameters and without entries in the state dict.

    Args:
        vectors: ``(words, E)`` float32. The first has index 1. Index 0 gives zeros.
    """

    table: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        # not persistent: the vectors come from the data, and would be in every checkpoint
        self.register_buffer("table", torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors]), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """Map ``(B, W)`` int32 to ``(B, W, E)``."""
        return nn.functional.embedding(indices, self.table)


class TokenText(TextSource):
    """Text as token embeddings of a sentence-transformers model.

    Args:
        config: the model, the width of its vectors, and the number of tokens of a text.
        path: not used.
        texts: not used.

    Raises:
        InputError: if the model cannot be loaded or has another width.

    Attributes:
        output: key of the vectors in the output of the model.
    """

    min_words = 3  # the tokenizer adds two special tokens
    output: ClassVar[str] = "token_embeddings"

    def __init__(self, config: TextConfig, path: Path, texts: Iterable[str]) -> None:
        super().__init__(config, path, texts)
        model = _load_encoder(config.source)
        self._model: nn.Module | None = model
        self._tokenizer: Callable[..., Mapping[str, list[int]]] = model.tokenizer
        width = _width(model, self.output)
        if width != config.dim:
            raise InputError(f"{config.source}: expected vectors of --data.text.dim {config.dim}, found {width}")

    def indices(self, text: str) -> np.ndarray:
        """Return the token ids of a text plus one, ``(W,)`` int32, padded with zeros."""
        # plus one, as the token 0 exists and index 0 stands for no word
        tokens = self._tokenizer(text, truncation=True, max_length=self.config.max_words)["input_ids"]
        return _padded([token + 1 for token in tokens], self.config.max_words)

    def embedder(self) -> nn.Module:
        """Return the model as a frozen module."""
        return SentenceEncoder(self._model or _load_encoder(self.config.source), self.output, self.config.dim)

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the model: a worker process needs only the tokenizer."""
        return {**self.__dict__, "_model": None}


class SentenceText(TokenText):
    """Text as one embedding of a sentence-transformers model; see ``TokenText``."""

    output = "sentence_embedding"


KINDS: dict[str, type[TextSource]] = {"word_vectors": WordVectorText, "tokens": TokenText, "sentence": SentenceText}
"""The class of each ``--data.text.kind``."""


class SentenceEncoder(nn.Module):
    """A frozen sentence-transformers model, without parameters and without entries in the state dict.

    Args:
        model: the sentence-transformers model.
        output: key of the vectors in its output.
        width: E, of the vectors.
    """

    def __init__(self, model: nn.Module, output: str, width: int) -> None:
        super().__init__()
        self.width = width
        self._hidden = (model.eval().requires_grad_(False),)  # a tuple hides it from saving and training
        self.output = output

    @torch.no_grad()
    def forward(self, indices: Tensor) -> Tensor:
        """Map token ids plus one, ``(B, W)`` int32, to ``(B, W, E)``, zeros at padding, or to ``(B, 1, E)``."""
        if not len(indices):  # no clip of a batch has text, and the model takes no empty batch
            words = 1 if self.output == SentenceText.output else indices.shape[1]
            return torch.zeros(0, words, self.width, device=indices.device)
        (model,) = self._hidden
        model.to(indices.device)
        real = indices != 0
        mask = real.clone()
        mask[:, 0] = True  # attention over a text without tokens would divide by zero
        ids = (indices.long() - 1).clamp_min(0)
        # one embedding a text becomes a text of one word, so that the network pools both kinds alike
        vectors = model({"input_ids": ids, "attention_mask": mask.long()})[self.output].float()
        return vectors[:, None] if vectors.ndim == 2 else vectors * real[:, :, None]


def open_text(config: TextConfig, path: Path, texts: Iterable[str]) -> TextSource:
    """Return the text source of a configuration; see ``TextSource``."""
    return KINDS[config.kind](config, path, texts)


def _padded(indices: list[int], length: int) -> np.ndarray:
    padded = np.zeros(length, dtype=np.int32)
    first = indices[:length]
    padded[: len(first)] = first
    return padded


def _load_encoder(source: str) -> Any:
    from sentence_transformers import SentenceTransformer  # the import takes seconds
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it takes a moment
    try:
        # local_files_only: a run must not depend on the network, nor fetch another version of the model
        return SentenceTransformer(source, device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        expected = f"--data.text.source {source}: expected a sentence-transformers model on this machine"
        # the library speaks of a connection, which it was told not to open
        found = "none in its cache" if "couldn't connect" in str(error).lower() else first_line(error)
        raise InputError(f"{expected} (fetch it once: hf download {source}), found {found}") from None
    finally:
        if bars:
            logging.enable_progress_bar()


def _width(model: Any, output: str) -> int:
    """Return the width of the vectors of a sentence encoder, seen on one text."""
    with torch.no_grad():
        return int(model(dict(model.tokenizer("a", return_tensors="pt")))[output].shape[-1])


def token_width(source: str) -> int:
    """Return the width of a sentence encoder's token embeddings.

    Args:
        source: name or folder of a sentence-transformers model.

    Raises:
        InputError: if it is not on this machine.
    """
    return _width(_load_encoder(source), TokenText.output)
