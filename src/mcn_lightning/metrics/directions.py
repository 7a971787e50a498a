"""Directions of retrieval, such as ``t->va``: the modalities of the queries and of the gallery."""

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
        option: its name in the message.

    Raises:
        InputError: if it does not have that form.
    """
    query, arrow, gallery = direction.partition("->")
    valid = all(side and set(side) <= set(LETTERS) and len(set(side)) == len(side) for side in (query, gallery))
    valid = valid and not set(query) & set(gallery)  # a modality on both sides would retrieve itself
    if not arrow or not valid:
        raise InputError(f"{option}: expected letters of v, a, t around '->', as in t->va, found {direction!r}")
    return [LETTERS[letter] for letter in query], [LETTERS[letter] for letter in gallery]


def embedding_names(names: Sequence[str], joint: bool) -> list[str]:
    """Return the names of the embeddings of modalities.

    Args:
        names: modalities.
        joint: whether audio and text have one joint embedding.

    Raises:
        InputError: if only one of audio and text is named, although they have a joint embedding.
    """
    if not joint:
        return list(names)
    both = [name for name in names if name in ("audio", "text")]
    if len(both) == 1:
        found = f"{both[0]} alone: these weights have one joint embedding of audio and text: use ta->v or v->ta"
        raise InputError(f"expected audio and text together, found {found}")
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
        InputError: if none is possible, or a requested one needs only a part of a joint embedding.
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
    """Divide directions into those that a network can evaluate, and those that it cannot.

    Args:
        wanted: requested directions; ``None`` for the defaults.
        defaults: directions without a request. If a joint embedding of audio and text allows none of them, v->ta and
            ta->v are used.
        modalities: of the network.
        joint: whether audio and text have one joint embedding.
        option: name of the request in messages.

    Returns:
        The directions that are evaluated, and the others by the modality that the network lacks.

    Raises:
        InputError: if a requested direction needs only a part of a joint embedding of audio and text.
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
            continue  # the user did not ask for this default
        chosen.append(direction)
    if not chosen and not wanted and joint and set(modalities) == set(LETTERS.values()):
        return list(JOINT_DIRECTIONS), {}
    return chosen, left_out


def clips_of_sides(
    present: Mapping[str, Tensor] | None, direction: str, joint: bool
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return which clips have a query and which have a gallery item, each ``(B,)`` bool on the CPU.

    Args:
        present: which clips have each embedding. ``None`` if all clips have all; the result is then ``None`` twice.
        direction: letters around ``->``.
        joint: whether audio and text have one joint embedding.
    """
    if present is None:
        return None, None
    has_query, has_item = (
        torch.stack([present[name] for name in embedding_names(side, joint)]).all(dim=0)
        for side in parse_direction(direction)
    )
    return has_query, has_item


def captions_side(direction: str) -> Literal["queries", "gallery"] | None:
    """Return the side of a direction on which each of several captions of a clip counts, if one side has text."""
    queries, gallery = parse_direction(direction)
    return "queries" if "text" in queries else "gallery" if "text" in gallery else None
