"""Class-based TF-IDF word by word, from the formula in Grootendorst (2022), "BERTopic", equation 2."""

from __future__ import annotations

import math


def class_tf_idf(words: dict[int, list[str]]) -> dict[int, dict[str, float]]:
    """Return the weight of each word in each class: ``tf(t, c) * log(1 + A / f(t))``."""
    average = sum(len(own) for own in words.values()) / len(words)
    weights: dict[int, dict[str, float]] = {}
    for each, own in words.items():
        weights[each] = {}
        for word in own:
            in_class = sum(other == word for other in own)
            in_all = sum(other == word for some in words.values() for other in some)
            weights[each][word] = in_class * math.log(1 + average / in_all)
    return weights
