"""A model that is loaded with its run embeds sentences, sounds and features as the data set has them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch

import mcn_lightning as mcn
from mcn_lightning.data.files.word_vectors import first_words
from mcn_lightning.inference.words import StoredWords, write_words


def test_a_run_is_loaded_by_its_folder_or_its_checkpoint(trained):
    one, two = mcn.load(trained.folder), mcn.load(trained.folder / "checkpoints" / "last.ckpt")
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert one.inputs == two.inputs and one.inputs.streams[1].rate == 1.5 and not one.training
    with pytest.raises(mcn.InputError, match="expected the folder of a run with a checkpoint, found none"):
        mcn.load(trained.root)


def test_sentences_have_the_embeddings_of_embed_sentences(trained):
    model, sentences = mcn.load(trained.folder), ["topic0word1 trait1up", "topic1word0"]
    text = {"source": str(trained.root / "word_vectors.txt"), "max_words": 8}
    found = model.embed_text(sentences)
    torch.testing.assert_close(found, mcn.embed_sentences(model, sentences, text))
    torch.testing.assert_close(model.embed_text(sentences[1]), found[1:])
    assert model.unknown_words("topic0word1 Qwx qwx topic0word1") == ["Qwx", "qwx"]
    for wrong, said in (
        ([], "expected a sentence, found none"),
        (["a", " "], "found an empty one"),
        (["qwx"], "none known of: qwx"),
    ):
        with pytest.raises(mcn.InputError, match=said):
            model.embed_text(wrong)


def test_a_model_without_its_run_says_what_it_needs(trained, tmp_path):
    path = tmp_path / "alone.ckpt"
    path.write_bytes((trained.folder / "checkpoints" / "last.ckpt").read_bytes())
    model = mcn.load(path)
    with pytest.raises(mcn.InputError, match=r"load its folder or set model\.inputs"):
        model.embed_text("a")
    model.inputs = mcn.load(trained.folder).inputs
    assert model.embed_text("topic0word1").shape == (1, 16)


def test_a_long_sound_is_the_mean_of_its_windows(trained):
    model = mcn.load(trained.folder)
    sound = np.random.default_rng(0).standard_normal(4 * 16_000)
    length = model.inputs.audio.num_frames / 100
    count = round(4 / length)
    parts = [model.embed_audio(sound, 16_000, k * length, min((k + 1) * length, 4)) for k in range(count)]
    torch.testing.assert_close(model.embed_audio(sound, 16_000, 0, 4), torch.stack(parts).mean(dim=0))
    half = model.embed_audio(sound[:8_000], 8_000)  # other rates are resampled
    assert half.shape == (16,) and torch.isfinite(half).all()


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz", "v.bin", "v.bin.gz"])
def test_words_of_captions_and_frequent_words_are_stored(name, trained, tmp_path):
    words = ["the", "of", "dog", "rare", "last"]
    numbers = np.random.default_rng(0).standard_normal((5, 8)).astype("<f4")
    lines = [b"5 8\n"]
    for word, row in zip(words, numbers, strict=True):
        text = " ".join(repr(float(value)) for value in row).encode()
        lines.append(word.encode() + b" " + (row.tobytes() if ".bin" in name else text) + b"\n")
    content = b"".join(lines)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert first_words(tmp_path / name, 2) == ["the", "of"] and first_words(tmp_path / name, 9)[:4] == words[:4]
    write_words(tmp_path / "stored.safetensors", tmp_path / name, ["rare", "absent"], frequent=2)
    stored = StoredWords(mcn.load(trained.folder).inputs.text, tmp_path / "stored.safetensors")
    assert list(stored.vocabulary) == ["the", "of", "rare"]
    np.testing.assert_allclose(stored.vectors, numbers[[0, 1, 3]], rtol=1e-6)
