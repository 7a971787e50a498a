"""Options of ``lightning extract``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mcn_lightning.errors import InputError
from mcn_lightning.extract.captions import CaptionCleaning, CaptionSource
from mcn_lightning.extract.speech import SpeechConfig
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import PositiveFloat, PositiveInt, Share


@dataclass(frozen=True)
class EncodedStream(Options, option="streams"):
    """One visual stream to extract.

    Args:
        name: files are called ``<id>_<name>.npz``.
        encoder: kind and model, such as ``timm:resnet50.a1_in1k``, or the path of a class of your own.
        rate: rows a second. Row k of an image encoder shows the last frame before ``(k + 0.5) / rate`` seconds; 1 if
            left out. A clip encoder reads as many frames a second as that needs, or has a rate of its own if left out.
        weights: file of weights; those of the library if left out.
        arguments: further arguments of the encoder's class, by name.
        normalize: scale rows to length 1; by the encoder if left out: those of the HowTo100M release do, others do not.
    """

    name: str = "image"
    encoder: str = "timm:mobilenetv4_conv_small.e2400_r224_in1k"
    rate: PositiveFloat | None = None
    weights: str | None = None
    normalize: bool | None = None
    arguments: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        # a part of file names, and the suffix that data.yaml gives
        if not self.name.replace("_", "").isalnum():
            raise InputError(f"--streams.name: expected letters, digits and _, found {self.name!r}; rename it")


@dataclass(frozen=True)
class JobShare:
    """The part of the videos that a job reads.

    Args:
        index: of the job, from 1.
        jobs: number of jobs.
    """

    index: int = 1
    jobs: int = 1

    @classmethod
    def parse(cls, text: str) -> JobShare:
        """Read ``i/n``.

        Raises:
            InputError: if it is none.
        """
        first, _, last = text.partition("/")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise InputError(f"--share: expected i/n with 1 <= i <= n, such as 2/8, found {text!r}")
        return cls(int(first), int(last))


@dataclass(frozen=True)
class ExtractConfig(Options, option="extract"):
    """What is extracted, and how.

    Args:
        videos: folder of videos, at any depth; or a text file with a path on each line.
        output: folder of the data set.
        streams: visual streams.
        sound: write log-mel spectrograms of videos with sound.
        bands: mel bands of the spectrograms.
        captions: folder or table of captions; files beside the videos if left out.
        language: of captions, where a video has several.
        cleaning: what is taken out of captions.
        speech: how speech is recognised in videos without captions; left out for no recognition.
        text: sentence encoder by name or folder, or a file of word vectors; written into ``data.yaml``.
        lists: folder with ``train.csv``, ``val.csv`` and ``test.csv``, of which any may lack: the videos of each split,
            by path or id. Videos on none of them are in no split. By a hash of the ids if left out.
        val_share: share of the videos for validation.
        test_share: share of the videos for test.
        batch_size: pictures in a batch of an encoder.
        decoder: of the pictures. ``torchcodec`` decodes by NVDEC where the encoders run on a GPU; sound and the rest
            stay with PyAV.
        workers: processes that decode for each device; by the number of cores if left out.
        device: of the encoders; ``auto`` takes GPUs if there are any.
        devices: GPUs of this machine to use, each by a process of its own; all if left out.
        max_bad_share: share of the videos that may fail before the command ends with an error.
        share: part of the videos that this job reads, such as 2/8 for the second of eight jobs.
        pack: folder of shards to pack the data set into; none for no shards.
        merge: read no video, and write the lists and captions of what all jobs have extracted.
    """

    videos: str
    output: str
    streams: tuple[EncodedStream, ...] = (EncodedStream(),)
    sound: bool = True
    bands: PositiveInt = 40
    captions: str | None = None
    language: str = "en"
    cleaning: CaptionCleaning = CaptionCleaning()  # noqa: RUF009  # frozen
    speech: SpeechConfig | None = None
    text: str = "sentence-transformers/all-MiniLM-L6-v2"
    lists: str | None = None
    val_share: Share = 0.1
    test_share: Share = 0.1
    batch_size: PositiveInt = 16
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    workers: PositiveInt | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt | None = None
    max_bad_share: Share = 0.05
    share: str = "1/1"
    pack: str | None = None
    merge: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [stream.name for stream in self.streams]
        # _spec.npz is the name of the spectrogram
        if len(set(names)) < len(names) or "spec" in names:
            raise InputError(f"--streams: expected names that differ, and none called spec, found {names}")
        if (share := self.val_share + self.test_share) >= 1:
            raise InputError(f"--val_share: expected less than 1 with --test_share, found {share:g}; lower one")

    def caption_source(self) -> CaptionSource:
        """Return where the captions of the data set come from."""
        return CaptionSource(Path(self.captions) if self.captions else None, self.language, self.cleaning)


@dataclass(frozen=True)
class Layout:
    """Where the files of a data set lie.

    Args:
        root: folder of the data set.
    """

    root: Path

    def file(self, name: str, ending: str) -> Path:
        """Return a file of a video, such as ``features/cooking/abc/abc_image.npz``.

        Args:
            name: of the video, its line in the lists.
            ending: what follows the id, such as ``_image.npz``.
        """
        return self.root / "features" / name / f"{name.rpartition('/')[2]}{ending}"

    def record(self, name: str) -> Path:
        """Return the record of a video, which is written last: where it is, the video is done."""
        return self.file(name, "_record.json")

    def failure(self, name: str) -> Path:
        """Return the file with the reason why a video failed; the next run tries it again."""
        return self.file(name, "_failed.json")

    @property
    def locks(self) -> Path:
        """Return the folder of the locks of videos that a process is reading."""
        return self.root / ".locks"

    def lock(self, name: str) -> Path:
        """Return the lock of a video."""
        self.locks.mkdir(parents=True, exist_ok=True)
        return self.locks / f"{name.rpartition('/')[2]}.lock"

    @property
    def options_lock(self) -> Path:
        """Return the lock of the files that every job writes: several may start at once."""
        self.locks.mkdir(parents=True, exist_ok=True)
        return self.locks / "options"
