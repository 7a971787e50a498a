"""Sound in its place: equal to what was written, silent where nothing was, in sync with the picture."""

from __future__ import annotations

import av
import numpy as np
import pytest

from extract.decoding.test_decode import HEVC, VP9, X264, Samples, decode, zero_of
from extract.films import Film, Sound, click_track, write
from mcn_lightning.extract.decode import decode_video

RATE = 16_000
PLAIN = Film(options=X264, sound=Sound())
LOSSLESS = 1e-4  # 16 bits
RESAMPLED = 2e-3  # of a tone at 3.1 kHz, in the resampler's passband
CODED = 0.1  # of the root mean square, at the best place within half a sample; one sample off gives 0.7

SOUNDS = {
    "16k.mkv": (Sound("flac", RATE, seconds=4), LOSSLESS),
    "16k_pcm.mkv": (Sound("pcm_s16le", RATE, seconds=4), LOSSLESS),
    "8k.mkv": (Sound("flac", 8_000, seconds=4), RESAMPLED),
    "44k.mkv": (Sound("flac", 44_100, seconds=4), RESAMPLED),
    "48k.mkv": (Sound("flac", 48_000, seconds=4), RESAMPLED),
    "96k.mkv": (Sound("flac", 96_000, seconds=4), RESAMPLED),
    "stereo.mkv": (Sound("flac", 44_100, "stereo", gains=(0.9, -0.2), seconds=4), RESAMPLED),
    "surround.mkv": (Sound("flac", 48_000, "5.1", gains=(1, 0.5, 0.25, -0.1, 0.3, 0.6), seconds=4), RESAMPLED),
    "three_channels.mkv": (Sound("pcm_s16le", 48_000, "2.1", gains=(1, 0.5, 0.25), seconds=4), RESAMPLED),
    "late.mkv": (Sound("flac", 48_000, start=2.0, seconds=4), RESAMPLED),
    "late.mp4": (Sound("flac", 48_000, start=2.0, seconds=4), RESAMPLED),
    "longer.mkv": (Sound("flac", 48_000, seconds=9), RESAMPLED),
    "gaps.mkv": (Sound("pcm_s16le", RATE, gaps=((0.96, 1.536), (2.944, 3.2)), seconds=4), LOSSLESS),
    "aac.mp4": (Sound("aac", 44_100, seconds=4), CODED),
    "aac.ts": (Sound("aac", 48_000, "stereo", seconds=4), CODED),
    "mp2.mpg": (Sound("mp2", 44_100, "stereo", seconds=4, options={"b": "192k"}), CODED),
    "mp3.mp4": (Sound("libmp3lame", 44_100, "stereo", seconds=4), CODED),
    "opus.webm": (Sound("libopus", 48_000, "stereo", seconds=4), CODED),
    "ac3.mkv": (Sound("ac3", 48_000, "5.1", gains=(1, 1, 1, 0, 1, 1), seconds=4), CODED),
    "gaps.mp4": (Sound("aac", RATE, gaps=((1.024, 2.56),)), CODED),
}  # fmt: skip


