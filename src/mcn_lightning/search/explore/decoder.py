"""A process that reads media files. It may die on a damaged file, or hang: then it is ended, and the page goes on."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcn_lightning.errors import InputError
from mcn_lightning.extract.decode import PictureSize, decode_video
from mcn_lightning.signals import start_forkserver

if TYPE_CHECKING:
    import av

MEMORY = 4 << 30
"""Bytes that reading a file may take."""
START_SECONDS = 120.0  # that the start of the process may take
WIDTH = 320  # pixels of a still picture
TOLERANCE = 1e-3  # seconds by which times are rounded
FRAMES = 600  # that are decoded after a key frame to reach a second, at most
FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,asf,flv,gif,mp3,wav,w64,flac,ogg,aac,aiff,au,amr,caf,ac3,h264,mpegvideo,"
    "jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
"""Formats of files that are dropped on the page. Playlists are none of them: they name other files."""


class MediaProcess:
    """A process of its own that does one task after another.

    Args:
        seconds: that a task may take.
        work: what it does with a task; a function that can be imported.
    """

    def __init__(self, seconds: float, work: Callable[..., Any] | None = None) -> None:
        self.seconds, self._work = seconds, work or read
        self._lock = threading.Lock()
        self._worker: tuple[BaseProcess, Connection] | None = None

    def ask(self, *task: Any) -> Any:
        """Do a task and return its result.

        Args:
            *task: arguments of ``work``, of which the second is the path of a file.

        Raises:
            InputError: if the file cannot be read, the process dies, or the time is over.
        """
        with self._lock:
            try:
                _, pipe = self._worker or self._start()
                pipe.send(task)
                if not pipe.poll(self.seconds):
                    raise InputError(f"expected a file that is read in {self.seconds:g} s, found one that takes longer")
                found, refused = pipe.recv()
            except (EOFError, OSError):
                self._end()
                raise InputError("expected sound, a picture or a video, found a file that ends the decoder") from None
            except BaseException:
                self._end()
                raise
        if refused is not None:
            raise InputError(refused)
        return found

    def _start(self) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "mcn_lightning.extract.pool"])  # the second one reads queries
        start_forkserver()
        own, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self._work), daemon=True)
        process.start()
        other.close()
        self._worker = process, own
        if not own.poll(START_SECONDS):
            raise InputError("expected a process that reads files, found none that starts; is the machine busy?")
        own.recv()  # it is ready: its start counts for no task
        return self._worker

    def start(self) -> None:
        """Start the process, so that the first task need not wait for it."""
        with self._lock, suppress(EOFError, OSError):
            self._start()

    def _end(self) -> None:
        if self._worker is not None:
            process, pipe = self._worker
            self._worker = None
            pipe.close()
            process.kill()
            process.join()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()


def _serve(pipe: Connection, work: Callable[..., Any]) -> None:
    """Do the tasks that come through the pipe, until it is closed (runs in a process of its own)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    _limit_memory()
    with suppress(EOFError, OSError):
        pipe.send("ready")
        while True:
            task = pipe.recv()
            try:
                pipe.send((work(*task), None))
            except InputError as error:
                pipe.send((None, str(error).replace(f"{task[1]}: ", "")))  # the path is no business of the page
            except MemoryError:
                pipe.send((None, "expected a smaller file, found one that does not fit in memory"))


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # not on every system
        import resource

        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
        # on top of what the process has mapped by now, as torch's libraries take gigabytes of addresses
        limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def read(task: str, path: str, second: float = 0.0) -> Any:
    """Look at a file, or take a picture from it.

    Args:
        task: ``look`` for the seconds of picture and sound; ``still`` for a JPEG.
        path: of the file.
        second: of the picture.

    Raises:
        InputError: if the file cannot be read.
    """
    return still(Path(path), second) if task == "still" else look(Path(path))


class _Frames:
    """Takes frames, and keeps none."""

    size = PictureSize(16)
    frame_rate = 1.0

    def take(self, picture: np.ndarray) -> None:
        pass


class _Sound:
    """Takes sound, and keeps none."""

    sample_rate = 16_000

    def take(self, samples: np.ndarray) -> None:
        pass


def look(path: Path) -> dict[str, float]:
    """Read a whole file, and return the seconds of its picture and of its sound.

    Args:
        path: of the file.

    Raises:
        InputError: if it has neither.
    """
    import av

    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        with av.open(f"file:{path}", metadata_errors="ignore", options=options):
            pass
    except av.FFmpegError:
        raise InputError(f"{path}: expected sound, a picture or a video, found another kind of file") from None
    try:
        found = decode_video(path, [_Frames()], _Sound(), threads=1)
    except InputError as error:
        raise InputError(str(error).replace("expected a video", "expected sound, a picture or a video", 1)) from None
    return {"picture": found.picture, "sound": found.sound}


def still(path: Path, second: float) -> bytes:
    """Return the frame at a second as JPEG.

    Args:
        path: of a video or picture.
        second: from the start of the file.

    Raises:
        InputError: if there is none.
    """
    import av

    try:
        # some containers land behind their only key frame: then from the start on
        best = _frame(path, second, seeking=second > 0) or _frame(path, second, seeking=False)
    except av.FFmpegError as error:
        raise InputError(
            f"{path}: expected a picture, found a file that cannot be read ({type(error).__name__})"
        ) from None
    if best is None:
        raise InputError(f"{path}: expected a picture at {second:g} s, found none")
    return _jpeg(best)


def _frame(path: Path, second: float, seeking: bool) -> av.VideoFrame | None:
    """Return the first frame from a second on, or the last one before it."""
    import av

    best = None
    # a name may hold a colon, which would be a protocol; and no playlist may open a connection
    with av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"}) as container:
        begin = (container.start_time or 0) / av.time_base
        if seeking:
            container.seek(int((second + begin) * av.time_base))
        for count, frame in enumerate(container.decode(video=0) if container.streams.video else ()):
            best = frame
            if frame.time is None or frame.time - begin >= second - TOLERANCE or count >= FRAMES:
                break
    return best


def _jpeg(frame: av.VideoFrame) -> bytes:
    import av

    turned = frame.rotation % 180 == 90
    wide = frame.height if turned else frame.width
    scale = min(WIDTH / max(wide, 1), 1.0)
    small = frame.reformat(max(round(frame.width * scale), 1), max(round(frame.height * scale), 1), format="rgb24")
    picture = np.ascontiguousarray(np.rot90(small.to_ndarray(), frame.rotation // 90).astype(np.uint8))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1)
    out = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
    return b"".join(bytes(packet) for packet in [*encoder.encode(out), *encoder.encode(None)])
