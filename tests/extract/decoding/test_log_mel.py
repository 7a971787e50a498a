"""The log-mel against its definition, librosa and real sound; in blocks, of any length, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from references.extract import log_mel

from mcn_lightning.extract.decode import decode_video
from mcn_lightning.extract.log_mel import LogMel, mel_filters, to_decibels


def spoken(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise whose loudness and colour change, with an offset, and a second without sound."""
    rng = np.random.default_rng(seed)
    count = round(16_000 * seconds)
    time = np.arange(count) / 16_000
    noise = np.convolve(rng.standard_normal(count), [1, 0.9, 0.7, 0.3], "same") * 0.05
    sound = noise * np.abs(np.sin(2 * time)) ** 3 + 0.2 * np.sin(2 * np.pi * 440 * time * (1 + 0.1 * time)) + 0.01
    sound[(time > 1) & (time < 2)] = 0
    return sound.astype(np.float32)


SOUNDS = {
    "spoken": spoken(7.3),
    "short": spoken(0.05),
    "clipped": np.clip(8 * spoken(3.0, 1), -1, 1),
    "quiet": 1e-4 * spoken(3.0, 2),
    "click": np.eye(1, 20_000, 12_345, dtype=np.float32)[0],
    "constant": np.full(16_000, 0.25, np.float32),
    "silence": np.zeros(16_001, np.float32),
}


def taken(sound: np.ndarray, piece: int = 1024) -> torch.Tensor:
    mel = LogMel()
    for begin in range(0, len(sound), piece):
        mel.take(sound[begin : begin + piece])
    found = mel.spectrogram()
    assert found is not None and found.dtype == torch.float16
    return found


def exact(sound: np.ndarray) -> torch.Tensor:
    """Return the log-mel in float64 before it is rounded to float16."""
    mel = LogMel()
    mel.take(sound)
    power = mel._block(0, 1 + len(sound) // 160)
    return to_decibels(power, float(power.max()))


def by_librosa(sound: np.ndarray) -> np.ndarray:
    """Return METHOD.md's log-mel by librosa, as the release computed it, in float64."""
    librosa = pytest.importorskip("librosa", reason="the comparison needs librosa")
    centred = sound.astype(np.float64) - sound.astype(np.float64).mean()
    raised = np.append(centred[0], centred[1:] - 0.97 * centred[:-1])
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    spectrum = librosa.stft(raised, n_fft=400, hop_length=160, win_length=400, window=window, pad_mode="reflect")
    filters = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=40, fmin=20, fmax=8_000, dtype=np.float64)
    return librosa.power_to_db(filters @ np.abs(spectrum) ** 2, ref=np.max, top_db=80)


def test_against_the_definition():
    """Sums of sines and cosines, one frame and one band after another."""
    sound = spoken(1.3)[12_800:]  # the last three tenths of a second are silent
    truth = np.array(log_mel(sound.astype(np.float64).tolist())).T
    assert exact(sound).shape == truth.shape == (40, 51)
    assert np.abs(exact(sound).numpy() - truth).max() < 1e-6


@pytest.mark.parametrize("name", SOUNDS)
def test_against_librosa(name):
    sound = SOUNDS[name]
    truth = by_librosa(sound)
    assert np.abs(exact(sound).numpy() - truth).max() < 1e-3
    stored = truth.astype(np.float16)
    found = taken(sound).numpy()
    assert found.shape == truth.shape
    assert np.mean(found == stored) >= 0.999
    assert np.abs(found.astype(np.float64) - truth).max() < 0.05


def test_the_filters_are_librosas():
    librosa = pytest.importorskip("librosa", reason="the comparison needs librosa")
    for bands in (40, 80):
        truth = librosa.filters.mel(sr=16_000, n_fft=400, n_mels=bands, fmin=20, fmax=8_000, dtype=np.float64)
        assert np.abs(mel_filters(bands).numpy() - truth).max() < 1e-12


@pytest.mark.parametrize("count", [1, 2, 3, 159, 160, 161, 199, 200, 201, 202, 400, 3199, 3200, 3201, 50_000])
def test_blocks_give_the_bits_of_the_whole(monkeypatch, count):
    sound = spoken(4.0)[:count]
    whole = taken(sound)
    assert whole.shape == (40, 1 + count // 160)
    for block in (1, 3, 20):
        monkeypatch.setattr("mcn_lightning.extract.log_mel.BLOCK", block)
        assert torch.equal(taken(sound, piece=701), whole)


def test_a_single_sample_silence_and_none():
    for sound in (np.array([0.3], np.float32), np.zeros(1, np.float32), np.zeros(5000, np.float32)):
        found = taken(sound)
        assert found.shape == (40, 1 + len(sound) // 160) and torch.equal(found, torch.zeros_like(found))
    assert LogMel().spectrogram() is None


def test_the_loudest_is_zero_and_the_floor_is_80_dB_below():
    found = taken(SOUNDS["spoken"]).float()
    assert float(found.max()) == 0.0 and float(found.min()) == -80.0


MEMORY = """
import resource, sys, tempfile, time
import numpy as np, torch
from mcn_lightning.extract.log_mel import LogMel
torch.set_num_threads(1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def run(seconds):
    mel, rng = LogMel(), np.random.default_rng(0)
    piece = rng.standard_normal(16_000).astype(np.float32)
    for _ in range(seconds):
        mel.take(piece)
    return tuple(mel.spectrogram().shape)

run(60)
before = peak()
shape = run(int(sys.argv[1]))
print(shape[1], peak() - before)
"""


def test_memory_grows_by_the_result_alone(tmp_path):
    """20 minutes in a third of what an hour may have."""
    minutes = 20
    command = [sys.executable, "-c", MEMORY, str(60 * minutes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True, cwd=tmp_path)
    frames, megabytes = done.stdout.split()
    assert int(frames) == 6000 * minutes + 1
    assert float(megabytes) < 200 * minutes / 60


class Samples(LogMel):
    """A spectrogram that keeps its sound."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[np.ndarray] = []

    def take(self, samples: np.ndarray) -> None:
        self.pieces.append(samples)
        super().take(samples)


def decoded(path: Path) -> np.ndarray:
    """Return the sound of a file decoded whole by FFmpeg, 16 kHz, the mean of its channels."""
    import av

    pieces = []
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", rate=16_000)
        for frame in [*container.decode(audio=0), None]:
            pieces += [each.to_ndarray() for each in resampler.resample(frame)]
    return np.concatenate(pieces, axis=1).mean(axis=0)


@pytest.mark.shared
@pytest.mark.parametrize("folder", ["photo_shows", "grid_raw"])
def test_real_films(shared, folder):
    """The sound is FFmpeg's, sample by sample, and the spectrogram is librosa's of it."""
    paths = [
        path for path in sorted((shared / "videos" / folder).iterdir()) if path.suffix in {".mp4", ".webm", ".mpg"}
    ]
    assert len(paths) == {"photo_shows": 10, "grid_raw": 24}[folder]
    for path in paths:
        mel = Samples()
        if path.stem == "show_09":  # has no sound
            continue
        decode_video(path, [], mel)
        sound, truth = np.concatenate(mel.pieces), decoded(path)
        begin = len(sound) - len(truth)  # from the start of the container to the first sample
        assert -160 <= begin <= 1600 and np.abs(sound[max(begin, 0) :] - truth[max(-begin, 0) :]).max() < 1e-6, path
        found = mel.spectrogram()
        assert found is not None
        stored = by_librosa(sound).astype(np.float16)
        assert found.shape == stored.shape and np.mean(found.numpy() == stored) >= 0.999, path
