"""Embeddings of what a benchmark brings, and other work that all processes share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from mcn_lightning.batch import ClipBatch
from mcn_lightning.benchmarks.files import EvaluationClips, EvaluationText
from mcn_lightning.callbacks.progress import progress
from mcn_lightning.callbacks.protocols import EmbeddingModule
from mcn_lightning.distributed import gather_objects, gather_rows, rank, world
from mcn_lightning.errors import InputError

Result = TypeVar("Result")


def embed_batches(
    module: EmbeddingModule, count: int, batch: Callable[[range], ClipBatch], name: str, batch_size: int = 64
) -> dict[str, Tensor]:
    """Embed items of a benchmark, each on one process, and return the embeddings of all on every process.

    Whole batches are shared out over the processes. So the embeddings are the same bit for bit for any number of them.

    Args:
        module: the model.
        count: N, the number of items.
        batch: makes a batch of items, given their numbers from 0; on any device.
        name: of the benchmark, for the progress bar.
        batch_size: items of a batch.

    Returns:
        ``(N, D)`` float32 by name of the embedding, in the order of the items.
    """
    batches = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    parts: dict[str, list[Tensor]] = {}
    for numbers in progress(batches[rank() :: world()], name, "batches"):
        for modality, rows in module(batch(numbers).to(module.device).ready()).embeddings().items():
            parts.setdefault(modality, []).append(rows.float())
    shared = [[number for numbers in batches[of :: world()] for number in numbers] for of in range(world())]
    sizes = [len(numbers) for numbers in shared]
    place = torch.tensor([number for numbers in shared for number in numbers], device=module.device).argsort()
    names = sorted({modality for found in gather_objects(sorted(parts)) for modality in found})
    empty = torch.zeros(0, module.network_config.embedding_dim, device=module.device)
    return {each: gather_rows(torch.cat(parts.get(each, [empty])), sizes)[place] for each in names}


def embed_clips(module: EmbeddingModule, clips: EvaluationClips, name: str) -> dict[str, Tensor]:
    """Embed all clips of a benchmark, and all of their captions, as ``embed_batches`` does.

    Args:
        module: the model.
        clips: N clips; see ``EvaluationData.clips``.
        name: of the benchmark, for the progress bar.

    Returns:
        By modality ``(N, D)`` float32, in the order of the clips, on every process; zeros for the audio of clips
        without sound. Text, and the joint embedding of audio and text, has a row for each caption, the first N of which
        are the clips' first ones.
    """
    count = len(clips.ids)
    found = embed_batches(module, count, lambda rows: clips.batch(rows, module.device), name, clips.batch_size)
    if "audio" in found:
        silent = torch.tensor(clips.silent, device=module.device)
        found["audio"] = found["audio"].masked_fill(silent[:, None], 0.0)
    if (more := len(clips.caption_clips) - count) == 0:
        return found
    joint = module.network_config.fuse_audio_text

    def captions(rows: range) -> ClipBatch:
        batch = clips.batch(range(count + rows.start, count + rows.stop), module.device)
        return batch if joint else replace(batch, video=None, audio=None, audio_frames=None)

    further = embed_batches(module, more, captions, name, clips.batch_size)
    return found | {
        each: torch.cat([found[each], rows]) for each, rows in further.items() if each in ("text", "audio_text")
    }


def embed_texts(module: EmbeddingModule, text: EvaluationText, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """Embed texts, on every process all of them.

    Args:
        module: the model.
        text: knows their words; see ``EvaluationData.text``.
        texts: n texts.
        batch_size: texts embedded at a time.

    Returns:
        ``(n, D)`` float32.
    """
    found = []
    for first in range(0, len(texts), batch_size):
        some = texts[first : first + batch_size]
        words = text.vectors(some, module.device)
        batch = ClipBatch(ids=tuple(map(str, range(len(some)))), words=words)
        found.append(module(batch).embeddings()["text"].float())
    return torch.cat(found)


def share_out(count: int, work: Callable[[int], Result], name: str, unit: str) -> list[Result]:
    """Do some work for each of several items, each on one process, and return all results in order on every process.

    Args:
        count: number of items.
        work: what is done for an item; its result can be pickled.
        name: of the benchmark, for the progress bar.
        unit: what an item is.

    Raises:
        InputError: on every process, if it ends so on one.
    """

    def tried() -> list[Result]:
        return [work(item) for item in progress(range(rank(), count, world()), name, unit)]

    parts = _tried_by_all(tried)
    return [parts[item % world()][item // world()] for item in range(count)]


def on_first(work: Callable[[], None]) -> None:
    """Do something on the first process; where it ends in an InputError, all end so."""
    _tried_by_all(work if rank() == 0 else lambda: None)


def _tried_by_all(work: Callable[[], Result]) -> list[Result]:
    """Do something on every process and return what each found.

    Raises:
        InputError: on every process, if it ends in one, or in a ValueError, on any: the others would wait for it.
    """
    found: list[Result] = []
    error: str | None = None
    try:
        found.append(work())
    except ValueError as reason:
        error = str(reason)
    parts = gather_objects((found, error))
    for _, reason_of_one in parts:
        if reason_of_one is not None:
            raise InputError(reason_of_one)
    return [result for results, _ in parts for result in results]
