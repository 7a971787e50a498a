"""Options of a search, which are read without torch."""

from __future__ import annotations

from dataclasses import fields

import pytest

import mcn_lightning as mcn
from mcn_lightning.metrics import directions
from mcn_lightning.search import options
from mcn_lightning.search.options import SearchConfig, modalities_of


def test_letters_and_options_are_those_of_elsewhere():
    assert options.LETTERS == directions.LETTERS
    assert [*options.SearchOptions.__annotations__] == [each.name for each in fields(SearchConfig)]
    assert modalities_of("av", "--modality") == ["video", "audio"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"k": 0}, "k"), ({"modality": "x"}, "--modality: expected letters of v, a and t"),
        ({"modality": ""}, "--modality: expected letters of v, a and t, each once, as in va, found ''"),
        ({"where": " "}, "--where: expected a condition, found none"), ({"per_video": 0}, "per_video"),
        ({"duplicates": 2.0}, "duplicates"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(given, said):
    with pytest.raises(mcn.InputError, match=said):
        SearchConfig(**given)
