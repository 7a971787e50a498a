"""Options of ``lightning index`` and of a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict

from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.config import Options
from mcn_lightning.options.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, PositiveShare

LETTERS = {"v": "video", "a": "audio", "t": "text"}
"""As in ``metrics.directions``, which imports torch: the options of a command are shown without it."""


@dataclass(frozen=True)
class IndexConfig(Options, option="index"):
    """What is indexed, and how.

    Args:
        ckpt_path: folder of a run, or a checkpoint.
        output: folder of the index.
        split: videos to index: train, val, test or all.
        clips: captions as in evaluation, windows of fixed length, or both.
        window: seconds of a window.
        columns: CSV file with a column ``video``; its other columns become columns of the clips.
        galleries: modalities that get a search index of their own, in letters. Others are searched exactly, which is
            slower. By default each modality, and video and audio together.
        memory: gigabytes that a search index may take, for each gallery.
        recall: share of the true ten nearest that a search must find, on a sample. It sets how much is compared.
        flat_clips: clips up to which a search compares all of them.
        export: Parquet file for the table of clips.
        stills: keep a small picture of each clip in the index, some 10 kB each, for when the videos are not at hand.
        device: of the model; ``auto`` takes GPUs if there are any.
        devices: GPUs of this machine to use, or processes on the CPU.
    """

    ckpt_path: str
    output: str
    split: Literal["train", "val", "test", "all"] = "all"
    clips: Literal["captions", "windows", "both"] = "captions"
    window: PositiveFloat = 10.0
    columns: str | None = None
    galleries: tuple[str, ...] | None = None
    memory: PositiveFloat = 4.0
    recall: PositiveShare = 0.97
    flat_clips: PositiveInt = 200_000
    export: str | None = None
    stills: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: PositiveInt | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:  # windows start at whole seconds
            raise InputError(f"--window: expected at least 1 second, found {self.window:g}")
        for letters in self.galleries or ():
            modalities_of(letters, "--galleries")


@dataclass(frozen=True)
class SearchConfig(Options, option="search"):
    """How answers are chosen.

    Args:
        k: answers.
        modality: letters of the modalities that are searched, such as v, a, t or va; by default video and audio, as
            far as the index has them.
        per_video: answers of one video at most.
        where: condition on the table of clips, in SQL, such as ``video like 'cooking%'``.
        merge: join overlapping clips of a video to one answer.
        duplicates: similarity from which answers of different videos are one group, of which the best is shown.
        calibrate: share of the density of queries that is subtracted from the scores, as in the evaluation.
        calibrate_temperature: of the similarities in the density.
    """

    k: PositiveInt = 10
    modality: str | None = None
    per_video: PositiveInt | None = None
    where: str | None = None
    merge: bool = False
    duplicates: PositiveShare | None = None
    calibrate: NonNegativeFloat = 0.0
    calibrate_temperature: PositiveFloat = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rules((self.where is not None and not self.where.strip(), "--where: expected a condition, found none"))
        if self.modality is not None:
            modalities_of(self.modality, "--modality")


class SearchOptions(TypedDict, total=False):
    """The options of ``SearchConfig`` as arguments in Python, for editors and type checkers."""

    k: int
    modality: str | None
    per_video: int | None
    where: str | None
    merge: bool
    duplicates: float | None
    calibrate: float
    calibrate_temperature: float


def modalities_of(letters: str, option: str) -> list[str]:
    """Return the modalities of some letters, in the order v, a, t.

    Args:
        letters: such as ``va``.
        option: its name in messages.

    Raises:
        InputError: if they are no letters of modalities, each once.
    """
    if not letters or not set(letters) <= set(LETTERS) or len(set(letters)) < len(letters):
        raise InputError(f"{option}: expected letters of v, a and t, each once, as in va, found {letters!r}")
    return [name for letter, name in LETTERS.items() if letter in letters]
