"""Reading videos and writing their files: what is done stays done, and a broken video does not stop the rest."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from mcn_lightning.devices import find_devices, run_on_devices
from mcn_lightning.distributed import usable_cores
from mcn_lightning.errors import InputError, need_package
from mcn_lightning.extract.again import look_again
from mcn_lightning.extract.captions import VideoCaptions
from mcn_lightning.extract.dataset import ROWS_FILE, read_failures, read_lists, text_options, write_dataset
from mcn_lightning.extract.decoding.torchcodec import check_torchcodec
from mcn_lightning.extract.encoders.kinds import make_encoder
from mcn_lightning.extract.features import FeatureStream, finished
from mcn_lightning.extract.options import ExtractConfig, JobShare, Layout
from mcn_lightning.extract.pool import Decoded, DecodingPool, Failed, Pictures, StreamShape
from mcn_lightning.extract.speech import SUFFIX, SpeechRecognizer
from mcn_lightning.extract.videos import VideoFile, find_videos, hash_fraction, identity
from mcn_lightning.extract.writing import forecast, reported, times_more, write_array, write_json
from mcn_lightning.files import read_json

MOST_WAITING = 16
"""Decoded videos that wait for the rest of a batch."""
OPTIONS_FILE = "extract.json"
"""Options that all jobs of a data set share."""
# other options, such as workers, change no file
SHARED = ("streams", "sound", "bands", "decoder", "language", "captions", "cleaning")


class TooManyFailed(InputError):
    """More videos failed than ``max_bad_share`` allows. The data set of the others is written."""


def extract(config: ExtractConfig) -> str:
    """Extract a folder of videos, or go on with it.

    Args:
        config: what is extracted, and how.

    Returns:
        A line on what there is now.

    Raises:
        InputError: if there are no videos, an encoder cannot be made, the folder holds a data set of other options, or
            more videos failed than ``max_bad_share`` allows.
    """
    share, layout = JobShare.parse(config.share), Layout(Path(config.output))
    videos = find_videos(Path(config.videos))
    if config.lists is not None:
        read_lists(Path(config.lists), [video.name for video in videos])
    # by a hash: a job keeps its videos as others come
    own = [video for video in videos if int(hash_fraction(video.id) * share.jobs) == share.index - 1]
    if config.merge and not (layout.root / OPTIONS_FILE).is_file():
        raise InputError(f"--output {layout.root}: expected extracted videos, found none; run the jobs first")
    _check_options(layout, config)
    if not config.merge:
        need_package("av", "--videos", "pip install 'mcn-lightning[extract]'")
        if config.decoder == "torchcodec":
            check_torchcodec()
        if (problem := text_options(config.text)[1]) is not None:
            print(f"warning: --text: {problem.removeprefix('--data.text.source ')}", file=sys.stderr)
        with reported(layout.root):
            for video in own:
                layout.failure(video.name).unlink(missing_ok=True)  # perhaps it was mended
        _look_at_files(config, layout, own, videos if share.index == 1 else [])
        _run_on_devices(config, layout, [video for video in own if not layout.record(video.name).is_file()])
    if share.jobs > 1 and not config.merge:
        count = sum(layout.record(video.name).is_file() for video in own)
        return f"job {share.index} of {share.jobs}: {count} of {len(own)} videos are done"
    return _merge(config, layout, videos)


def _run_on_devices(config: ExtractConfig, layout: Layout, videos: Sequence[VideoFile]) -> None:
    """Extract videos with a process for each device. Every process takes the next video that no other has taken."""
    devices = find_devices(config.device, config.devices)
    if len(devices) == 1:
        _run_on_device(0, devices, config, layout, videos)
    else:
        run_on_devices(devices, _run_on_device, config, layout, videos)


def _run_on_device(
    number: int, devices: Sequence[torch.device], config: ExtractConfig, layout: Layout, videos: Sequence[VideoFile]
) -> None:
    _Job(config, layout, devices[number], len(devices)).run(videos)


def _look_at_files(
    config: ExtractConfig, layout: Layout, own: Sequence[VideoFile], videos: Sequence[VideoFile]
) -> None:
    """Name captions of none of the videos, and look again at those of this job that are extracted."""
    source = config.caption_source()
    if videos and (paths := source.without_video([(video.path, video.id) for video in videos])):
        names = ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
        print(f"warning: {len(paths)} caption files are of no video: {names}", file=sys.stderr)
    look_again(config, layout, [video for video in own if layout.record(video.name).is_file()], source)


def _merge(config: ExtractConfig, layout: Layout, videos: Sequence[VideoFile]) -> str:
    names = [video.name for video in videos]
    failed = read_failures(layout, names)
    missing = [name for name in names if not layout.record(name).is_file() and name not in failed]
    if missing:
        found = f"none for {len(missing)} of {len(names)}, such as {missing[0]}"
        raise InputError(f"--output {layout.root}: expected features of each video, found {found}; run the other jobs")
    with reported(layout.root), FileLock(layout.options_lock):
        counts = write_dataset(config, names, failed)
        for left in layout.locks.glob("*.lock"):  # by a job that was killed
            left.unlink(missing_ok=True)
    if len(failed) > config.max_bad_share * len(names):
        found = f"{len(failed)} of {len(names)}, listed in {layout.root / 'failed.csv'}"
        rest = "; the others are ready" if len(failed) < len(names) else ""
        most = f"at most {config.max_bad_share:g} of the videos to fail"
        raise TooManyFailed(f"--max_bad_share: expected {most}, found {found}{rest}")
    return f"{layout.root}: " + ", ".join(f"{count} {name}" for name, count in counts.items())


def _check_options(layout: Layout, config: ExtractConfig) -> None:
    """Keep the options that all videos must share, and refuse others when a job goes on.

    Raises:
        InputError: naming the first option that differs.
    """
    own: dict[str, Any] = {name: dataclasses.asdict(config)[name] for name in SHARED}
    own["streams"] = list(own["streams"])
    own["speech"] = None if config.speech is None else config.speech.recorded()
    path = layout.root / OPTIONS_FILE
    if not path.is_file():
        with reported(layout.root), FileLock(layout.options_lock):  # the jobs of all shares may start at once
            if not path.is_file():
                write_json(path, own)
    for name, kept in read_json(path, "the options of a data set").items():
        if own.get(name) != kept:
            # speech may come later; and where a first try was refused, nothing was extracted with its options
            if (name == "speech" and kept is None) or not _begun(layout):
                with reported(layout.root), FileLock(layout.options_lock):
                    write_json(path, own)
                return
            found = f"another {name} ({own.get(name)}, not {kept})"
            raise InputError(f"--output {layout.root}: expected the same options, found {found}; give another folder")


def _begun(layout: Layout) -> bool:
    """Return whether a video of the data set is done, or a job is extracting one."""
    features = layout.root / "features"
    return any(features.rglob("*_record.json")) or any(layout.locks.glob("*.lock"))


class _Job:
    """One run over videos: decoding beside encoding, and files as each video is complete."""

    def __init__(self, config: ExtractConfig, layout: Layout, device: torch.device, devices: int) -> None:
        self.config, self.layout, self.device, self.devices = config, layout, device, devices
        self.captions = config.caption_source()
        self.speech = None if config.speech is None else SpeechRecognizer(config.speech, device.index or 0)
        if self.speech is not None:
            self.speech.load()
        self.encoders = [
            make_encoder(
                stream.encoder,
                stream.weights,
                rate=stream.rate,
                normalize=stream.normalize,
                arguments=stream.arguments,
            ).to(device)
            for stream in config.streams
        ]
        self.streams = [FeatureStream(encoder, config.batch_size, device.type == "cuda") for encoder in self.encoders]
        self.shapes = [
            StreamShape(encoder.size, encoder.frame_rate or stream.rate or 1.0, encoder.frames)
            for encoder, stream in zip(self.encoders, config.streams, strict=True)
        ]
        rows = {
            stream.name: {"rate": shape.frame_rate / shape.frames, "width": encoder.width}
            for stream, shape, encoder in zip(config.streams, self.shapes, self.encoders, strict=True)
        }
        with reported(layout.root), FileLock(layout.options_lock):
            write_json(layout.root / ROWS_FILE, rows)
        self.decoded: dict[int, Decoded] = {}
        self.locks: dict[int, FileLock] = {}
        self.sources: dict[int, dict[str, object]] = {}  # what identifies the files that are read

    def run(self, videos: Sequence[VideoFile]) -> None:
        """Extract the videos that no other process extracts."""
        if not videos:
            return
        workers = min(self.config.workers or max((usable_cores() - 1) // self.devices, 1), len(videos))
        torchcodec = str(self.device) if self.config.decoder == "torchcodec" else None
        pool = DecodingPool(self.shapes, self.config.bands if self.config.sound else None, workers, torchcodec)
        try:
            with closing(pool), tqdm(total=len(videos), desc="extracting", unit="video") as bar:
                self._run(pool, videos, bar)
        finally:
            for lock in self.locks.values():  # of videos that an error left undone
                lock.release()

    def _run(self, pool: DecodingPool, videos: Sequence[VideoFile], bar: tqdm[Any]) -> None:
        begin, hours, first = time.monotonic(), 0.0, True
        for message in pool.messages(self._tasks(videos)):
            if isinstance(message, Pictures):
                self.streams[message.stream].add(message.video, message.pictures)
            elif isinstance(message, Failed):
                self._fail(videos[message.video], message, bar)
            elif self.streams and not message.outcome.picture:
                reason = f"{videos[message.video].path}: expected a video, found no picture"
                self._fail(videos[message.video], Failed(message.video, reason), bar)
            else:
                self.decoded[message.video] = message
                hours += max(message.outcome.picture, message.outcome.sound) / 3600
            # the first video goes through everything before hours of work; pictures of rare sizes fill no batch
            if (first and self.decoded) or len(self.decoded) > MOST_WAITING:
                self._flush()
            for number in self._complete():
                self._write(videos[number], self.decoded.pop(number))
                if first:
                    files = sorted(self.layout.record(videos[number].name).parent.glob("*.npz"))
                    times = times_more(videos[number].path, [video.path for video in videos])
                    told = forecast(self.layout.root, files, times, time.monotonic() - begin)
                    bar.write(f"{told} for all {len(videos)} videos")
                    first = False
                bar.update()
                bar.set_postfix_str(f"{hours:.2f} h of video")
                self._unlock(number)
        self._flush()
        for number in self._complete():
            self._write(videos[number], self.decoded.pop(number))
            bar.update()
            self._unlock(number)

    def _tasks(self, videos: Sequence[VideoFile]) -> Iterator[tuple[int, Path]]:
        """Give the videos that no other job has or has done, each locked until its files are there."""
        for number, video in enumerate(videos):
            with reported(self.layout.root):
                lock = FileLock(self.layout.lock(video.name))
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
            self.locks[number] = lock
            if self.layout.record(video.name).is_file() or self.layout.failure(video.name).is_file():
                self._unlock(number)
                continue
            self.sources[number] = identity(video.path)
            yield number, video.path

    def _unlock(self, number: int) -> None:
        lock = self.locks.pop(number)
        self.sources.pop(number, None)
        with reported(self.layout.root):
            Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for it looks for the record first
            lock.release()

    def _flush(self) -> None:
        for stream in self.streams:
            stream.flush()

    def _complete(self) -> list[int]:
        return list(finished(self.streams, {number: found.rows for number, found in self.decoded.items()}))

    def _fail(self, video: VideoFile, failed: Failed, bar: tqdm[Any]) -> None:
        for stream in self.streams:
            stream.forget(failed.video)
        write_json(self.layout.failure(video.name), {"reason": failed.reason})
        bar.write(f"failed: {failed.reason}")
        bar.update()
        self._unlock(failed.video)

    def _write(self, video: VideoFile, decoded: Decoded) -> None:
        """Write the files of a video, its record last."""
        for stream, options in zip(self.streams, self.config.streams, strict=True):
            rows = stream.pop(decoded.video)
            write_array(self.layout.file(video.name, f"_{options.name}.npz"), "features", rows)
        if decoded.spectrogram is not None:
            write_array(self.layout.file(video.name, "_spec.npz"), "arr_0", decoded.spectrogram)
        outcome, silent = decoded.outcome, self.config.sound and decoded.spectrogram is None
        captions = self.captions.find(video.path, video.id, None if silent else self._recognition(video))
        if captions.problems:
            tqdm.write(captions.told(video.name))
        if outcome.cut:
            tqdm.write(f"{video.path}: {outcome.cut}; what could be read is used")
        record = {
            "file": str(video.path.resolve()),
            "source": self.sources[decoded.video],
            "picture_seconds": round(outcome.picture, 3),
            "sound_seconds": round(outcome.sound, 3),
            "sound": decoded.spectrogram is not None,
            "cut": outcome.cut,
            **captions.record(),
        }
        write_json(self.layout.record(video.name), record)

    def _recognition(self, video: VideoFile) -> Callable[[], VideoCaptions] | None:
        """Return what recognises the speech of a video, where that is asked for."""
        if self.speech is None:
            return None
        return partial(self.speech.captions, video.path, self.layout.file(video.name, SUFFIX), self.config.cleaning)
