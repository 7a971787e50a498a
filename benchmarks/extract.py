"""Decoding to one frame a second against OpenCV, decord and the command ffmpeg; memory for long films.

    python benchmarks/extract.py --threads 1 --rounds 5
    python benchmarks/extract.py --size 1920x1080 --seconds 20 --key_frames 50
    python benchmarks/extract.py --video FILM.mp4
    python benchmarks/extract.py --hours 2          # peak memory instead

Without --video, films are generated (25 frames a second, every 250th or so is a key frame): H.264 with B-frames, H.264
without, VP9. Each reader brings the frames to a shorter side of 224, on the same number of threads. Readers take turns,
and a ratio is that of two runs of one turn: below 1, this project is faster. On a busy machine, look at the processor
time, which is that of all threads and processes.

With --hours, a film with sound repeats the packets of one minute. A process of its own reads frames at 1 and 24 a
second and computes the log-mel. Prints tables, asserts nothing.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import rounds
import torch

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize, decode_video
from mcn_lightning.extract.decoding.torchcodec import check_torchcodec
from mcn_lightning.extract.log_mel import LogMel

SIDE = 224
X264 = {"preset": "veryfast", "crf": "28", "b_strategy": "0"}
FILMS = {
    "h264_b_frames.mp4": ("libx264", X264 | {"bf": "3"}),
    "h264.mp4": ("libx264", X264 | {"bf": "0"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "40", "b": "0"}),
}


class Counter:
    """Takes frames and counts them."""

    def __init__(self, frame_rate: float = 1.0, size: PictureSize = PictureSize(SIDE)) -> None:  # noqa: B008
        self.frame_rate, self.size, self.count = frame_rate, size, 0

    def take(self, picture: np.ndarray) -> None:
        """Count a picture."""
        self.count += 1


def ours(path: Path, threads: int) -> int:
    sink = Counter()
    decode_video(path, [sink], threads=threads)
    return sink.count


def ours_by_torchcodec(path: Path, threads: int) -> int:
    torch.set_num_threads(threads)
    sink = Counter()
    decode_video(path, [sink], threads=threads, torchcodec="cpu")
    return sink.count


def size_of(path: Path) -> tuple[int, int]:
    """Return columns and rows of the frames that are asked for."""
    with av.open(str(path)) as container:
        picture = container.streams.video[0]
        factor = SIDE / min(picture.width, picture.height)
        return round(picture.width * factor), round(picture.height * factor)


def by_opencv(path: Path, threads: int) -> int:
    import cv2

    cv2.setNumThreads(threads)
    film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    size = size_of(path)
    rate, index, count = film.get(cv2.CAP_PROP_FPS), 0, 0
    while film.grab():
        if index >= (count + 0.5) * rate - 1:  # the last frame before the middle of a second
            picture = film.retrieve()[1]
            cv2.cvtColor(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2RGB)
            count += 1
        index += 1
    return count


def by_decord(path: Path, threads: int) -> int:
    import decord

    columns, rows = size_of(path)
    film = decord.VideoReader(str(path), num_threads=threads, width=columns, height=rows)
    rate, count = film.get_avg_fps(), 0
    while (count + 0.5) * rate <= len(film):
        film[int((count + 0.5) * rate)].asnumpy()
        count += 1
    return count


def by_ffmpeg(path: Path, threads: int) -> int:
    number = ["-threads", str(threads)]
    columns, rows = size_of(path)
    chain = f"fps=1,scale={columns}:{rows}:flags=bicubic"
    command = ["ffmpeg", "-v", "error", *number, "-i", str(path), "-an", "-filter_threads", str(threads), "-vf", chain]
    done = subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    return len(done.stdout) // (3 * columns * rows)


def readers() -> dict[str, Callable[[Path, int], int]]:
    """Return the readers that are installed."""
    found: dict[str, Callable[[Path, int], int]] = {"this project": ours}
    try:
        check_torchcodec()
        found["this project, torchcodec"] = ours_by_torchcodec
    except InputError as error:
        print(f"without torchcodec: {error}")
    for name, module, reader in (("OpenCV", "cv2", by_opencv), ("decord", "decord", by_decord)):
        try:
            __import__(module)
        except ImportError:
            print(f"without {name}, which is not installed")
        else:
            found[name] = reader
    if shutil.which("ffmpeg"):
        return found | {"ffmpeg -vf fps=1": by_ffmpeg}
    print("without the command ffmpeg, which is not installed")
    return found


def generate(
    path: Path,
    seconds: int,
    codec: str,
    options: dict[str, str],
    size: str,
    sound: bool = False,
) -> Path:
    """Write a film of a texture that moves in front of the camera."""
    rng = np.random.default_rng(0)
    wide, high, room = *(int(side) for side in size.split("x")), 200
    down, right = np.mgrid[: high + 2 * room, : wide + 2 * room]
    texture = 128 + 50 * np.sin(right / 17) + 40 * np.cos(down / 23 + right / 91) + rng.normal(0, 12, right.shape)
    texture = np.clip(np.stack([texture, np.roll(texture, 9, 1), texture[:, ::-1]], 2), 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codec, rate=25, options=options)
        picture.width, picture.height, picture.pix_fmt = wide, high, "yuv420p"
        heard = container.add_stream("aac", rate=44_100, layout="stereo") if sound else None
        for number in range(25 * seconds):
            left, top = (int(room + (room - 1) * wave(number / 50)) for wave in (np.sin, np.cos))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(texture[top : top + high, left : left + wide]))
            container.mux(picture.encode(frame))
            if heard is not None:
                samples = rng.normal(0, 0.1, (2, 44_100 // 25)).astype(np.float32)
                second = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
                second.sample_rate, second.pts, second.time_base = 44_100, number * (44_100 // 25), Fraction(1, 44_100)
                container.mux(heard.encode(second))
        for stream in [picture] if heard is None else [picture, heard]:
            container.mux(stream.encode(None))
    return path


def repeat(source: Path, target: Path, times: int, seconds: int) -> Path:
    """Write the packets of a film again and again, without encoding them anew."""
    last: dict[int, int] = {}
    with av.open(str(target), "w") as out:
        for number in range(times):
            with av.open(str(source)) as container:
                streams = [*container.streams.video, *container.streams.audio]
                if not number:
                    copies = {stream.index: out.add_stream_from_template(stream) for stream in streams}
                for packet in container.demux(*streams):
                    index, later = packet.stream_index, round(number * seconds / packet.time_base)
                    if packet.dts is None or packet.dts + later <= last.get(index, -(10**9)):
                        continue  # sound begins before zero, and would overlap with the end of the minute before
                    packet.dts, packet.pts, packet.stream = packet.dts + later, packet.pts + later, copies[index]
                    last[index] = packet.dts
                    out.mux(packet)
    return target


def used() -> float:
    """Return the processor seconds of this process and of those that it waited for."""
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in every)


def compare(path: Path, threads: int, turns: int) -> None:
    found = readers()
    counts = {name: read(path, threads) for name, read in found.items()}  # once for the page cache and the imports

    def run(name: str) -> rounds.Measured:
        start, before = time.perf_counter(), used()
        found[name](path, threads)
        return {"seconds": time.perf_counter() - start, "processor": used() - before}

    runs = rounds.take_turns(list(found), turns, run)
    print(
        f"\n{path.name}, {threads} threads, medians of {turns}, ratios: this project by the other (smallest to largest)"
    )
    print("| | frames | seconds | processor seconds | ratio | ratio of processor time |")
    print("|---|---|---|---|---|---|")
    for name in found:
        medians = [f"{rounds.median(runs[name], key):.2f}" for key in ("seconds", "processor")]
        ratios = [rounds.ratio(runs["this project"], runs[name], key) for key in ("seconds", "processor")]
        print(f"| {name} | {counts[name]} | {' | '.join([*medians, *ratios])} |")


def measure(path: Path, threads: int) -> None:
    """Decode a film as extraction does, and print what this process needed (run in a process of its own)."""
    before, start = rounds.peak_memory() / 2**20, time.perf_counter()
    sinks, sound = [Counter(), Counter(24.0, PictureSize(112, crop=112))], LogMel()
    outcome = decode_video(path, sinks, sound, threads)
    spectrogram = sound.spectrogram()
    assert spectrogram is not None
    peak = rounds.peak_memory() / 2**20
    print(f"| {outcome.picture / 3600:.2f} | {path.stat().st_size / 2**20:.0f} | {sinks[0].count} + {sinks[1].count} | "
          f"{spectrogram.shape[1]} | {time.perf_counter() - start:.0f} | {before:.0f} | {peak:.0f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="a film of one's own")
    parser.add_argument("--hours", type=float, default=0.0, help="measure the memory for a film of this length instead")
    parser.add_argument("--size", default="640x360", help="columns and rows of the generated films")
    for name, value in (("threads", 1), ("seconds", 60), ("key_frames", 250)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = rounds.parse(parser, seconds=2, size="64x36")
    if options.case:
        return measure(Path(options.case[0]), options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if not options.hours:
            for name, (codec, settings) in FILMS.items():
                settings |= {"g": str(options.key_frames)}
                path = options.video or generate(Path(folder) / name, options.seconds, codec, settings, options.size)
                compare(path, options.threads, options.rounds)
                if options.video:
                    break
            return None
        once = generate(Path(folder) / "once.mp4", options.seconds, *FILMS["h264_b_frames.mp4"], options.size, True)
        times = round(3600 * options.hours / options.seconds)
        film = options.video or repeat(once, Path(folder) / "long.mp4", times, options.seconds)
        print("| hours | MB on disk | frames | columns of the log-mel | seconds | MB before | MB peak |")
        print("|---|---|---|---|---|---|---|", flush=True)
        command = [sys.executable, __file__, "--case", str(film), "--threads", str(options.threads)]
        subprocess.run(command, check=True)
    return None


if __name__ == "__main__":
    main()
