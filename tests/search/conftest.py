"""A tiny trained run of generated data, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from launch import run, write_overlay

import mcn_lightning as mcn


@dataclass(frozen=True)
class Trained:
    """A run: its options, its folder, and the folder of its data."""

    config: Path
    folder: Path
    root: Path

    def index(self, output: Path, *words: object) -> mcn.Index:
        """Make an index with the command, and open it."""
        run("index", "--ckpt_path", self.folder, "--config", self.config, "--output", output, *words)
        return mcn.Index.open(output)


@pytest.fixture(scope="session")
def trained(tiny, tmp_path_factory) -> Trained:
    """A run of three steps on video, audio and text, with centroids."""
    folder = tmp_path_factory.mktemp("search")
    config = write_overlay(folder / "run.yaml", tiny, folder, "CSVLogger")
    run("fit", "--config", config, "--config", "demo", "--config", config)
    return Trained(config, folder / "run" / "version_0", tiny)


@pytest.fixture(scope="session")
def made(trained, tmp_path_factory) -> Path:
    """The folder of an index of all captions, not to be written to."""
    folder = tmp_path_factory.mktemp("index") / "made"
    trained.index(folder)
    return folder


@pytest.fixture
def index(made) -> mcn.Index:
    """The index of all captions."""
    return mcn.Index.open(made)
