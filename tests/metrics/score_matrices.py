"""Small embeddings and score matrices in which many values tie."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

MANY = settings(max_examples=400)
WHOLE = st.integers(-3, 2).map(float)
REAL = st.floats(-50, 5)


@st.composite
def matrices(draw, values, columns=5):
    """(T, L) with T up to 8 and not below L."""
    width = draw(st.integers(1, columns))
    height = draw(st.integers(width, 8))
    return np.array(draw(st.lists(values, min_size=width * height, max_size=width * height))).reshape(height, width)


def means(width):
    return st.lists(st.floats(0.3, 30), min_size=width, max_size=width)


def last_first(boundaries):
    return tuple(reversed(boundaries))


def integer_embeddings(rows, width, seed, high=3):
    """Small integers: dot products are exact in float32, so ties are many and the same for every order of summation."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, high, (rows, width), generator=generator).float()
