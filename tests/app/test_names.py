"""Names of clusters: against a slow reference, and where there are no words."""

from __future__ import annotations

import numpy as np
from references.class_tf_idf import class_tf_idf

from mcn_lightning.search.explore.groups import class_words

WORDS = [*(f"word{letter}" for letter in "abcdefghijkl")]


def test_words_are_those_of_the_reference():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, 60).tolist()
    texts = [" ".join(rng.choice(WORDS, 6, p=np.arange(1, 13) / 78)) for _ in classes]
    expected = class_tf_idf(
        {each: [w for text, own in zip(texts, classes, strict=True) if own == each for w in text.split()]
         for each in set(classes)}
    )  # fmt: skip
    found = class_words(texts, classes, 6)
    assert set(found) == set(classes)
    for each, words in found.items():
        weights = expected[each]
        assert words == sorted(weights, key=lambda word: (-round(weights[word], 9), word))[:6]


def test_a_word_of_all_classes_comes_after_one_of_its_own():
    texts = ["pour pour milk milk", "pour pour flour flour"]
    assert class_words(texts, [4, 7], 2) == {4: ["milk", "pour"], 7: ["flour", "pour"]}


def test_function_words_do_not_count_and_equal_weights_follow_the_alphabet():
    assert class_words(["the onion and the carrot", "of it"], [0, 1], 3) == {0: ["carrot", "onion"], 1: []}


def test_no_words_at_all():
    assert class_words(["", "a"], [0, 1]) == {0: [], 1: []}
    assert class_words([], []) == {}
