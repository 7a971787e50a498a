"""The order of the videos of an epoch, and the shares of several processes."""

from __future__ import annotations

import pytest

from mcn_lightning.data.loading import ClipSampler


def test_an_epoch_has_every_video_once_in_an_order_of_its_own():
    sampler = ClipSampler(10, seed=5)
    first = list(sampler)
    assert first == list(sampler) and sorted(index for _, index in first) == list(range(10)) and len(sampler) == 10
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1} and [i for _, i in second] != [i for _, i in first]
    assert [i for _, i in ClipSampler(10, seed=6)] != [i for _, i in first]
    assert list(ClipSampler(3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("count", [1, 2, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_shares_are_of_one_size_and_do_not_overlap(count, world):
    train = [[i for _, i in ClipSampler(count, 1, True, rank, world)] for rank in range(world)]
    every = [index for share in train for index in share]
    assert len({len(share) for share in train}) == 1 and len(set(every)) == len(every) == count // world * world
    whole = [i for _, i in ClipSampler(count, 1, batch_size=2 * world)]
    parts = [[i for _, i in ClipSampler(count, 1, True, rank, world, 2)] for rank in range(world)]
    steps = range(0, len(parts[0]), 2)
    assert [i for step in steps for share in parts for i in share[step : step + 2]] == whole, "each step is one's"
    held_out = [[i for _, i in ClipSampler(count, 1, False, rank, world, end="pad")] for rank in range(world)]
    assert len({len(share) for share in held_out}) == 1
    assert {index for share in held_out for index in share} == set(range(count))


def test_videos_that_were_seen_are_left_out_once():
    sampler = ClipSampler(10, seed=5)
    whole = list(sampler)
    sampler.skip(4)
    assert list(sampler) == whole[4:] and list(sampler) == whole and len(sampler) == 10
