"""What callbacks use of module and data is there, with the same arguments."""

from __future__ import annotations

import inspect

import pytest
from pytorch_lightning import LightningModule

from mcn_lightning.benchmarks.files import FeatureData
from mcn_lightning.callbacks.protocols import ClipData, EmbeddingModule, embedding_module
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.errors import InputError
from mcn_lightning.module import MCNModule

SMALL = {"embedding_dim": 4, "video_dim": 4, "text_dim": 3, "audio_widths": (2, 2, 2, 2), "reconstruction_hidden": 2}


def methods(protocol: type) -> dict[str, inspect.Signature]:
    found = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value)}
    return {name: inspect.signature(value) for name, value in found.items() if not name.startswith("_")}


def test_module_and_data_have_all_that_callbacks_use(tiny):
    module, data = MCNModule(SMALL), NarratedVideos(str(tiny))
    assert isinstance(data, ClipData) and isinstance(data, FeatureData)
    assert embedding_module(module) is module
    for found, protocol in ((module, EmbeddingModule), (data, ClipData)):
        assert methods(protocol)
        for name, signature in methods(protocol).items():
            given = list(inspect.signature(getattr(type(found), name)).parameters)
            assert given[: len(signature.parameters)] == list(signature.parameters), name


def test_another_module_is_refused_in_one_line():
    with pytest.raises(InputError, match="as MCNModule does, found LightningModule"):
        embedding_module(LightningModule())
