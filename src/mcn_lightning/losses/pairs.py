"""Which pairs of embeddings a contrastive loss compares, and its other options."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from mcn_lightning.config import ClassOptions
from mcn_lightning.errors import InputError
from mcn_lightning.ranges import NonNegativeFloat, PositiveFloat, PositiveInt

PAIRS = (("text", "video"), ("audio", "text"), ("audio", "video"), ("audio_text", "video"))
LETTERS = {"v": "video", "a": "audio", "t": "text"}
MAX_SCALE = 100.0
"""Largest inverse of a learned temperature (Radford et al., "CLIP", 2021, section 2.5)."""


@dataclass(frozen=True)
class ContrastiveConfig(ClassOptions, option="--model.loss.contrastive"):
    """Which contrastive loss, and its constants; the defaults are the released recipe.

    Args:
        kind: mms (masked margin softmax), mil_nce, info_nce (symmetric, on normalised embeddings), max_margin (ranking
            with a hinge) or none.
        margin: margin that mms takes from the similarity of a true pair.
        normalize: scale embeddings to length 1 for this loss; info_nce always does.
        temperature: similarities are divided by it (its start value when it is learned).
        learn_temperature: make the temperature a parameter, kept at 0.01 or more.
        ranking_margin: margin of max_margin.
        text_video_weight: factor of the pair text and video; 0 leaves the pair out.
        audio_text_weight: factor of the pair audio and text; 0 leaves the pair out.
        audio_video_weight: factor of the pair audio and video; 0 leaves the pair out.
        audio_text_video_weight: factor of the pair of the joint embedding of audio and text, where the network has one,
            and video; 0 leaves the pair out.
        tile: rows and columns of the parts in which the similarity matrix is computed, in clips. On one process a batch
            of up to this many clips is computed whole; above, memory is saved and each similarity computed twice.
        exclude_same_cluster: leave other clips of a clip's cluster out of its negatives, once there are clusters.
        pairs: which modalities are compared, as letters of v, a, t around ``-``: t-va compares the text with the sum of
            the embeddings of video and audio (AVLnet-Text-Tri's fine-tuning). All pairs of single modalities when not
            given. Pairs of sums have weight 1. Where embeddings are normalised, so is their sum.
        class_path: a loss of one's own in place of ``kind``: a subclass of ``losses.ContrastiveLoss``.
        init_args: its own arguments.
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
        if self.pairs is not None and (not named or len(set(named)) < len(named)):
            raise InputError(f"{flag}.pairs: expected pairs as in t-va, each once, found {list(self.pairs)}")
        if self.learn_temperature and self.temperature < 1 / MAX_SCALE:
            raise InputError(
                f"{flag}.temperature: expected at least {1 / MAX_SCALE} when it is learned, found {self.temperature}; "
                f"raise it or set {flag}.learn_temperature to false"
            )

    @property
    def active(self) -> bool:
        """Whether there is a contrastive loss."""
        return self.class_path is not None or self.kind != "none"

    def weighted_pairs(self, embeddings: Iterable[str]) -> dict[tuple[str, str], float]:
        """Return the pairs of these embeddings, or sums of them, that the loss compares, with their weights.

        Args:
            embeddings: names of the embeddings that are there.

        Returns:
            The weight of each pair of names; the name of a sum has a ``+`` between those of its parts.
        """
        present = set(embeddings) if self.active else set()
        found = {}
        for pair in self._wanted(present):
            weight = getattr(self, "{}_{}_weight".format(*pair), 1.0)
            if weight > 0 and present.issuperset(parts_of(pair)):
                found[pair] = weight
        return found

    def check_pairs(self, embeddings: Iterable[str]) -> None:
        """Check that every pair that was asked for can be compared.

        Args:
            embeddings: names of the embeddings that a network gives.

        Raises:
            InputError: if a pair needs another one.
        """
        names = set(embeddings)
        wanted = [] if self.pairs is None or not self.active else self._wanted(names)
        for text, pair in zip(self.pairs or (), wanted, strict=False):
            if absent := [name for name in parts_of(pair) if name not in names]:
                raise InputError(
                    f"--model.loss.contrastive.pairs: expected pairs of {', '.join(sorted(names))}, found {text}, "
                    f"which needs {' and '.join(absent)}; leave it out, or see --data.modalities and --model.weights"
                )

    def _wanted(self, embeddings: Collection[str]) -> Sequence[tuple[str, str]]:
        if self.pairs is None:
            return PAIRS
        return [as_names(pair, "audio_text" in embeddings) for pair in self.pairs]


def parts_of(pair: tuple[str, str]) -> list[str]:
    """Return the names of all embeddings of a pair, those in a sum each."""
    return [name for side in pair for name in side.split("+")]


def as_names(pair: str, joint: bool) -> tuple[str, str]:
    """Return the names of the two sides of a pair in letters, in the order of ``PAIRS`` where it is one of these.

    Args:
        pair: letters of v, a, t around ``-``.
        joint: audio and text have one joint embedding.

    Raises:
        InputError: if it is not of that form.
    """
    sides = pair.split("-") if isinstance(pair, str) else []
    letters = "".join(sides)
    if len(sides) != 2 or not all(sides) or not set(letters) <= set(LETTERS) or len(set(letters)) < len(letters):
        raise InputError(
            "--model.loss.contrastive.pairs: expected different letters of v, a, t around '-', as in t-va, "
            f"found {pair!r}"
        )
    names = ["+".join(name for letter, name in LETTERS.items() if letter in side) for side in sides]
    first, second = ("audio_text" if joint and name == "audio+text" else name for name in names)
    return (second, first) if (second, first) in PAIRS else (first, second)
