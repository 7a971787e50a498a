"""Full-video retrieval against loops with fractions, at chance and by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import full_video as reference
from references import retrieval

from mcn_lightning.metrics import RetrievalRecall, full_video_metrics, ties

KS = (1, 2, 5)
RANKED = ("caption_clip", "caption_video", "caption_video_by_clips", "captions_video")


def expected(queries, gallery, videos, ks=KS, clips=None):
    asked = None if clips is None else clips.tolist()
    found = reference.full_video(retrieval.scores(queries, gallery), videos.tolist(), ks, asked)
    result = {}
    for name in RANKED:
        result |= {f"{name}/R@{k}": 100 * retrieval.recall_at(found[name], k) for k in ks}
        result[f"{name}/median_rank"] = retrieval.median_rank(found[name])
        result[f"{name}/mean_rank"] = sum(found[name]) / len(found[name])
    votes = {name: 100 * sum(found[name]) / len(found[name]) for name in found if "votes" in name}
    return result | votes


def plain(result):
    return {name: float(value) for name, value in result.items()}


@st.composite
def collections(draw):
    """Clips with small integers as embeddings, so that scores tie often and are exact."""
    clips = draw(st.integers(1, 12))
    width = draw(st.integers(1, 3))
    numbers = st.lists(st.integers(-1, 1), min_size=width, max_size=width)
    rows = st.lists(numbers, min_size=clips, max_size=clips)
    videos = draw(st.lists(st.integers(-2, 3), min_size=clips, max_size=clips))
    return torch.tensor(draw(rows)).float(), torch.tensor(draw(rows)).float(), torch.tensor(videos)


@settings(max_examples=150)
@given(collections(), st.sampled_from([1, 2, 5, 1024]))
def test_every_setting_equals_the_reference(collection, chunk):
    result = plain(full_video_metrics(*collection, ks=KS, chunk=chunk))
    assert result == pytest.approx(expected(*collection), rel=1e-5)
    assert set(result) == set(expected(*collection))


@pytest.mark.parametrize("seed", range(5))
def test_several_captions_of_a_clip_all_ask_for_it(seed):
    generator = torch.Generator().manual_seed(seed)
    gallery = torch.randint(-1, 2, (9, 3), generator=generator).float()
    videos = torch.arange(9) // 2
    clips = torch.cat([torch.arange(9), torch.randint(0, 9, (12,), generator=generator)])
    queries = torch.randint(-1, 2, (21, 3), generator=generator).float()
    result = plain(full_video_metrics(queries, gallery, videos, KS, 4, clips))
    assert result == pytest.approx(expected(queries, gallery, videos, KS, clips), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_real_valued_rows_and_bounded_memory(seed, monkeypatch):
    torch.manual_seed(seed)
    gallery, videos = torch.randn(40, 8), torch.randint(0, 9, (40,))
    queries = gallery + torch.randn(40, 8)
    result = plain(full_video_metrics(queries, gallery, videos))
    assert result == pytest.approx(expected(queries, gallery, videos, (1, 5, 10)), rel=1e-5)
    assert result["caption_video_by_clips/R@5"] <= result["caption_video/R@5"]
    monkeypatch.setattr(ties, "MAX_SCORES", 100)
    monkeypatch.setattr("mcn_lightning.metrics.full_video.MAX_BLOCK_SCORES", 100)
    assert plain(full_video_metrics(queries, gallery, videos, chunk=7)) == pytest.approx(result, rel=1e-6)


def test_shares_of_the_reference_are_means_over_all_orders():
    for values in ([2, 2, 1, 2], [0, 0, 0], [1, 2, 3], [3, 1, 1, 1, 0]):
        for index in range(len(values)):
            own = [other % 2 == index % 2 for other in range(len(values))]
            assert reference.first_rank(values, own) == reference.first_rank_over_orders(values, own)
            for k in (1, 2, 3, 9):
                assert reference.share(values, index, k) == reference.share_over_orders(values, index, k)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(1, 10))
def test_members_and_hits_equal_the_reference(values, k):
    scores = torch.tensor([values]).float()
    shares = [float(reference.share(values, index, k)) for index in range(len(values))]
    assert ties.expected_members(scores, k)[0].tolist() == pytest.approx(shares)
    targets = torch.arange(len(values))
    assert ties.expected_hits(scores.expand(len(values), -1), targets, [k])[:, 0].tolist() == pytest.approx(shares)


@pytest.mark.parametrize("width", [64, 300])
def test_constant_embeddings_score_chance(width):
    torch.manual_seed(0)
    same = torch.randn(width).expand(60, width)
    videos = torch.arange(60) % 20
    result = plain(full_video_metrics(same, same, videos, ks=(1, 5), chunk=7))
    assert result["caption_clip/median_rank"] == 30.5
    assert result["caption_video/median_rank"] == result["captions_video/median_rank"] == 10.5
    assert result["caption_video_by_clips/median_rank"] == 61 / 4  # the first of 3 among 60
    for name in RANKED:
        assert result[f"{name}/R@1"] == result[f"{name}/R@5"] == 0
    for name in ("video_votes", "clip_votes"):
        assert [result[f"{name}/R@{k}"] for k in (1, 5)] == pytest.approx([5, 25])


def test_votes_of_a_constant_embedding_are_chance_whatever_the_sizes_of_the_videos():
    videos = torch.tensor([7] * 5 + [3] * 2 + [-1] + [9] * 4)
    result = plain(full_video_metrics(torch.ones(12, 4), torch.ones(12, 4), videos, ks=(1, 2)))
    assert [result[f"video_votes/R@{k}"] for k in (1, 2)] == pytest.approx([25, 50])
    assert [result[f"clip_votes/R@{k}"] for k in (1, 2)] == pytest.approx([25, 50])


def test_one_clip_a_video_makes_all_settings_the_standard_one():
    torch.manual_seed(0)
    gallery = torch.randn(30, 6)
    queries = gallery + 2 * torch.randn(30, 6)
    result = plain(full_video_metrics(queries, gallery, torch.randperm(30)))
    metric = RetrievalRecall(ks=(1, 5, 10))
    metric.update([str(row) for row in range(30)], queries, gallery)
    for key, value in plain(metric.compute()).items():
        for name in RANKED:
            assert result[f"{name}/{key}"] == value
    assert 0 < result["caption_clip/R@1"] < 100
    # one caption gives each of its first k one vote, and all of them fit
    for k in (1, 5, 10):
        assert result[f"video_votes/R@{k}"] == pytest.approx(result[f"caption_clip/R@{k}"])


def test_more_clips_of_a_wrong_video_push_out_the_true_one_only_among_clips():
    gallery = torch.tensor([[5.0], [4.0], [3.0]])
    videos = torch.tensor([0, 0, 1])
    result = plain(full_video_metrics(torch.ones(3, 1), gallery, videos, ks=(1, 2)))
    assert result["caption_video/R@2"] == 100
    assert result["caption_video_by_clips/R@2"] == pytest.approx(200 / 3)
    # two clip votes for video 0 and none for video 1, which is not found although two places are free
    assert result["clip_votes/R@2"] == 50
    assert result["video_votes/R@2"] == 100


def test_shares_of_votes_that_add_up_to_the_same_tie():
    # caption 0 cannot tell videos 1, 2, 3; so three captions give each of these 3 * 1/3, and video 0 nothing
    gallery = torch.tensor([[0.0, 0.0]] * 3 + [[1.0, 0.0]] * 3)
    videos = torch.tensor([0, 0, 0, 1, 2, 3])
    result = plain(full_video_metrics(torch.ones(6, 2), gallery, videos, ks=(1,)))
    assert result["video_votes/R@1"] == pytest.approx(100 * float(Fraction(3, 3) / 4))
    assert result["video_votes/R@1"] == pytest.approx(result["clip_votes/R@1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.ones(2, 4)}, "expected queries"),
        ({"queries": torch.ones(3)}, "expected queries"),
        ({"videos": torch.zeros(2, dtype=torch.int64)}, "expected queries"),
        ({"videos": torch.zeros(3)}, "expected queries"),
        ({"ks": (0,)}, "ks must be"),
        ({"ks": ()}, "ks must be"),
        ({"chunk": 0}, "chunk: expected a whole number above 0, found 0"),
        (
            {"queries": torch.full((3, 4), math.nan)},
            "queries: expected finite embeddings, found .nan.* at 0, the first of 3",
        ),
        ({"queries": torch.full((3, 4), 3e38), "gallery": torch.full((3, 4), 3e38)}, "score is not finite"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, message):
    arguments = {"queries": torch.ones(3, 4), "gallery": torch.ones(3, 4), "videos": torch.tensor([0, 0, 1])}
    with pytest.raises(ValueError, match=message) as error:
        full_video_metrics(**(arguments | change))
    assert "\n" not in str(error.value)
    empty = torch.ones(0, 4)
    with pytest.raises(ValueError, match="no size 0"):
        full_video_metrics(empty, empty, torch.zeros(0, dtype=torch.int64))
