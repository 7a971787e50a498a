"""Processes that decode videos beside the encoder.

Each process has one video at a time, and sends its pictures through a pipe that holds little: a process waits until its
pictures are taken, so memory is bounded for videos of hours. A process that dies, as a decoder may on a damaged file,
costs its video only.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import numpy as np
import torch

from mcn_lightning.errors import InputError, os_reason
from mcn_lightning.extract.decode import Outcome, PictureSize, decode_video
from mcn_lightning.extract.log_mel import LogMel
from mcn_lightning.signals import start_forkserver

CHUNK = 16
"""Pictures that are sent together, at most."""


@dataclass(frozen=True)
class StreamShape:
    """What a decoding process must know of an encoder.

    Args:
        size: of its pictures.
        frame_rate: frames a second.
        frames: frames of a row.
    """

    size: PictureSize
    frame_rate: float
    frames: int


@dataclass(frozen=True)
class Pictures:
    """Pictures of a video in order, ``(n, height, width, 3)``; of a clip encoder ``(n, frames, height, width, 3)``."""

    video: int
    stream: int
    pictures: np.ndarray


@dataclass(frozen=True)
class Decoded:
    """A video is decoded.

    Args:
        video: its number.
        outcome: its lengths, and whether it broke off.
        rows: rows that each stream was sent.
        spectrogram: ``(bands, T)`` float16; ``None`` without sound.
    """

    video: int
    outcome: Outcome
    rows: tuple[int, ...]
    spectrogram: np.ndarray | None


@dataclass(frozen=True)
class Failed:
    """A video could not be read."""

    video: int
    reason: str


@dataclass(frozen=True)
class Stopped:
    """The machine, and not a video, stops the work, as a full disk does."""

    reason: str


Message = Pictures | Decoded | Failed
"""Of the decoding processes to those who ask for them."""

_Busy = dict[Connection, tuple[tuple[int, Path], BaseProcess]]
"""The video, by number and path, that each process decodes, by its pipe."""


@dataclass
class _Sender:
    """Takes the frames of one stream, and sends them a few at a time."""

    pipe: Connection
    video: int
    stream: int
    shape: StreamShape
    rows: int = 0
    waiting: list[np.ndarray] = field(default_factory=list)

    @property
    def size(self) -> PictureSize:
        return self.shape.size

    @property
    def frame_rate(self) -> float:
        return self.shape.frame_rate

    def take(self, picture: np.ndarray) -> None:
        self.waiting.append(picture)
        # whole rows of a clip encoder are sent, about CHUNK pictures at a time
        if len(self.waiting) >= max(self.shape.frames, CHUNK // self.shape.frames * self.shape.frames):
            self.send()

    def send(self) -> None:
        """Send what waits; the last row of a clip encoder is filled with black pictures."""
        if not self.waiting:
            return
        while len(self.waiting) % self.shape.frames:
            self.waiting.append(np.zeros_like(self.waiting[-1]))
        pictures = np.stack(self.waiting)
        if self.shape.frames > 1:
            pictures = pictures.reshape(-1, self.shape.frames, *pictures.shape[1:])
        self.waiting.clear()
        self.rows += len(pictures)
        self.pipe.send(Pictures(self.video, self.stream, pictures))


def _decode_videos(
    pipe: Connection, shapes: Sequence[StreamShape], bands: int | None, threads: int, torchcodec: str | None
) -> None:
    """Decode the videos whose paths come through the pipe, until it is closed (runs in a process of its own)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    if torchcodec is not None and threads:
        torch.set_num_threads(threads)  # that scale the pictures
    while (task := _next_task(pipe)) is not None:
        video, path = task
        senders = [_Sender(pipe, video, stream, shape) for stream, shape in enumerate(shapes)]
        sound = None if bands is None else LogMel(bands)
        try:
            outcome = decode_video(path, senders, sound, threads, torchcodec)
            for sender in senders:
                sender.send()
            found = None if sound is None else sound.spectrogram()
            rows = tuple(sender.rows for sender in senders)
            pipe.send(Decoded(video, outcome, rows, None if found is None else found.numpy()))
        except InputError as error:
            pipe.send(Failed(video, str(error)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except OSError as error:  # of the temporary files of a spectrogram; the decoder reports its own
            room = "expected room for the sound of a video (350 MB an hour)"
            advice = "free space or let TMPDIR name another folder; the same command goes on from here"
            pipe.send(Stopped(f"TMPDIR: {room}, found {os_reason(error)}; {advice}"))


def _died(path: Path, code: int | None) -> str:
    """Return the line for a video at which its process ended, by the exit code: of signals, it is negative."""
    if code == -signal.SIGKILL:
        found, advice = "that its decoder was killed, perhaps for want of memory", "lower --workers"
    else:
        found, advice = f"that its decoder died (exit code {code})", f"write it anew: ffmpeg -i {path} NEW.mp4"
    return f"{path}: expected a video, found {found}; {advice}, and start the same command again"


def _next_task(pipe: Connection) -> tuple[int, Path] | None:
    with suppress(EOFError, OSError):
        task: tuple[int, Path] | None = pipe.recv()
        return task
    return None


class DecodingPool:
    """Processes that decode videos.

    Args:
        shapes: of the pictures of each stream.
        bands: mel bands of the spectrogram; ``None`` without one.
        processes: number of processes.
        torchcodec: device on which torchcodec decodes pictures; ``None`` for PyAV.
    """

    def __init__(
        self, shapes: Sequence[StreamShape], bands: int | None, processes: int, torchcodec: str | None = None
    ) -> None:
        self._shapes, self._bands, self._torchcodec = shapes, bands, torchcodec
        self._threads = 0 if processes == 1 else 1  # with several, the processes are the threads
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["mcn_lightning.extract.pool"])  # imported once, not by every process
        start_forkserver()
        self._workers = [self._start() for _ in range(processes)]

    def _start(self) -> tuple[BaseProcess, Connection]:
        own, other = self._context.Pipe()
        process = self._context.Process(
            target=_decode_videos,
            args=(other, self._shapes, self._bands, self._threads, self._torchcodec),
            daemon=True,
        )
        process.start()
        # else the pipe would stay open here, and recv would wait for a process that has died
        other.close()
        return process, own

    def messages(self, videos: Iterator[tuple[int, Path]]) -> Iterator[Message]:
        """Decode videos, and give what comes of them. Pictures of one video and stream come in order.

        Args:
            videos: number and path of each; the next one is asked for when a process is free.

        Raises:
            InputError: if a process has no room for its temporary files.
        """
        busy: _Busy = {}
        for process, pipe in self._workers:
            self._give(process, pipe, videos, busy)
        while busy:
            for pipe in cast(list[Connection], wait(list(busy))):  # they are pipes, as those that were asked about
                (video, path), process = busy[pipe]
                try:
                    message: Message | Stopped = pipe.recv()
                except (EOFError, OSError):
                    process.join()
                    message = Failed(video, _died(path, process.exitcode))
                    del busy[pipe]
                    process, pipe = self._replace(process, pipe)
                    yield message
                    self._give(process, pipe, videos, busy)
                    continue
                if isinstance(message, Stopped):
                    raise InputError(message.reason)
                yield message
                if not isinstance(message, Pictures):
                    del busy[pipe]
                    self._give(process, pipe, videos, busy)

    def _give(
        self,
        process: BaseProcess,
        pipe: Connection,
        videos: Iterator[tuple[int, Path]],
        busy: _Busy,
    ) -> None:
        """Give a free process the next video."""
        task = next(videos, None)
        if task is None:
            return
        try:
            pipe.send(task)
        except OSError:  # the process was killed while it waited
            process, pipe = self._replace(process, pipe)
            pipe.send(task)
        busy[pipe] = task, process

    def _replace(self, process: BaseProcess, pipe: Connection) -> tuple[BaseProcess, Connection]:
        """Return a new process in place of one that died."""
        pipe.close()
        process.join()
        new = self._start()
        self._workers = [new if worker is process else (worker, own) for worker, own in self._workers]
        return new

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._workers:
            pipe.close()
            process.kill()  # its signals are blocked, and it holds nothing that must be saved
            process.join()
