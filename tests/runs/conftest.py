"""Fixtures of the tests of the trainer's options and callbacks."""

from __future__ import annotations

import pytest

from runs.trainer_runs import Run


@pytest.fixture
def go(tiny, tmp_path):
    """A function that trains with some options of the trainer."""
    return lambda *callbacks, **options: Run(tmp_path, tiny, callbacks=list(callbacks), **options)


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory) -> Run:
    """A run with none of the options."""
    return Run(tmp_path_factory.mktemp("plain"), tiny)