def heard(sound: Sound, times: np.ndarray) -> np.ndarray:
    """Return the mono samples that a track has at times of its own clock: the mean of its channels."""
    channels = len(av.AudioLayout(sound.layout).channels)
    gain = np.mean(sound.gains or (1.0,) * channels)
    present = (times >= sound.start) & (times < sound.start + sound.seconds)
    for first, last in sound.gaps:
        present &= ~((times >= first) & (times < last))
    return np.where(present, gain * sound.wave(times), 0.0)


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_is_what_was_written_at_its_time(tmp_path, name):
    sound, tolerance = SOUNDS[name]
    codec, options = ("libvpx-vp9", VP9) if name.endswith("webm") else ("libx264", X264)
    if name.endswith("mpg"):
        codec, options = "mpeg1video", {}
    film = Film(codec, seconds=4.0, options=options, sound=sound)
    path = write(tmp_path / name, film)
    samples = Samples()
    outcome = decode_video(path, [], samples)
    found, zero = samples.all, zero_of(path, film)
    assert outcome.sound == len(found) / RATE
    assert len(found) == pytest.approx((sound.start + sound.seconds - zero) * RATE, abs=0.06 * RATE)
    times = np.arange(len(found)) / RATE + zero
    if tolerance == CODED:  # packets overlap: what borders on a lost one is damaged too
        kept = np.all([np.abs(times - edge) > 0.13 for gap in sound.gaps for edge in gap] or [times == times], axis=0)
        errors = [
            root_mean_square((found - heard(sound, times + shift))[kept]) for shift in np.linspace(-0.5, 0.5, 17) / RATE
        ]
        assert min(errors) < CODED * root_mean_square(heard(sound, times)[kept])
    else:
        assert np.abs(found - heard(sound, times)).max() < tolerance


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def test_sound_equals_what_ffmpeg_makes_of_the_whole(tmp_path):
    """Decoded whole, resampled by one filter graph, the mean of both channels: as `ffmpeg -ar 16000` does."""
    path = write(tmp_path / "a.mp4", PLAIN.but(sound=Sound(layout="stereo", gains=(1.0, 0.3))))
    whole = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", rate=RATE)
        for frame in [*container.decode(audio=0), None]:
            whole += [each.to_ndarray() for each in resampler.resample(frame)]
    truth = np.concatenate(whole, axis=1).mean(axis=0)
    samples = Samples()
    decode_video(path, [], samples)
    assert len(samples.all) == len(truth) and np.abs(samples.all - truth).max() < 1e-6


FLIP = 77  # at 3.08 s of 25 frames a second
SYNCED = {
    "plain.mp4": Film(options=X264),
    "picture_late.mp4": Film(options=X264, start=2.0),
    "picture_late.mkv": Film(options=X264, start=2.0),
    "picture_late.ts": Film(options=X264, start=2.0),
    "picture_first.mp4": Film(options=X264, sound=Sound(start=2.0)),
    "offset.ts": Film(options=X264, start=40.0, sound=Sound(start=40.0)),
    "offset.mkv": Film(options=X264, start=7.3, sound=Sound("flac", start=7.3)),
    "mpeg1.ts": Film("mpeg1video", start=8.0, sound=Sound("mp2", start=8.0)),
    "mpeg1.mpg": Film("mpeg1video", sound=Sound("mp2")),
    "vp9.webm": Film("libvpx-vp9", options=VP9, sound=Sound("libopus", 48_000)),
    "hevc.mkv": Film("libx265", "yuv420p10le", options=HEVC, sound=Sound("ac3", 48_000)),
    "telephone.mp4": Film(options=X264, sound=Sound(rate=8_000)),
    "lost_packet.mp4": Film(options=X264, sound=Sound(gaps=((1.0, 1.02),))),
    "lost_packets.mkv": Film(options=X264, sound=Sound("ac3", 48_000, gaps=((1.0, 1.6), (2.0, 2.03)))),
}  # fmt: skip


@pytest.mark.parametrize("name", SYNCED)
def test_a_click_is_heard_when_the_picture_flips(tmp_path, name):
    film = SYNCED[name]
    time = film.start + FLIP / 25
    sound = film.sound or Sound()
    film = film.but(flip=FLIP, sound=Sound(**{**vars(sound), "wave": click_track(time)}))
    frames, samples, _ = decode(write(tmp_path / name, film), 200.0)
    bright = np.array([picture[0].mean() > 128 for picture in frames[0].pictures])
    seen = (
        int(np.argmax(bright)) + 0.25
    ) / 200  # row k is of k + 0.5, and so the flip lies between k - 0.5 and k + 0.5
    found = int(np.argmax(np.abs(samples) > 0.3 * np.abs(samples).max())) / RATE
    assert not bright[0] and bright[-1] and np.abs(samples).max() > 0.2
    assert abs(found - seen) < 0.01
