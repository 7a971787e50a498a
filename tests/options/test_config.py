"""Options as annotated types: what is refused, in which words, and what a checkpoint may hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import pytest

from mcn_lightning.clustering import KINDS as CLUSTERINGS
from mcn_lightning.clustering import ClusteringConfig
from mcn_lightning.clustering.options import Kind
from mcn_lightning.errors import InputError
from mcn_lightning.losses import ContrastiveConfig
from mcn_lightning.losses.kinds import KINDS as LOSSES
from mcn_lightning.options.config import Options, as_config
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveInt, PositiveShare, rephrase_refusal


@dataclass(frozen=True)
class Some(Options, option="--some"):
    """Options of every sort."""

    count: PositiveInt = 1
    weight: NonNegativeFloat = 0.0
    share: PositiveShare | None = None
    widths: tuple[PositiveInt, ...] = (1,)
    kind: Literal["a", "b"] = "a"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"count": 0}, "--some.count: expected a whole number above 0, found 0"),
        ({"count": 1.5}, "--some.count: expected a whole number above 0, found 1.5"),
        ({"count": "x"}, "--some.count: expected a whole number above 0, found x"),
        ({"count": None}, "--some.count: expected a whole number above 0, found None"),
        ({"weight": math.inf}, "--some.weight: expected a number of at least 0, found inf"),
        ({"weight": math.nan}, "--some.weight: expected a number of at least 0, found nan"),
        ({"share": 0}, "--some.share: expected a number above 0 and at most 1, found 0"),
        ({"widths": [3, 0]}, "--some.widths: expected a whole number above 0, found 0"),
        ({"kind": "c"}, "--some.kind: expected one of a, b, found 'c'; choose one"),
    ],
)
def test_python_refuses_what_the_command_refuses(given, line):
    for make in (lambda: Some(**given), lambda: as_config(Some, given, "--some")):
        with pytest.raises(InputError) as caught:
            make()
        assert str(caught.value) == line


def test_values_are_plain_and_stay_as_they_are():
    some = Some(count=PositiveInt(3), weight=2, share=None, widths=(PositiveInt(4), 5))
    assert (some.count, some.weight, some.share, some.widths) == (3, 2, None, (4, 5))
    assert {type(value) for value in (some.count, some.weight, *some.widths)} == {int}


def test_the_refusals_of_a_parser_are_put_in_the_same_words():
    said = "Not of type PositiveInt: 0 does not conform to restriction v>0"
    assert rephrase_refusal(f"count: {said}") == "count: expected a whole number above 0, found 0"
    assert rephrase_refusal("Not of type PositiveInt: invalid literal for int() with base 10: '1.5'").endswith(
        "found 1.5"
    )
    assert rephrase_refusal("Not of type Something: x") == "Not of type Something: x"


def test_every_kind_has_a_class():
    assert {*get_args(Kind)} == {*CLUSTERINGS, "none"}
    assert {*get_args(get_type_hints(ContrastiveConfig)["kind"])} == {*LOSSES, "none"}
    assert len({*CLUSTERINGS.values()}) == len(CLUSTERINGS) and ClusteringConfig().kind in CLUSTERINGS


def test_a_kind_beside_a_class_and_arguments_without_one_are_refused():
    with pytest.raises(InputError, match=r"contrastive\.kind: expected mms, its default, beside class_path mine\.Own"):
        ContrastiveConfig(kind="info_nce", class_path="mine.Own")
    with pytest.raises(InputError, match=r"contrastive\.init_args: expected class_path beside it, found none"):
        ContrastiveConfig(init_args={"bias": 1})
