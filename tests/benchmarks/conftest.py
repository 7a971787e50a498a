"""The generated files of all benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.benchmark_files import write_all


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return write_all(tmp_path_factory.mktemp("benchmarks") / "files")
