"""A checkpoint, a sentence, ranked clips: what ``import mcn_lightning as mcn`` offers beside training."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from modules import NETWORK, make_data
from pytorch_lightning import Trainer
from references.model import random_released_state_dict
from safetensors.torch import save_file
from test_notebook import OPTIONS, fit

import mcn_lightning as mcn
from mcn_lightning.callbacks import EmbeddingWriter
from mcn_lightning.models.mcn import MCN

TEXT = {"source": "word_vectors.txt"}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """A module after an epoch, its checkpoint and its data."""
    root = tmp_path_factory.mktemp("trained")
    module, data = mcn.MCNModule(NETWORK, **OPTIONS), make_data(tiny)
    trainer = fit(root, module, data)
    trainer.save_checkpoint(root / "a.ckpt")
    return module.eval(), data, root / "a.ckpt"


def known_words(root, data) -> list[str]:
    lines = (root / data.text_config.source).read_text().splitlines()
    return [line.split()[0] for line in lines[1:]]


def test_every_public_name_is_there_and_imports_nothing_before_it_is_asked_for():
    assert all(getattr(mcn, name) is not None for name in mcn.__all__)
    assert set(mcn.__all__) <= set(dir(mcn))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        mcn.lod  # noqa: B018
    code = "import sys, mcn_lightning; print(len(sys.modules), 'torch' in sys.modules, 'numpy' in sys.modules)"
    count, *heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert int(count) < 100 and heavy == ["False", "False"]


def test_load_gives_the_weights_and_centroids_in_evaluation_mode(trained):
    module, _, path = trained
    loaded = mcn.load(path)
    assert not loaded.training and loaded.network_config == module.network_config
    assert loaded.clustering.has_centroids
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_load_takes_released_weights(tmp_path):
    state = random_released_state_dict(12, video_dim=16, text_dim=8, audio_widths=(4, 4, 6, 8))
    torch.save(state, tmp_path / "e16.pth")
    loaded = mcn.load(tmp_path / "e16.pth")
    assert not loaded.training and isinstance(loaded.network, MCN)
    assert (loaded.network_config.embedding_dim, loaded.network_config.video_dim) == (12, 16)
    assert torch.equal(loaded.network.video.projection.weight, state["GU_video.fc.weight"])


def test_load_refuses_what_is_no_checkpoint_in_one_line(tmp_path):
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 and no more")
    for name in ("absent.ckpt", "torn.ckpt"):
        with pytest.raises(mcn.InputError, match=name) as caught:
            mcn.load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_sentences_have_the_embeddings_that_predict_writes_for_the_same_captions(trained, tiny, tmp_path):
    module, data, _ = trained
    writer = EmbeddingWriter(str(tmp_path / "e.safetensors"))
    Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", callbacks=[writer]).predict(module, data)
    found = mcn.read_embeddings(tmp_path / "e.safetensors")
    texts = [clip["text"] for clip in found.clips]
    embedded = mcn.embed_sentences(module, texts, {"source": str(tiny / data.text_config.source)})
    assert len(texts) > 5 and embedded.shape == found.tensors["text"].shape
    torch.testing.assert_close(embedded, found.tensors["text"])


def test_the_mode_of_the_module_stays_and_several_sentences_are_independent(trained, tiny):
    module, data, _ = trained
    text = {"source": str(tiny / data.text_config.source)}  # the width is the network's
    words = known_words(tiny, data)[:2]
    module.train()
    both = mcn.embed_sentences(module, words, text)
    assert module.network.training
    module.eval()
    for row, word in zip(both, words, strict=True):
        torch.testing.assert_close(row, mcn.embed_sentences(module, [word], text)[0])


def test_a_sentence_without_a_known_word_is_refused(trained, tiny):
    module, data, _ = trained
    source = str(tiny / data.text_config.source)
    with pytest.raises(mcn.InputError, match="expected a sentence with a known word, found 'zzz'; reword it"):
        mcn.embed_sentences(module, [known_words(tiny, data)[0], "zzz"], {"source": source})
    with pytest.raises(mcn.InputError, match="expected at least one sentence"):
        mcn.embed_sentences(module, [], {"source": source})
    with pytest.raises(mcn.InputError, match="knows none of the 1 words"):
        mcn.embed_sentences(module, ["zzz"], {"source": source})


def test_a_network_without_text_is_refused():
    module = mcn.MCNModule(replace(NETWORK, modalities=("video", "audio")), **OPTIONS)
    with pytest.raises(mcn.InputError, match="expected a network with a text embedding, found video, audio"):
        mcn.embed_sentences(module, ["a"], TEXT)


def test_rank_finds_the_highest_products_best_first():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    found = mcn.rank(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), gallery, top=2)
    assert found.rows.tolist() == [[2, 0], [1, 2]]
    assert found.scores.tolist() == [[3.0, 1.0], [2.0, 1.0]]
    assert mcn.rank(torch.ones(1, 2), gallery, top=9).rows.shape == (1, 3)
    with pytest.raises(ValueError, match=r"found \(1, 3\) and \(3, 2\)"):
        mcn.rank(torch.ones(1, 3), gallery)
    for top in (0, -1):
        with pytest.raises(mcn.InputError, match=rf"^top: expected at least 1 item for each query, found {top}$"):
            mcn.rank(torch.ones(1, 2), gallery, top=top)


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_embeddings_are_read_as_they_were_written(tmp_path, ending):
    path, video = tmp_path / f"e{ending}", torch.arange(6.0).reshape(3, 2)
    if ending == ".npz":
        np.savez(path, video=video.numpy())
    else:
        save_file({"video": video}, path)
    clips = [{"id": f"v:{number}"} for number in range(3)]
    path.with_suffix(".json").write_text(json.dumps({"clips": clips}))
    found = mcn.read_embeddings(path)
    assert found.clips == clips and torch.equal(found.tensors["video"], video)
    path.with_suffix(".json").write_text(json.dumps({"clips": clips[:2]}))
    with pytest.raises(mcn.InputError, match="found 2 clips there and 3 rows here; predict again"):
        mcn.read_embeddings(path)
    path.write_bytes(b"torn")
    with pytest.raises(mcn.InputError, match=f"e{ending}: expected tensors that lightning predict wrote"):
        mcn.read_embeddings(path)
    with pytest.raises(mcn.InputError, match=r"absent\.json: expected what lightning predict wrote, found no file"):
        mcn.read_embeddings(tmp_path / f"absent{ending}")
