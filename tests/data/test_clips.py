"""Choice of clips against a slow reference."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references import clips as reference

from data.sharding import narrated, opened, packed, same
from mcn_lightning.data.captions import parse_captions
from mcn_lightning.data.clips import (
    ClipConfig,
    all_windows,
    caption_clip,
    count_starts,
    merge,
    sample_clips,
    sample_indices,
    sample_windows,
)
from mcn_lightning.data.dataset import NarratedVideoDataset
from mcn_lightning.data.files.spectrograms import AudioConfig, clip_frames, seconds_of_frames, window_span
from mcn_lightning.data.videos import check_lengths
from mcn_lightning.errors import InputError


def random_captions(rng, kind):
    count = int(rng.integers(1, 12))
    start = np.sort(rng.uniform(0, 40, count))
    end = start + rng.uniform(0.2, 8, count)  # they overlap
    if kind == "halves":  # many equal spans
        start = np.cumsum(rng.integers(1, 4, count)) / 2
        end = start + rng.integers(1, 3, count) / 2
    if kind == "out of order":
        order = rng.permutation(count)
        start, end = start[order], end[order]
    return start.tolist(), end.tolist()


@pytest.mark.parametrize("kind", ["overlapping", "halves", "out of order"])
@pytest.mark.parametrize("min_time", [0.0, 1.0, 3.5, 10.0, 1000.0])
def test_merging_equals_the_reference(kind, min_time):
    rng = np.random.default_rng(len(kind))
    for _ in range(60):
        start, end = random_captions(rng, kind)
        for index in range(len(start)):
            merged = merge(start, end, index, min_time)
            begin, stop, order = reference.grow(start, end, index, min_time)
            assert (merged.start, merged.end, list(merged.order)) == (begin, stop, order)
            assert (merged.first, merged.last) == (min(order), max(order))


def nested(rng):
    """Captions of which many end after the next ones."""
    start = np.sort(rng.uniform(0, 40, 12))
    return start.tolist(), (start + rng.choice([0.5, 2.0, 25.0], 12)).tolist()


@pytest.mark.parametrize("min_time", [0.0, 3.5, 10.0, 1000.0])
def test_the_span_of_the_released_code_equals_the_reference(min_time):
    differ = 0
    for seed in range(30):
        start, end = nested(np.random.default_rng(seed))
        for index in range(len(start)):
            clip = caption_clip(start, end, index, min_time, widest=False)
            assert (clip.start, clip.end, list(clip.order)) == reference.grow_in_order(start, end, index, min_time)
            differ += clip != caption_clip(start, end, index, min_time)
    assert (differ > 50) == (min_time > 0)


def test_the_span_is_an_option_that_shards_keep(tiny, tmp_path):
    root = shutil.copytree(tiny, tmp_path / "copy")
    entries = json.loads((root / "captions.json").read_text())
    for entry in entries.values():
        entry["end"][1] = 29.0
    (root / "captions.json").write_text(json.dumps(entries))
    released = ClipConfig(n_pair=6, min_time=8.0, span="first_to_last")
    widest, ordered = opened(root), opened(root, clips=released)
    start, end, _ = (entries[ordered.datasets["train"].source.id(0)][name] for name in ("start", "end", "text"))
    chosen = ordered.datasets["train"]._choose(np.random.default_rng(0), "v", ordered.datasets["train"].source.open(0))
    for clip in chosen:
        assert (clip.start, clip.end, list(clip.order)) == reference.grow_in_order(start, end, clip.number, 8.0)
    one, other = (data.datasets["train"][(0, 0)] for data in (widest, ordered))
    assert one.ids == other.ids and not torch.equal(one.video, other.video)
    packed(root, tmp_path / "shards", clips=released)
    same(other, opened(root, clips=released, shards=str(tmp_path / "shards")).datasets["train"][(0, 0)])
    with pytest.raises(InputError, match=r"--data\.clips\.span: expected first_to_last, .*found widest; pack again"):
        opened(root, shards=str(tmp_path / "shards"))
    packed(root, tmp_path / "default")
    with pytest.raises(InputError, match=r"--data\.clips\.span: expected widest, .*found first_to_last; pack again"):
        opened(root, clips=released, shards=str(tmp_path / "default"))


def test_the_previous_caption_wins_a_tie_and_words_follow_in_the_order_of_merging():
    start, end = [0.0, 4.0, 8.0, 12.0], [2.0, 6.0, 10.0, 14.0]
    assert merge(start, end, 1, 5.0).order == (1, 0)
    assert merge(start, end, 1, 9.0).order == (1, 0, 2)
    assert merge(start, end, 2, 9.0).order == (2, 1, 0)  # a tie again


def test_at_an_end_of_the_video_only_the_other_side_is_left():
    start, end = [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]
    assert merge(start, end, 0, 2.5) == (0, 2, 0.0, 3.0, (0, 1, 2))
    assert merge(start, end, 2, 2.5) == (0, 2, 0.0, 3.0, (2, 1, 0))
    assert merge(start, end, 0, 99.0).end == 3.0  # stays short
    assert merge([4.0], [5.0], 0, 10.0) == (0, 0, 4.0, 5.0, (0,))


def test_a_caption_of_exactly_min_time_does_not_grow():
    assert merge([0.0, 10.0], [10.0, 20.0], 0, 10.0).order == (0,)
    assert merge([0.0, 10.0], [9.99, 20.0], 0, 10.0).order == (0, 1)


def test_drawing_with_replacement_is_uniform():
    drawn = Counter(sample_indices(np.random.default_rng(0), 5, 20_000, True))
    assert set(drawn) == set(range(5))
    assert max(abs(number - 4000) for number in drawn.values()) < 300
    assert len(set(sample_indices(np.random.default_rng(0), 32, 32, True))) < 32


@pytest.mark.parametrize(("count", "n_pair"), [(5, 5), (5, 12), (7, 3), (1, 4)])
def test_drawing_without_replacement_takes_every_caption_before_one_comes_again(count, n_pair):
    drawn = sample_indices(np.random.default_rng(1), count, n_pair, False)
    assert len(drawn) == n_pair
    for first in range(0, n_pair, count):
        part = drawn[first : first + count]
        assert len(set(part)) == len(part)
    assert set(drawn) <= set(range(count))


def test_drawn_clips_are_the_reference_s_clips():
    rng = np.random.default_rng(5)
    start, end = random_captions(rng, "overlapping")
    config = ClipConfig(n_pair=40, min_time=6.0)
    clips = sample_clips(
        np.random.default_rng(9),
        len(start),
        lambda drawn: {index: caption_clip(start, end, index, 6.0) for index in drawn},
        config,
    )
    assert [clip.number for clip in clips] == sample_indices(np.random.default_rng(9), len(start), 40, True)
    for clip in clips:
        begin, stop, order = reference.grow(start, end, clip.number, 6.0)
        assert (clip.start, clip.end, list(clip.order)) == (begin, stop, order)


@pytest.mark.parametrize("replacement", [True, False])
def test_windows_start_at_whole_seconds_inside_the_video(replacement):
    config = ClipConfig(kind="windows", n_pair=500, min_time=8.0, replacement=replacement)
    windows = sample_windows(np.random.default_rng(0), 20.5, count_starts(20.5, 8.0), config)
    assert {window.number for window in windows} == set(range(13))  # 0 to 12: 12 + 8 <= 20.5
    assert all(w.start == w.number and w.end == w.start + 8.0 and w.order == () for w in windows)


def test_a_video_shorter_than_the_window_gives_itself():
    config = ClipConfig(kind="windows", n_pair=2, min_time=8.0)
    windows = sample_windows(np.random.default_rng(0), 3.2, count_starts(3.2, 8.0), config)
    assert [(w.start, w.end) for w in windows] == [(0.0, 3.2)] * 2
    assert count_starts(3.2, 8.0, 3.2, 10.0) == 1


@pytest.mark.parametrize("num_frames", [1000, 1024, 300])
@pytest.mark.parametrize("columns", [1, 500, 1000, 1200, 1299, 1300, 6000, 6001, 41_234])
def test_windows_with_sound_start_where_the_released_code_starts_them(columns, num_frames):
    sound, heard = seconds_of_frames(columns), seconds_of_frames(num_frames)
    assert (sound, heard) == (reference.time(columns), reference.time(num_frames))
    starts = count_starts(columns / 100, float(int(heard)), sound, heard)
    assert list(range(starts)) == reference.window_starts(columns, num_frames)
    if num_frames == 1000 and columns == 6000:
        assert starts - 1 == 60 - 12


@pytest.mark.parametrize("num_frames", [1000, 1024, 90])
def test_windows_have_all_frames_that_there_are(num_frames):
    frames = np.random.default_rng(0).standard_normal((2, 1700))
    for second in (0, 1, 6, 7, 12):
        runs, _, (count,) = clip_frames(1700, [window_span(float(second), num_frames)], num_frames)
        expected, length = reference.window_spectrogram(frames, second, num_frames)
        assert count == length and (second > 6 or length == num_frames)
        ((first, stop),) = runs
        assert frames[:, first:stop].tolist() == [band[:length] for band in expected]


def test_windows_of_a_data_set(tiny):
    """Of 30 s, windows of 8 s with 1,000 frames each: the first one has them all."""
    options = {"modalities": ("video", "audio"), "audio": AudioConfig(num_frames=1000, clamp_start=False)}
    clips = ClipConfig(kind="windows", n_pair=2000, min_time=8.0)
    data = narrated(tiny, **options, clips=clips)
    data.setup("fit")
    batch = data.datasets["train"][(0, 0)].ready()
    numbers = [int(name.split(":")[1]) for name in batch.ids]
    assert set(numbers) == set(range(30 - 12 + 1)) and batch.audio_frames.tolist() == [1000] * 2000
    stored = data.datasets["train"].source.open(0).frames
    for place in (numbers.index(0), numbers.index(7)):
        expected, _ = reference.window_spectrogram(stored.tolist(), numbers[place], 1000)
        assert batch.audio[place].tolist() == expected
    held_out = data.datasets["val"][(0, 0)]
    assert held_out.audio_frames.tolist() == [1000, 1000, 1000, 602]


def test_windows_that_are_moved_keep_their_frames(tiny):
    audio = AudioConfig(num_frames=1000, time_shift=0.5)
    clips = ClipConfig(kind="windows", n_pair=200, min_time=10.0)
    data = narrated(tiny, modalities=("audio",), audio=audio, clips=clips)
    data.setup("fit")
    assert data.datasets["train"][(0, 0)].audio_frames.tolist() == [1000] * 200


@pytest.mark.parametrize(("duration", "length"), [(20.0, 8.0), (20.5, 5.0), (3.2, 8.0), (7.0, 2.5)])
def test_consecutive_windows_cover_the_video(duration, length):
    windows = all_windows(duration, length)
    assert windows[0].start == 0.0 and windows[-1].end == pytest.approx(duration)
    assert len({window.number for window in windows}) == len(windows)
    assert all(after.start <= before.end for before, after in pairwise(windows))
    assert all(0 < window.end - window.start <= length for window in windows)


@pytest.mark.parametrize(
    ("option", "value"),
    [("kind", "shots"), ("span", "all"), ("n_pair", 0), ("min_time", -1.0), ("eval_min_time", -1.0), ("overrun", -0.1)],
)
def test_a_wrong_option_is_named(option, value):
    with pytest.raises(ValueError, match=rf"--data\.clips\.{option}: expected .* found '?{value}"):
        ClipConfig(**{option: value})


def test_windows_of_less_than_a_second_are_refused():
    for seconds in (0.0, 0.5):  # they start at whole seconds: shorter ones would leave gaps
        with pytest.raises(ValueError, match=r"min_time: expected at least 1 second for windows, found 0\.[05]"):
            ClipConfig(kind="windows", min_time=seconds)


SECONDS = st.floats(0.0, 4000.0, allow_nan=False, width=32)
LENGTHS = st.floats(0.015625, 30.0, allow_nan=False, width=32)
MESSY = st.lists(
    st.tuples(SECONDS, LENGTHS, st.text(max_size=12)), min_size=1, max_size=40
)  # in any order, overlapping


def spoken(messy):
    start, length, text = (list(column) for column in zip(*messy, strict=True))
    end = [begin + more for begin, more in zip(start, length, strict=True)]
    return parse_captions({"start": start, "end": end, "text": text})


@settings(max_examples=200)
@given(MESSY, st.floats(0.0, 60.0, allow_nan=False), st.booleans(), st.integers(0, 2**32))
def test_clips_of_messy_captions_keep_the_rules(messy, min_time, replacement, seed):
    captions = spoken(messy)
    config = ClipConfig(n_pair=8, min_time=min_time, replacement=replacement)
    rng = np.random.default_rng(seed)
    clips = sample_clips(rng, len(captions), lambda drawn: captions.clips(drawn, min_time), config)
    first, last = captions.start.min(), captions.end.max()
    assert len(clips) == 8
    for clip in clips:
        assert first <= clip.start < clip.end <= last  # it lies inside its video
        assert (
            clip.start <= captions.start[clip.number] and captions.end[clip.number] <= clip.end
        )  # contains its caption
        assert clip.order[0] == clip.number and len(set(clip.order)) == len(clip.order)
        assert sorted(clip.order) == list(range(min(clip.order), max(clip.order) + 1))
        # it lasts min_time where the video allows it: else it has taken in every caption there is
        assert clip.end - clip.start >= min_time or len(clip.order) == len(captions)
        assert clip.start == min(captions.start[list(clip.order)]) and clip.end == max(captions.end[list(clip.order)])


class Silent:
    """A video without features of which only captions and length are known."""

    lengths = ()

    def __init__(self, captions, duration):
        self.captions, self.duration = captions, duration


@settings(max_examples=200)
@given(MESSY, st.floats(0.1, 4100.0), st.sampled_from([0.0, 5.0, 1e9]), st.floats(0.0, 60.0), st.integers(0, 2**32))
def test_training_clips_lie_in_the_video_whatever_the_captions_say(messy, duration, overrun, min_time, seed):
    captions = spoken(messy)
    config = ClipConfig(n_pair=8, min_time=min_time, overrun=overrun)
    dataset, video = NarratedVideoDataset([], config), Silent(captions, duration)
    try:
        check_lengths("v", video, overrun)
        clips = dataset._choose(np.random.default_rng(seed), "v", video)
    except InputError:
        assert captions.end.max() > duration + overrun or captions.start.min() >= duration
        return
    assert len(clips) == 8
    for clip in clips:
        assert 0 <= clip.start < clip.end <= duration + overrun and clip.start < duration
        assert clip.start <= captions.start[clip.number] < duration and captions.end[clip.number] <= clip.end


@given(st.floats(0.1, 5000.0), st.floats(1.0, 60.0), st.integers(1, 64), st.integers(0, 2**32))
def test_windows_of_any_video_keep_the_rules(duration, length, n_pair, seed):
    config = ClipConfig(kind="windows", n_pair=n_pair, min_time=length)
    for window in sample_windows(np.random.default_rng(seed), duration, count_starts(duration, length), config):
        assert window.number == window.start and 0 <= window.start < window.end <= duration
        assert window.end - window.start == pytest.approx(min(length, duration))


def test_thousands_of_captions_and_none_at_all():
    count = 5000
    captions = spoken([(0.7 * number, 2.0, "word") for number in range(count)])
    clips = captions.clips(range(count), 10.0).values()
    assert all(clip.end - clip.start >= 10.0 and len(clip.order) <= 14 for clip in clips)
    with pytest.raises(InputError, match="at least one caption"):
        parse_captions({"start": [], "end": [], "text": []})
