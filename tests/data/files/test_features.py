"""Reading, pooling and cutting of features against loops in float64; what a bad file gets."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import clips as reference

from mcn_lightning import batch
from mcn_lightning.batch import ClipBatch, cut_clips
from mcn_lightning.data.files.arrays import all_finite
from mcn_lightning.data.files.pooling import VisualStream, max_rows, read_rows
from mcn_lightning.data.files.spectrograms import AudioConfig, augment_audio, frames_at, read_spectrogram
from mcn_lightning.data.videos import new_tensor, read_sound
from mcn_lightning.errors import InputError


def pool_clips(rows, clips, rate):
    return ClipBatch(ids=(), video=max_rows(rows, clips, rate), video_widths=(rows.shape[1],)).ready().video


def pool(rows, start, end, rate):
    return pool_clips(rows, [(start, end)], rate)[0]


def spectrogram_clips(frames, clips, num_frames, pad_value=0.0, clamp_start=True):
    config = AudioConfig(bands=len(frames), num_frames=num_frames, pad_value=pad_value, clamp_start=clamp_start)
    sound = read_sound(frames.T, clips, config, new_tensor)
    assert len(sound.frames) <= sound.length.sum()
    cut = cut_clips(sound.frames, sound.start, sound.length, num_frames, pad_value)
    gathered = batch._gather(sound.frames, sound.start, sound.length, num_frames, pad_value)  # as on a GPU
    assert torch.equal(cut, gathered.transpose(1, 2))
    return cut, sound.length


def spectrogram(frames, start, end, *args, **options):
    cut, lengths = spectrogram_clips(frames, [(start, end)], *args, **options)
    return cut[0], int(lengths[0])


def npz(path, compress=False, **arrays):
    (np.savez_compressed if compress else np.savez)(path, **arrays)
    return path


@pytest.fixture
def rows():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((30, 5)).astype(np.float16))


@pytest.fixture
def frames():
    return torch.from_numpy(np.random.default_rng(1).uniform(-80, 0, (4, 900)).astype(np.float16))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_stored(tmp_path, dtype, compress, order):
    stored = np.asarray(np.random.default_rng(0).standard_normal((7, 3)), dtype=dtype, order=order)
    path = npz(tmp_path / "a.npz", compress, other=np.arange(9), features=stored)
    read = read_rows(path, 3)
    assert read.dtype == torch.from_numpy(stored.copy()).dtype
    np.testing.assert_array_equal(read.numpy(), stored)


def test_big_endian_arrays_are_read(tmp_path):
    stored = np.arange(6, dtype=">f4").reshape(2, 3)
    np.testing.assert_array_equal(read_rows(npz(tmp_path / "a.npz", features=stored), 3).numpy(), stored)


def test_writing_to_what_was_read_leaves_the_file_alone(tmp_path):
    path = npz(tmp_path / "a.npz", features=np.ones((2, 3), np.float32))
    before = path.read_bytes()
    read_rows(path, 3).zero_()
    assert path.read_bytes() == before
    assert read_rows(path, 3).sum() == 6


def bad_files():
    good = np.ones((4, 3), np.float16)
    return {
        "missing": (None, ["found no file"]),
        "empty": (b"", ["whole .npz file", "damaged"]),
        "text": (b"hello, world" * 50, ["whole .npz file", "damaged"]),
        "other array": ({"arr": good}, ["expected the array 'features'", "arr"]),
        "width": ({"features": np.ones((4, 5), np.float16)}, ["(rows, 3)", "(4, 5)"]),
        "one dimension": ({"features": np.ones(3, np.float16)}, ["(rows, 3)", "(3,)"]),
        "no rows": ({"features": np.ones((0, 3), np.float16)}, ["at least one row", "(0, 3)"]),
        "integers": ({"features": np.ones((4, 3), np.int64)}, ["floating-point", "int64"]),
        "long double": ({"features": np.ones((4, 3), np.longdouble)}, ["floating-point", str(np.dtype(np.longdouble))]),
        "objects": ({"features": np.array([[None] * 3], dtype=object)}, ["features"]),
    }


@pytest.mark.parametrize("kind", bad_files())
def test_a_bad_file_is_refused_in_one_line(tmp_path, kind):
    content, parts = bad_files()[kind]
    path = tmp_path / "video_2d.npz"
    if isinstance(content, dict):
        npz(path, **content)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_rows(path, 3)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    for part in parts:
        assert part in message


@pytest.mark.parametrize("compress", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, compress):
    path = npz(tmp_path / "a.npz", compress, features=np.random.default_rng(0).standard_normal((40, 3)))
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            read_rows(path, 3)


@pytest.mark.parametrize("compress", [False, True])
def test_a_header_that_promises_more_rows_than_there_are_is_refused(tmp_path, compress):
    path = npz(tmp_path / "a.npz", features=np.zeros((10, 3)))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("features.npy").replace(b"(10, 3)", b"(11, 3)")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        archive.writestr("features.npy", content)
        archive.writestr("more.npy", bytes(1000))
    with pytest.raises(InputError, match=r"a\.npz.*damaged"):
        read_rows(path, 3)


def test_nothing_is_unpickled(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return marker.touch, ()

    path = npz(tmp_path / "a.npz", features=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError):
        read_rows(path, 3)
    assert not marker.exists()


def test_a_spectrogram_of_other_bands_is_refused(tmp_path):
    path = tmp_path / "a_spec.npz"
    np.savez(path, np.ones((64, 10), np.float16))
    with pytest.raises(InputError, match=r"a_spec\.npz: expected arr_0 of shape \(40, frames\), found \(64, 10\)"):
        read_spectrogram(path, 40)
    assert read_spectrogram(path, 64).shape == (64, 10)


@pytest.mark.parametrize("rate", [1.0, 1.5, 2.0])
def test_pooling_equals_the_loops(rows, rate):
    rng = np.random.default_rng(2)
    for _ in range(50):
        start = float(rng.uniform(0, 35))
        end = start + float(rng.uniform(0, 12))
        expected = reference.pool(rows.tolist(), start, end, rate)
        torch.testing.assert_close(pool(rows, start, end, rate), torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_pooled_features_have_length_one_and_include_the_last_row(rows):
    assert float(pool(rows, 3.0, 9.0, 1.0).norm()) == pytest.approx(1.0, abs=1e-6)
    peak = torch.zeros(10, 2)
    peak[6, 0] = 3.0
    assert pool(peak, 2.0, 6.0, 1.0).tolist() == [1.0, 0.0]  # row int(6.0) is in
    assert pool(peak, 2.0, 5.99, 1.0).tolist() == [0.0, 0.0]


def test_no_row_in_the_window_gives_zeros(rows):
    assert pool(rows, 30.0, 40.0, 1.0).tolist() == [0.0] * 5
    assert pool(torch.zeros(10, 5), 0.0, 4.0, 1.0).tolist() == [0.0] * 5


def test_negative_features_are_pooled_too():
    torch.testing.assert_close(
        pool(torch.tensor([[-3.0, -4.0], [-6.0, -8.0]]), 0.0, 1.0, 1.0), torch.tensor([-0.6, -0.8])
    )


def test_repeated_clips_are_pooled_alike(rows):
    spans = [(0.0, 4.0), (3.0, 9.0), (0.0, 4.0), (29.0, 60.0), (50.0, 60.0)]
    together = pool_clips(rows, spans, 1.5)
    assert together.shape == (5, 5) and together.dtype == torch.float32
    for row, (start, end) in zip(together, spans, strict=True):
        assert torch.equal(row, pool(rows, start, end, 1.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_number_that_is_not_finite_is_seen(dtype):
    limits = torch.finfo(dtype)
    fine = torch.tensor([[limits.max, -0.0, limits.tiny], [limits.min, 0.0, -1.0]], dtype=dtype)
    assert all_finite(fine) and all_finite(fine.T) and all_finite(fine[:, 1:])
    for bad in (float("nan"), -float("nan"), float("inf"), -float("inf")):
        for place in range(6):
            spoilt = fine.clone()
            spoilt.view(-1)[place] = bad
            assert not all_finite(spoilt) and not all_finite(spoilt.T)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_row_is_refused_only_where_it_is_used(rows, bad):
    rows[12, 1] = bad
    pool(rows, 0.0, 11.9, 1.0)
    with pytest.raises(InputError, match=r"finite numbers in the clip 10\.00 to 14\.00 s, found 1 NaN"):
        pool(rows, 10.0, 14.0, 1.0)


def test_minus_infinity_is_refused_where_it_is_the_maximum(rows):
    rows[12, 1] = -float("inf")
    pool(rows, 10.0, 14.0, 1.0)
    with pytest.raises(InputError, match="found 1 NaN"):
        pool(rows, 12.0, 12.5, 1.0)


def test_large_finite_numbers_pass():
    assert torch.isfinite(pool(torch.full((3, 2), 60000.0).half(), 0.0, 2.0, 1.0)).all()


@pytest.mark.parametrize(
    ("seconds", "frame"),
    [(0.0, -2), (0.002499, -2), (0.0025, -1), (0.0124, -1), (0.0125, 0), (0.0225, 1), (1.0, 98), (10.0, 998)],
)
def test_frames_of_times(seconds, frame):
    assert frames_at([[seconds]]).tolist() == [[frame]] and frame == reference.frame(seconds)


def test_spectrograms_equal_the_loops(frames):
    rng = np.random.default_rng(3)
    for _ in range(40):
        start = float(rng.uniform(0, 10))
        end = start + float(rng.uniform(0, 5))
        cut, length = spectrogram(frames, start, end, 250, pad_value=-80.0)
        expected, count = reference.spectrogram(frames.tolist(), start, end, 250, -80.0)
        assert length == count
        assert torch.equal(cut.float(), torch.tensor(expected))


def test_short_clips_are_padded_on_the_right_and_long_ones_cut(frames):
    cut, length = spectrogram(frames, 1.0, 3.0, 1000)
    assert length == 200 and cut.shape == (4, 1000) and cut.dtype == torch.float16
    assert torch.equal(cut[:, :200], frames[:, 98:298]) and not cut[:, 200:].any()
    cut, length = spectrogram(frames, 1.0, 8.0, 300)
    assert length == 300 and torch.equal(cut, frames[:, 98:398])
    cut, length = spectrogram(frames, 8.5, 20.0, 300)  # the sound ends first
    assert length == 52 and torch.equal(cut[:, :52], frames[:, 848:])
    cut, length = spectrogram(frames, 15.0, 20.0, 300, pad_value=-80.0)
    assert length == 0 and (cut == -80.0).all()


def test_the_released_fault_gives_silence_at_the_start_of_a_video(frames):
    cut, length = spectrogram(frames, 0.0, 5.0, 600)
    assert length == 498 and torch.equal(cut[:, :498], frames[:, :498])
    cut, length = spectrogram(frames, 0.0, 5.0, 600, clamp_start=False)
    assert length == 0 and not cut.any()
    cut, length = spectrogram(
        frames, 0.0, 20.0, 600, clamp_start=False
    )  # a video shorter than the window: its last two
    assert length == 2 and torch.equal(cut[:, :2], frames[:, -2:])
    for start in (0.0125, 2.0):
        assert torch.equal(spectrogram(frames, start, 5.0, 600)[0], spectrogram(frames, start, 5.0, 600, 0.0, False)[0])


@given(
    st.lists(st.tuples(st.floats(0, 12), st.floats(0, 4)), min_size=1, max_size=12), st.integers(1, 300), st.booleans()
)
def test_clips_of_one_video_share_their_frames_and_equal_each_alone(drawn, num_frames, clamp_start):
    frames = torch.from_numpy(np.random.default_rng(0).normal(-40, 5, (2, 900))).half()
    spans = [(start, start + length) for start, length in drawn]
    together, lengths = spectrogram_clips(frames, spans, num_frames, -5.0, clamp_start)
    assert lengths.dtype == torch.int64
    for cut, length, (start, end) in zip(together, lengths.tolist(), spans, strict=True):
        first, stop = reference.frame(start), reference.frame(end)
        window = frames[:, slice(max(first, 0), max(stop, 0)) if clamp_start else slice(first, stop)][:, :num_frames]
        assert length == window.shape[1]
        assert torch.equal(cut[:, :length], window) and (cut[:, length:] == -5.0).all()


def test_frames_that_clips_share_are_read_once(frames):
    config = AudioConfig(bands=4, num_frames=300)
    sound = read_sound(frames.T, [(4.0, 6.0), (1.0, 3.0), (2.0, 4.5), (1.0, 3.0)], config, new_tensor)
    assert torch.equal(sound.frames, frames[:, 98:598].T)
    assert sound.start.tolist() == [300, 0, 100, 0] and sound.length.tolist() == [200, 200, 250, 200]


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_a_non_finite_frame_is_refused_only_where_it_is_used(frames, bad):
    frames[2, 400] = bad
    spectrogram(frames, 0.0, 3.0, 300)
    spectrogram(frames, 3.0, 6.0, 50)  # cut before it
    with pytest.raises(InputError, match=r"finite numbers in the clip 3\.00 to 6\.00 s, found 1 NaN"):
        spectrogram(frames, 3.0, 6.0, 300)


def test_masks_are_blocks_at_the_clip_s_mean_and_leave_the_padding(frames):
    cut, lengths = spectrogram_clips(frames, [(0.0, 2.0), (1.0, 4.0), (20.0, 22.0)] * 20, 300)
    stored, before = cut.clone(), cut.float()
    config = AudioConfig(bands=4, num_frames=300, mask_bands=2, mask_frames=30)
    masked, kept = augment_audio(cut, lengths, config, np.random.default_rng(0))
    assert torch.equal(kept, lengths)
    assert torch.equal(cut, stored) and masked.dtype == torch.float32
    widths = set()
    for clip, old, length in zip(masked, before, lengths.tolist(), strict=True):
        assert torch.equal(clip[:, length:], old[:, length:])
        if length == 0:
            continue
        changed = clip[:, :length] != old[:, :length]
        bands, columns = changed.all(dim=1), changed.all(dim=0)
        widths.add((int(bands.sum()), int(columns.sum())))
        for block in (bands.nonzero().flatten(), columns.nonzero().flatten()):
            assert len(block) == 0 or int(block[-1] - block[0]) == len(block) - 1
        assert not changed[~bands][:, ~columns].any()
        if changed.any():
            mean = old[:, :length].mean()
            torch.testing.assert_close(clip[:, :length][changed], mean.expand(int(changed.sum())))
    assert {bands for bands, _ in widths} == {0, 1, 2}
    assert max(columns for _, columns in widths) <= 30 and len(widths) > 10


def test_masks_of_no_width_and_of_the_same_draw():
    cut, lengths = torch.zeros(2, 4, 10), torch.tensor([10, 4])
    assert augment_audio(cut, lengths, AudioConfig(bands=4, num_frames=10), np.random.default_rng(0))[0] is cut
    config = AudioConfig(bands=4, num_frames=10, mask_bands=4, mask_frames=10)
    noise = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0))
    first, second = (augment_audio(noise, lengths, config, np.random.default_rng(7))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_stretch_changes_the_length_and_keeps_the_line():
    ramp = torch.arange(100.0).repeat(2, 1)
    cut, lengths = torch.nn.functional.pad(ramp, (0, 50)).repeat(200, 1, 1), torch.full((200,), 100)
    config = AudioConfig(bands=2, num_frames=150, time_stretch=0.2)
    stretched, frames = augment_audio(cut, lengths, config, np.random.default_rng(0))
    assert 80 <= int(frames.min()) < 85 and 115 < int(frames.max()) <= 120
    for clip, length in zip(stretched, frames.tolist(), strict=True):
        expected = (np.arange(length) + 0.5) * 100 / length - 0.5
        np.testing.assert_allclose(clip[0, :length].numpy(), expected.clip(0, 99), atol=1e-3)
        assert (clip[:, length:] == 0).all()


def test_band_shift_moves_all_bands_and_repeats_the_edge():
    cut, lengths = torch.arange(5.0)[None, :, None].repeat(300, 1, 4), torch.full((300,), 4)
    shifted, _ = augment_audio(cut, lengths, AudioConfig(bands=5, num_frames=4, band_shift=2), np.random.default_rng(0))
    seen = {tuple(clip[:, 0].tolist()) for clip in shifted}
    assert seen == {tuple(np.clip(np.arange(5.0) - by, 0, 4).tolist()) for by in range(-2, 3)}


@pytest.mark.parametrize(
    ("config", "option", "value"),
    [
        (VisualStream, "rate", 0.0),
        (VisualStream, "width", 0),
        (AudioConfig, "bands", 0),
        (AudioConfig, "num_frames", 0),
        (AudioConfig, "time_shift", -0.5),
        (AudioConfig, "time_stretch", 1.0),
        (AudioConfig, "band_shift", 40),
        (AudioConfig, "mask_bands", 41),
        (AudioConfig, "mask_frames", 1001),
        (AudioConfig, "pad_value", float("nan")),
    ],
)
def test_a_wrong_option_is_named(config, option, value):
    room = "streams" if config is VisualStream else "audio"
    with pytest.raises(ValueError, match=rf"--data\.{room}\.{option}: expected .* found {value}"):
        config(**{option: value})
