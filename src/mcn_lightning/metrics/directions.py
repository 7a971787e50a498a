"""Directions of retrieval, such as ``t->va``: which modalities ask, and which ones answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mcn_lightning.errors import InputError

LETTERS = {"v": "video", "a": "audio", "t": "text"}
DEFAULT_DIRECTIONS = ("t->va", "t->v", "t->a", "v->t", "a->t", "a->v", "v->a")
AUDIO_TEXT = "audio_text"
"""Name of the joint embedding of audio and text, where the network has one (AVLnet-Text-Fused)."""
JOINT_DIRECTIONS = ("v->ta", "ta->v")


def parse_direction(direction: str, option: str = "--retrieval.directions") -> tuple[list[str], list[str]]:
    """Split ``"t->va"`` into the names of the query's and of the gallery's modalities.

    Args:
        direction: letters of v, a, t around ``->``.
        option: what the message calls it.

    Raises:
        InputError: if it is not of that form.
    """
    query, arrow, gallery = direction.partition("->")
    valid = all(side and set(side) <= set(LETTERS) and len(set(side)) == len(side) for side in (query, gallery))
    valid = valid and not set(query) & set(gallery)  # what is asked for must not be in the question
    if not arrow or not valid:
        raise InputError(f"{option}: expected letters of v, a, t around '->', as in t->va, found {direction!r}")
    return [LETTERS[letter] for letter in query], [LETTERS[letter] for letter in gallery]


def embedding_names(names: Sequence[str], joint: bool) -> list[str]:
    """Return the names of the embeddings of modalities.

    Args:
        names: modalities.
        joint: whether audio and text have one joint embedding.

    Raises:
        InputError: if they have and only one of the two is named.
    """
    if not joint:
        return list(names)
    both = [name for name in names if name in ("audio", "text")]
    if len(both) == 1:
        raise InputError(
            f"expected audio and text together, found {both[0]} alone: these weights have one joint embedding of audio "
            "and text: use ta->v or v->ta"
        )
    others = [name for name in names if name not in both]
    return [*others, AUDIO_TEXT] if both else others


def possible_directions(
    wanted: Sequence[str] | None,
    defaults: Sequence[str],
    modalities: Sequence[str],
    joint: bool = False,
    option: str = "--retrieval.directions",
) -> list[str]:
    """Return the directions that are evaluated with a network; see ``divide_directions``.

    Raises:
        InputError: if none is possible, or one that is wanted needs half of a joint embedding.
    """
    chosen, left_out = divide_directions(wanted, defaults, modalities, joint, option)
    if chosen:
        return chosen
    if wanted and left_out:
        name, direction = next((name, directions[0]) for name, directions in left_out.items())
        raise InputError(f"{option}: {direction} needs {name}, which data.modalities or the weights lack; leave it out")
    names = ", ".join(modalities)
    raise InputError(f"{option}: expected directions between {names}, found {', '.join(defaults)}; set it")


def divide_directions(
    wanted: Sequence[str] | None,
    defaults: Sequence[str],
    modalities: Sequence[str],
    joint: bool = False,
    option: str = "--retrieval.directions",
) -> tuple[list[str], dict[str, list[str]]]:
    """Divide directions into those that are evaluated with a network, and those that it cannot serve.

    Args:
        wanted: what the user asks for; ``None`` for the defaults.
        defaults: directions without a wish; where none is possible for a joint embedding of audio and text, v->ta and
            ta->v.
        modalities: those of the network.
        joint: whether its audio and text have one joint embedding.
        option: what messages call the wish.

    Returns:
        The directions that are evaluated, and those left out by the modality that they need and the network lacks.

    Raises:
        InputError: if a direction that is wanted needs half of a joint embedding of audio and text.
    """
    chosen: list[str] = []
    left_out: dict[str, list[str]] = {}
    for direction in wanted or defaults:
        sides = parse_direction(direction, option)
        absent = [name for side in sides for name in side if name not in modalities]
        if absent:
            left_out.setdefault(absent[0], []).append(direction)
            continue
        try:
            for side in sides:
                embedding_names(side, joint)
        except InputError as error:
            if wanted:
                raise InputError(f"{option}: {direction}: {error}") from None
            continue
        chosen.append(direction)
    if not chosen and not wanted and joint and set(modalities) == set(LETTERS.values()):
        return list(JOINT_DIRECTIONS), {}
    return chosen, left_out


def clips_of_sides(
    present: Mapping[str, Tensor] | None, direction: str, joint: bool
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return which clips have the query and which the gallery item of a direction, ``(B,)`` bool on the CPU each.

    Args:
        present: which clips have each embedding; ``None`` where all have all, and in the result then.
        direction: letters around ``->``.
        joint: whether audio and text have one joint embedding.
    """
    if present is None:
        return None, None
    asks, answers = (
        torch.stack([present[name] for name in embedding_names(side, joint)]).all(dim=0)
        for side in parse_direction(direction)
    )
    return asks, answers


def captions_side(direction: str) -> Literal["queries", "gallery"] | None:
    """Return on which side of a direction the captions stand, each of which counts where a clip has several."""
    queries, gallery = parse_direction(direction)
    return "queries" if "text" in queries else "gallery" if "text" in gallery else None
