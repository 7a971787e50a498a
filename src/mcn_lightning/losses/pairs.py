"""Options of the contrastive loss, and the pairs of embeddings that it compares."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.config import ClassOptions
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

# names and order are those of the options of weights and of the logged terms
PAIRS = (("text", "video"), ("audio", "text"), ("audio", "video"), ("audio_text", "video"))
LETTERS = {"v": "video", "a": "audio", "t": "text"}
MAX_SCALE = 100.0
"""Largest inverse of a learned temperature (Radford et al., "CLIP", 2021, section 2.5)."""


@dataclass(frozen=True)
class ContrastiveConfig(ClassOptions, option="--model.loss.contrastive"):
    """Options of the contrastive loss; the defaults are the released recipe.

    Args:
        kind: mms (masked margin softmax), mil_nce, info_nce (symmetric, on normalised embeddings), max_margin (ranking
            with a hinge) or none.
        margin: margin that mms subtracts from the similarity of a true pair.
        normalize: scale embeddings to length 1 for this loss; info_nce always does.
        temperature: divisor of the similarities (its initial value if it is learned).
        learn_temperature: make the temperature a parameter, kept at 0.01 or more.
        ranking_margin: margin of max_margin.
        text_video_weight: factor of the pair text and video; 0 leaves the pair out.
        audio_text_weight: factor of the pair audio and text; 0 leaves the pair out.
        audio_video_weight: factor of the pair audio and video; 0 leaves the pair out.
        audio_text_video_weight: factor of the pair of video and the joint embedding of audio and text, if the network
            has one; 0 leaves the pair out.
        tile: rows and columns of a tile of the similarity matrix, in clips. On one process a batch of up to this many
            clips is computed at once. Larger batches save memory, and each similarity is computed twice.
        exclude_same_cluster: exclude other clips of a clip's cluster from its negatives, once there are clusters.
        pairs: modalities that are compared, as letters of v, a, t around ``-``. t-va compares the text with the sum of
            the embeddings of video and audio (AVLnet-Text-Tri's fine-tuning). The default is all pairs of single
            modalities. Pairs of sums have weight 1. If embeddings are normalised, so is their sum.
        class_path: a custom loss in place of ``kind``: a subclass of ``losses.ContrastiveLoss``.
        init_args: arguments of the custom loss.
    """

    kind: Literal["mms", "mil_nce", "info_nce", "max_margin", "none"] = "mms"
    margin: NonNegativeFloat = 0.001
    normalize: bool = False
    temperature: PositiveFloat = 1.0
    learn_temperature: bool = False
    ranking_margin: NonNegativeFloat = 0.1
    text_video_weight: NonNegativeFloat = 1.0
    audio_text_weight: NonNegativeFloat = 1.0
    audio_video_weight: NonNegativeFloat = 1.0
    audio_text_video_weight: NonNegativeFloat = 1.0
    tile: PositiveInt = 2048
    exclude_same_cluster: bool = False
    pairs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        flag = self.option
        named = [frozenset(as_names(pair, joint=False)) for pair in self.pairs or ()]
        check_rules(
            (
                self.pairs is not None and (not named or len(set(named)) < len(named)),
                f"{flag}.pairs: expected pairs as in t-va, each once, found {list(self.pairs or ())}",
            ),
            (
                self.learn_temperature and self.temperature < 1 / MAX_SCALE,
                f"{flag}.temperature: expected at least {1 / MAX_SCALE} when it is learned, found {self.temperature}; "
                f"raise it or set {flag}.learn_temperature to false",
            ),
        )

    @property
    def active(self) -> bool:
        """Whether there is a contrastive loss."""
        return self.class_path is not None or self.kind != "none"

    def weighted_pairs(self, embeddings: Iterable[str]) -> dict[tuple[str, str], float]:
        """Return the pairs of embeddings, or of their sums, that the loss compares, with their weights.

        Args:
            embeddings: names of the available embeddings.

        Returns:
            Weights by pair of names. The name of a sum joins the names of its parts by ``+``.
        """
        present = set(embeddings) if self.active else set()
        found = {}
        for pair in self._requested(present):
            weight = getattr(self, "{}_{}_weight".format(*pair), 1.0)
            if weight > 0 and all(part in present for part in parts_of(pair)):
                found[pair] = weight
        return found

    def check_pairs(self, embeddings: Iterable[str]) -> None:
        """Check that every requested pair can be compared.

        Args:
            embeddings: names of the network's embeddings.

        Raises:
            InputError: if a pair needs another embedding.
        """
        names = set(embeddings)
        wanted = [] if self.pairs is None or not self.active else self._requested(names)
        for text, pair in zip(self.pairs or (), wanted, strict=False):
            if absent := [name for name in parts_of(pair) if name not in names]:
                found = f"{text}, which needs {' and '.join(absent)}; leave it out"
                known = ", ".join(sorted(names))
                raise InputError(f"--model.loss.contrastive.pairs: expected pairs of {known}, found {found}")

    def _requested(self, embeddings: Collection[str]) -> Sequence[tuple[str, str]]:
        if self.pairs is None:
            return PAIRS
        return [as_names(pair, "audio_text" in embeddings) for pair in self.pairs]


def parts_of(pair: tuple[str, str]) -> list[str]:
    """Return the names of all embeddings of a pair, with the parts of sums."""
    return [name for side in pair for name in side.split("+")]


def as_names(pair: str, joint: bool) -> tuple[str, str]:
    """Return the names of the two sides of a pair, in the order of ``PAIRS`` if it is one of these.

    Args:
        pair: letters of v, a, t around ``-``.
        joint: whether audio and text have one joint embedding.

    Raises:
        InputError: if the pair does not have that form.
    """
    sides = pair.split("-") if isinstance(pair, str) else []
    letters = "".join(sides)
    if len(sides) != 2 or not all(sides) or not set(letters) <= set(LETTERS) or len(set(letters)) < len(letters):
        wanted = "different letters of v, a, t around '-', as in t-va"
        raise InputError(f"--model.loss.contrastive.pairs: expected {wanted}, found {pair!r}")
    names = ["+".join(name for letter, name in LETTERS.items() if letter in side) for side in sides]
    first, second = ("audio_text" if joint and name == "audio+text" else name for name in names)
    # loss and weight of a pair do not depend on its direction, but their names do
    return (second, first) if (second, first) in PAIRS else (first, second)
