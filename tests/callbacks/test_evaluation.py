"""The evaluation callback's own parts: directions, fusion, the table."""

import pytest
import torch

from mcn_lightning.callbacks.evaluation import combine, find_topics, format_table, parse_direction
from mcn_lightning.data.batch import InputError


def test_directions_are_letters_on_both_sides():
    assert parse_direction("t->va") == (["text"], ["video", "audio"])
    for wrong in ("t-va", "->v", "t->", "x->v", "tt->v"):
        with pytest.raises(InputError, match=r"--retrieval\.directions"):
            parse_direction(wrong)


def test_sum_and_normalized_mean():
    embeddings = {"video": torch.tensor([[3.0, 4.0]]), "audio": torch.tensor([[0.0, 2.0]])}
    assert combine(embeddings, ["video", "audio"], "sum").tolist() == [[3.0, 6.0]]
    mean = combine(embeddings, ["video", "audio"], "normalized_mean")
    torch.testing.assert_close(mean, torch.tensor([[0.3, 0.9]]))


def test_table_shows_chance():
    metrics = {f"t->v/{name}": 50.0 for name in ("R@1", "R@5", "R@10", "median_rank")}
    table = format_table(metrics | {"nmi": 0.5}, ["t->v"], 200)
    assert table.splitlines()[2].split() == ["chance", "0.5", "2.5", "5.0", "100.5"]
    assert "nmi: 0.500" in table


def test_topics_are_found_where_they_are_apart():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = 4 * torch.eye(3)[labels] + torch.randn(60, 3, generator=generator)
    found = find_topics(features, 3)
    pairs = {(int(label), int(cluster)) for label, cluster in zip(labels, found, strict=True)}
    assert 3 <= len(pairs) < 9 and len(found.unique()) == 3
    clear = find_topics(features + 40 * torch.eye(3)[labels], 3)
    assert len({(int(label), int(cluster)) for label, cluster in zip(labels, clear, strict=True)}) == 3
