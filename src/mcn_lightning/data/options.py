"""Checks of the options of the data: ranges, and rules between options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcn_lightning.batch import MODALITIES, Modality
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.pooling import VisualStream
from mcn_lightning.data.files.spectrograms import AudioConfig
from mcn_lightning.data.loading import ClipSampler
from mcn_lightning.data.sources.base import Reading
from mcn_lightning.data.sources.clip_pickles import is_pickle
from mcn_lightning.data.text import TextConfig
from mcn_lightning.errors import InputError, check_rules
from mcn_lightning.options.config import as_config
from mcn_lightning.options.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Share, checked

BATCH_SIZE = 128
"""Videos of a training batch in each process, if none is given."""
_RANGES = {
    "batch_size": PositiveInt | None,
    "global_batch_size": PositiveInt | None,
    "eval_batch_size": PositiveInt,
    "num_workers": NonNegativeInt,
    "timeout": NonNegativeFloat,
    "seed": NonNegativeInt,
    "max_bad_share": Share,
}


def check_ranges(**options: float | None) -> None:
    """Refuse numbers outside their range.

    Raises:
        InputError: naming the option.
    """
    for name, value in options.items():
        checked(_RANGES[name], value, f"--data.{name}")


Given = Mapping[str, object]
"""Options as a plain dict."""


def make_reading(
    modalities: Sequence[Modality],
    streams: Sequence[VisualStream | Given],
    audio: AudioConfig | Given,
    text: TextConfig | Given,
    clips: ClipConfig | Given,
    allow_missing: bool,
) -> Reading:
    """Return what a run reads, from options that may be plain dicts.

    Raises:
        InputError: if an option is wrong, or options do not fit together.
    """
    # both are iterable, and their letters or keys would be refused one by one
    if isinstance(streams, (str, Mapping)):
        raise InputError(f"--data.streams: expected a list of streams, found {streams!r:.60}")
    reading = Reading(
        tuple(modalities),
        tuple(as_config(VisualStream, stream, "--data.streams") for stream in streams),
        as_config(AudioConfig, audio, "--data.audio"),
        as_config(TextConfig, text, "--data.text"),
        as_config(ClipConfig, clips, "--data.clips"),
        allow_missing,
    )
    _check_modalities(reading.modalities, reading.streams, reading.clips)
    return reading


def check_pickles(lists: Mapping[str, str | None], audio: AudioConfig) -> None:
    """Refuse a shift of the sound if a split is a pickle of clips.

    Raises:
        InputError: naming the option.
    """
    if audio.time_shift > 0 and any(name is not None and is_pickle(name) for name in lists.values()):
        raise InputError(
            f"--data.audio.time_shift: expected 0 with a pickle of clips, found {audio.time_shift}; set it to 0"
        )


def _check_modalities(modalities: Sequence[Modality], streams: Sequence[VisualStream], clips: ClipConfig) -> None:
    """Refuse unknown modalities, and clips that need other modalities."""
    names, windows = list(modalities), clips.kind == "windows"
    known = bool(names) and len(set(names)) == len(names) and set(names) <= set(MODALITIES)
    check_rules(
        (not known, f"--data.modalities is {names}: give some of {', '.join(MODALITIES)}, each once"),
        (
            "video" in names and not streams,
            "--data.streams is empty: give at least one stream, or leave video out of --data.modalities",
        ),
        (
            windows and "text" in names,
            "--data.clips.kind is windows, which have no text: leave text out of --data.modalities",
        ),
        (
            windows and not {"video", "audio"} & set(names),
            "--data.clips.kind is windows, which need video or audio among --data.modalities",
        ),
    )


def videos_per_process(batch_size: int | None, global_batch_size: int | None, processes: int) -> int:
    """Return the number of videos of a training batch in each process.

    Args:
        batch_size: of each process.
        global_batch_size: of all processes together.
        processes: their number.

    Raises:
        InputError: if the global batch cannot be divided, or ``batch_size`` is not its share.
    """
    if global_batch_size is None:
        return BATCH_SIZE if batch_size is None else batch_size
    share, rest = divmod(global_batch_size, processes)
    below, above = share * processes, (share + 1) * processes
    check_rules(
        (
            rest,
            f"--data.global_batch_size: expected a multiple of the number of devices, {processes}, found "
            f"{global_batch_size}; set it to {f'{below} or ' if below else ''}{above}",
        ),
        (
            batch_size not in (None, share),
            f"--data.batch_size: expected null, or {share}, which is --data.global_batch_size {global_batch_size} over "
            f"{processes} device(s), found {batch_size}; set one of the two to null",
        ),
    )
    return share


def check_training_batch(sampler: ClipSampler, n_pair: int, option: str) -> None:
    """Refuse a batch with more videos than there are, and a batch of one clip, which lacks negatives.

    Args:
        sampler: of the training videos.
        n_pair: clips of each video.
        option: that sets the size of the batch, with its value.

    Raises:
        InputError: naming the option.
    """
    found = f"{sampler.count} training videos on {sampler.num_replicas} process(es)"
    check_rules(
        (
            len(sampler) == 0,
            f"{option}: expected at most the videos there are, found {found}; lower it or set --data.epoch_end to pad",
        ),
        (
            sampler.videos_a_step * n_pair == 1,
            f"{option}: expected at least two clips in a batch, so that a clip has others to be compared "
            "with, found one; raise it or --data.clips.n_pair (now 1)",
        ),
    )


def check_overfit(share: float, batches: int, kind: str, option: str) -> None:
    """Refuse a share of the batches that is less than one batch.

    Args:
        share: ``--trainer.overfit_batches``: a number of batches, or their share.
        batches: number of batches.
        kind: of the batches, for messages.
        option: the option that makes them smaller.

    Raises:
        InputError: naming ``--trainer.overfit_batches``.
    """
    # Lightning would round it to 0 batches and train on nothing
    if isinstance(share, float) and 0 < share * batches < 1:
        wanted = f"a share of the {batches} {kind} batches that makes one"
        raise InputError(f"--trainer.overfit_batches: expected {wanted}, found {share}; give 1, or lower {option}")
