"""From the text of a clip to word indices, and the frozen modules that turn indices into vectors.

Two sources with one interface: ``indices`` runs where the data is read, and gives ``(W,)`` int32 with 0 for "no word";
``embedder`` gives the module that belongs to the model and maps ``(B, W)`` indices to ``(B, W, E)`` vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mcn_lightning.data.files.word_vectors import read_word_vectors
from mcn_lightning.errors import InputError
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveInt, Share

_WORD = re.compile(r"[\w']+")


@dataclass(frozen=True)
class TextConfig(Options, option="--data.text"):
    """How captions become vectors.

    Args:
        kind: "word_vectors" looks each word up in a table; "tokens" takes the token embeddings of a frozen sentence
            encoder in place of word vectors; "sentence" takes its one embedding of the whole text.
        source: word vector file (word2vec ``.bin``, or text format; ``.gz`` too), or the name or folder of a
            sentence-transformers model that is on this machine (nothing is downloaded here).
        dim: E, width of the vectors.
        max_words: W, words that are kept of a text; for a sentence encoder its tokens, the special ones included.
        lowercase: make the words lower case before they are looked up (word vectors only).
        train_column: column of the caption file that training takes its texts from; where it holds several texts for a
            caption, one is sampled at each visit.
        eval_column: the same for evaluation; where it holds several texts for a caption, each is a query for its clip.
        max_unknown_share: a run stops at its start where more than this share of the caption words of a split has no
            vector (word vectors only). 1 stops only where no word has one.
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
        if self.kind != "word_vectors" and self.max_words < 3:
            raise InputError(f"--data.text.max_words: expected at least 3 for {self.kind}, found {self.max_words}")


class TextSource(Protocol):
    """What turns text into indices, and indices into vectors."""

    max_words: int

    def indices(self, text: str) -> np.ndarray:
        """Return the indices of a text, ``(W,)`` int32; 0 is "no word"."""

    def word_table(self, words: Sequence[str]) -> np.ndarray | None:
        """Return the index of each word, int32, 0 where it is not known; ``None`` where a text is more than words."""

    def embedder(self) -> nn.Module:
        """Return the frozen module that maps ``(B, W)`` int32 to ``(B, W, E)`` float32."""


def split_words(text: str, lowercase: bool = False) -> list[str]:
    r"""Return the words of a text by the regular expression ``[\w']+``, their case kept unless ``lowercase``."""
    return _WORD.findall(text.lower() if lowercase else text)


class WordVectorText:
    """Text as words of a word-vector file, those outside its vocabulary dropped.

    Args:
        config: the file, its width, and how many words a text keeps.
        path: the file that ``config.source`` stands for.
        texts: all captions of the data set: only the vectors of their words are read.

    Raises:
        InputError: if the file cannot be read, has another width, or knows no word of the captions.
    """

    def __init__(self, config: TextConfig, path: Path, texts: Iterable[str]) -> None:
        self.config = config
        self.max_words = config.max_words
        wanted = {word for text in texts for word in split_words(text, config.lowercase)}
        if not wanted:
            raise InputError(
                "--data.captions: expected captions with words, found none in any text; check the column of the texts, "
                "or leave text out of --data.modalities"
            )
        words, self.vectors = read_word_vectors(path, wanted)
        if self.vectors.shape[1] != config.dim:
            found = self.vectors.shape[1]
            raise InputError(f"{path}: expected vectors of --data.text.dim {config.dim}, found {found}")
        if not words:
            sample = ", ".join(sorted(wanted)[:3])
            advice = "check --data.text.source and --data.text.lowercase"
            raise InputError(f"{path}: knows none of the {len(wanted)} words of the captions ({sample}, ...): {advice}")
        self.vocabulary = {word: number + 1 for number, word in enumerate(words)}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the vectors behind: a process that reads needs the vocabulary only."""
        return {name: value for name, value in vars(self).items() if name != "vectors"}

    def indices(self, text: str) -> np.ndarray:
        """Return the indices of the first W known words of a text, ``(W,)`` int32, zeros after them."""
        known = [self.vocabulary.get(word, 0) for word in split_words(text, self.config.lowercase)]
        return _padded([index for index in known if index], self.config.max_words)

    def word_table(self, words: Sequence[str]) -> np.ndarray | None:
        """Return the index of each word, int32, 0 where it is not known."""
        if self.config.lowercase:
            words = [word.lower() for word in words]
            if any(split_words(word) != [word] for word in words):  # a few letters fall apart in lower case
                return None
        return np.array([self.vocabulary.get(word, 0) for word in words], dtype=np.int32)

    def embedder(self) -> nn.Module:
        """Return the table of the words as a frozen module."""
        return WordVectors(torch.from_numpy(self.vectors))


class WordVectors(nn.Module):
    """A frozen table of word vectors; it has no parameters and no entry in the state dict.

    Args:
        vectors: ``(words, E)`` float32; index 1 is the first of them, and index 0 gives zeros.
    """

    table: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", torch.cat([vectors.new_zeros(1, vectors.shape[1]), vectors]), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """Map ``(B, W)`` int32 to ``(B, W, E)``."""
        return nn.functional.embedding(indices, self.table)


class SentenceEncoderText:
    """Text as tokens of a sentence-transformers model.

    Args:
        config: the model, the width of its vectors, and how many tokens a text keeps.

    Raises:
        InputError: if the model cannot be loaded or has another width.
    """

    def __init__(self, config: TextConfig) -> None:
        self.config = config
        self.max_words = config.max_words
        self._model: Any = _load_encoder(config.source)
        self._tokenizer = self._model.tokenizer
        width = _width(self._model, config.kind)
        if width != config.dim:
            raise InputError(f"{config.source}: expected vectors of --data.text.dim {config.dim}, found {width}")

    def indices(self, text: str) -> np.ndarray:
        """Return the token ids of a text plus one, ``(W,)`` int32, zeros after them."""
        tokens = self._tokenizer(text, truncation=True, max_length=self.config.max_words)["input_ids"]
        return _padded([token + 1 for token in tokens], self.config.max_words)

    def word_table(self, words: Sequence[str]) -> np.ndarray | None:
        """Return nothing: the tokens of a text are not those of its words."""
        return None

    def embedder(self) -> nn.Module:
        """Return the model as a frozen module."""
        return SentenceEncoder(self._model or _load_encoder(self.config.source), self.config.kind == "sentence")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the model behind when a worker process gets a copy: it needs the tokenizer only."""
        return {**self.__dict__, "_model": None}


