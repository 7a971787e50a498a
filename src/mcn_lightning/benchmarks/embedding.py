"""Embedding of a benchmark's clips and texts, and distribution of other work over processes."""

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
from mcn_lightning.distributed import gather_objects, gather_rows, rank, world_size
from mcn_lightning.errors import InputError

Result = TypeVar("Result")


def embed_batches(
    module: EmbeddingModule, count: int, batch: Callable[[range], ClipBatch], name: str, batch_size: int = 64
) -> dict[str, Tensor]:
    """Embed the items of a benchmark and return all embeddings on every process.

    Each process embeds some of the batches. The batches, and so the embeddings, are bit for bit the same for any number
    of processes.

    Args:
        module: the model.
        count: N, the number of items.
        batch: makes a batch from a range of item indices, on any device.
        name: of the benchmark, for the progress bar.
        batch_size: items of a batch.

    Returns:
        ``(N, D)`` float32 by name of the embedding, in the order of the items.
    """
    batches = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    parts: dict[str, list[Tensor]] = {}
    for numbers in progress(batches[rank() :: world_size()], name, "batches"):
        for modality, rows in module(batch(numbers).to(module.device).ready()).embeddings().items():
            parts.setdefault(modality, []).append(rows.float())
    # a process may have no batch at all: it learns the names of the embeddings from the others, and sends empty rows
    shared = [[number for numbers in batches[of :: world_size()] for number in numbers] for of in range(world_size())]
    sizes = [len(numbers) for numbers in shared]
    # rows arrive process by process; argsort of their numbers puts them back in order
    order = torch.tensor([number for numbers in shared for number in numbers], device=module.device).argsort()
    names = sorted({modality for found in gather_objects(sorted(parts)) for modality in found})
    empty = torch.zeros(0, module.network_config.embedding_dim, device=module.device)
    return {each: gather_rows(torch.cat(parts.get(each, [empty])), sizes)[order] for each in names}


def embed_clips(module: EmbeddingModule, clips: EvaluationClips, name: str) -> dict[str, Tensor]:
    """Embed all clips of a benchmark, and all of their captions, as ``embed_batches`` does.

    Args:
        module: the model.
        clips: N clips; see ``EvaluationData.clips``.
        name: of the benchmark, for the progress bar.

    Returns:
        ``(N, D)`` float32 by modality, in the order of the clips, on every process. The audio of clips without sound is
        zeros. Text, and the joint embedding of audio and text, have a row for each caption. Their first N rows are the
        first captions of the clips.
    """
    count = len(clips.ids)
    found = embed_batches(module, count, lambda rows: clips.batch(rows, module.device), name, clips.batch_size)
    if "audio" in found:
        silent = torch.tensor(clips.silent, device=module.device)
        found["audio"] = found["audio"].masked_fill(silent[:, None], 0.0)
    # audio and video of the first pass serve all captions of a clip
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
    """Embed texts; every process embeds all of them, as they are few.

    Args:
        module: the model.
        text: source of their word vectors; see ``EvaluationData.text``.
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


def map_over_processes(count: int, work: Callable[[int], Result], name: str, unit: str) -> list[Result]:
    """Apply a function to items, each on one process, and return all results in order on every process.

    Args:
        count: number of items.
        work: function of an item's index; its result is pickled.
        name: of the benchmark, for the progress bar.
        unit: plural noun for the items.

    Raises:
        InputError: on every process, if the function raises one on any process.
    """

    def own_items() -> list[Result]:
        return [work(item) for item in progress(range(rank(), count, world_size()), name, unit)]

    parts = _run_on_all(own_items)
    # items are assigned in turn, as neighbours in a list often have similar lengths
    return [parts[item % world_size()][item // world_size()] for item in range(count)]


def run_on_first_process(work: Callable[[], None]) -> None:
    """Call a function on the first process. If it raises an InputError, all processes raise it."""
    _run_on_all(work if rank() == 0 else lambda: None)


def _run_on_all(work: Callable[[], Result]) -> list[Result]:
    """Call a function on every process and return all results.

    Raises:
        InputError: on every process, if any raises a ValueError. Otherwise the others would wait for it forever.
    """
    found: list[Result] = []
    error: str | None = None
    try:
        found.append(work())
    except ValueError as reason:
        error = str(reason)
    # messages and not errors are sent: an error may hold objects that cannot be pickled
    parts = gather_objects((found, error))
    for _, reason_of_one in parts:
        if reason_of_one is not None:
            raise InputError(reason_of_one)
    return [result for results, _ in parts for result in results]
