"""The film of two hours of the benchmark of decoding is what it says, and takes no memory."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import av
import pytest
from forked import Popen

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "extract.py"


def run(*arguments: str) -> str:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen([sys.executable, str(SCRIPT), *arguments], **pipes, text=True) as process:
        said, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return said


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_film():
    """Four minutes need no more than one, but for the spectrogram: 0.5 MB a minute. Their pictures are 270 MB."""
    peaks = []
    for minutes in (1, 4):
        said = run("--seconds", "4", "--size", "128x72", "--hours", str(minutes / 60))
        row = said.splitlines()[-1].strip("| ").split(" | ")
        assert row[2] == f"{60 * minutes} + {1440 * minutes}" and int(row[3]) == pytest.approx(6000 * minutes, rel=0.01)
        peaks.append(float(row[6]))
    assert peaks[1] < peaks[0] + 30 and peaks[1] < 1000


def test_repeated_packets_make_one_film(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("benchmark_of_extract", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    once = script.generate(tmp_path / "a.mp4", 2, *script.FILMS["h264_b_frames.mp4"], "128x72", sound=True)
    path = script.repeat(once, tmp_path / "b.mp4", 5, 2)
    with av.open(str(path)) as container:
        times = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert times == pytest.approx([number / 25 for number in range(250)], abs=1e-3)