class SentenceEncoder(nn.Module):
    """A frozen sentence-transformers model; it has no parameters and no entry in the state dict.

    Args:
        model: the sentence-transformers model.
        whole: give one embedding of the whole text in place of one of each token.
    """

    def __init__(self, model: nn.Module, whole: bool) -> None:
        super().__init__()
        self._hidden = (model.eval().requires_grad_(False),)  # in a tuple: not registered, so neither saved nor trained
        self.whole = whole

    @torch.no_grad()
    def forward(self, indices: Tensor) -> Tensor:
        """Map token ids plus one, ``(B, W)`` int32, to ``(B, W, E)``, zeros at padding, or to ``(B, 1, E)``."""
        (model,) = self._hidden
        model.to(indices.device)
        real = indices != 0
        mask = real.clone()
        mask[:, 0] = True  # a text without any token would leave the attention nothing to look at
        ids = (indices.long() - 1).clamp_min(0)
        output = model({"input_ids": ids, "attention_mask": mask.long()})
        if self.whole:
            return output["sentence_embedding"].float()[:, None]
        return output["token_embeddings"].float() * real[:, :, None]


def open_text(config: TextConfig, path: Path, texts: Iterable[str]) -> TextSource:
    """Open the text source that a configuration asks for.

    Args:
        config: which kind, and of what width.
        path: the word-vector file; not used for a sentence encoder.
        texts: all captions of the data set; not used for a sentence encoder.

    Returns:
        The source.

    Raises:
        InputError: if it cannot be read or does not fit the configuration.
    """
    return WordVectorText(config, path, texts) if config.kind == "word_vectors" else SentenceEncoderText(config)


def _padded(indices: list[int], length: int) -> np.ndarray:
    padded = np.zeros(length, dtype=np.int32)
    kept = indices[:length]
    padded[: len(kept)] = kept
    return padded


def _load_encoder(source: str) -> Any:
    from sentence_transformers import SentenceTransformer  # seconds to import: only those who use it wait for it

    try:
        return SentenceTransformer(source, device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        expected = f"--data.text.source {source}: expected a sentence-transformers model on this machine"
        raise InputError(f"{expected} (fetch it once with hf download), found {reason}") from None


def _width(model: Any, kind: str) -> int:
    """Width of the vectors that the model gives, seen on one text."""
    tokens = model.tokenizer("a", return_tensors="pt")
    with torch.no_grad():
        output = model({"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]})
    return output["sentence_embedding" if kind == "sentence" else "token_embeddings"].shape[-1]
