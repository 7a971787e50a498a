"""Embedding of the clips of a data set, block by block. What is finished stays, whenever the process is killed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from mcn_lightning.batch import ClipBatch
from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.dataset import DescribedVideos, NarratedVideoDataset, splits_of
from mcn_lightning.data.loading import make_loader
from mcn_lightning.distributed import usable_cores
from mcn_lightning.errors import InputError
from mcn_lightning.module import MCNModule
from mcn_lightning.search.build.parts import write_part
from mcn_lightning.search.options import IndexConfig
from mcn_lightning.search.build.windows import WindowedVideos, check_windows

BLOCK = 64
"""Videos of a finished file, at least."""
TEXT = "text"


@dataclass(frozen=True)
class Block:
    """Consecutive new videos of a split, which are embedded and written together.

    Args:
        order: place among all blocks.
        split: of the videos.
        kind: of the clips: captions or windows.
        videos: their positions in the split.
        names: their ids.
    """

    order: int
    split: str
    kind: str
    videos: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the file, which depends on the videos alone."""
        # of the ids: a block of other videos is never taken for this one
        digest = hashlib.sha256("\n".join(self.names).encode()).hexdigest()[:16]
        return f"{self.split}-{self.kind}-{self.videos[0]:08d}-{digest}.safetensors"


def plan(config: IndexConfig, data: NarratedVideos, known: set[tuple[str, str]]) -> list[Block]:
    """Divide the videos that are not in the index yet into blocks.

    Args:
        config: splits and kinds of clips.
        data: opened data.
        known: videos that the index has, with the kind of their clips.

    Raises:
        InputError: if the clips are windows, and the data cannot give any.
    """
    # whole batches, so that no batch belongs to two blocks
    size = -(-BLOCK // data.eval_batch_size) * data.eval_batch_size
    found: list[Block] = []
    kinds = ["captions", "windows"] if config.clips == "both" else [config.clips]
    seen = set(known)
    for split in splits_of(config.split, data.lists):
        if split not in data.datasets:
            if config.split == "all":
                continue
            raise InputError(data.splits.sources[split].missing_message(split))
        source = data.datasets[split].source
        names = [source.id(index) for index in range(len(source))]
        for kind in kinds:
            if kind == "windows":
                check_windows(data.datasets[split])
            # a video of two lists is indexed once
            new = [index for index, name in enumerate(names) if (name, kind) not in seen]
            seen |= {(name, kind) for name in names}
            for first in range(0, len(new), size):
                some = tuple(new[first : first + size])
                found.append(Block(len(found), split, kind, some, tuple(names[index] for index in some)))
    return found


def embed(
    module: MCNModule, data: NarratedVideos, config: IndexConfig, blocks: Sequence[Block], folder: Path, shown: bool
) -> None:
    """Embed blocks, and write a file for each.

    Args:
        module: the model, on its device, in evaluation mode.
        data: opened data.
        config: length of the windows.
        blocks: that are not finished.
        folder: of the files.
        shown: whether to show the progress.
    """
    if module.network.text is not None and (embedder := data.text_embedder()) is not None:
        module.network.text.set_embedder(embedder.to(module.device))
    with tqdm(
        total=sum(len(block.videos) for block in blocks), desc="embedding", unit="video", disable=not shown
    ) as bar:
        for split, kind in dict.fromkeys((block.split, block.kind) for block in blocks):
            own = [block for block in blocks if (block.split, block.kind) == (split, kind)]
            batches = _batches(data, _clips_of(data.datasets[split], split, kind, config), own)
            for block in own:
                parts, skipped, waiting = list[dict[str, Any]](), dict[str, str](), len(block.videos)
                while waiting > 0:
                    batch = next(batches)
                    waiting -= data.eval_batch_size
                    skipped |= {bad.video: bad.reason for bad in batch.skipped}
                    if len(batch):
                        parts.append(_embed_batch(module, batch))
                    bar.update(min(data.eval_batch_size, waiting + data.eval_batch_size))
                write_part(folder / block.file, kind, parts, skipped)


def _clips_of(videos: NarratedVideoDataset, split: str, kind: str, config: IndexConfig) -> DescribedVideos:
    return DescribedVideos(videos, split) if kind == "captions" else WindowedVideos(videos, split, config.window)


def _batches(data: NarratedVideos, clips: DescribedVideos, blocks: Sequence[Block]) -> Iterator[ClipBatch]:
    """Return the batches of blocks. All but the last block of a split have whole batches."""
    size = data.eval_batch_size
    whole = [block for block in blocks if len(block.videos) % size == 0]
    rest = [block for block in blocks if len(block.videos) % size]
    assert not rest or rest == list(blocks[-1:])  # see plan
    for some in (whole, rest):
        keys = [(0, index) for block in some for index in block.videos]
        if keys:
            workers = min(data.num_workers, usable_cores(), len(keys))
            yield from make_loader(clips, keys, size, workers, data.timeout, data.seed, 1, False)


@torch.no_grad()
def _embed_batch(module: MCNModule, batch: ClipBatch) -> dict[str, Any]:
    """Embed a batch as ``predict`` does, and describe its clips."""
    labels = None if batch.labels is None else batch.labels.tolist()
    found = module.predict_step(batch.to(module.device), 0)
    tensors = {name: found[name] for name in module.network_config.embeddings if name in found}
    rows: dict[str, Tensor] = {
        name: value.float().cpu() for name, value in tensors.items() if isinstance(value, Tensor)
    }
    there = {name: _mask(found.get(f"has_{name}"), len(batch)) for name in rows}
    clusters = found.get("cluster")
    clips = []
    for number, (name, about) in enumerate(zip(batch.ids, batch.metadata, strict=True)):
        if about.get("known_words") == 0:  # what the network makes of no word would look like a real embedding
            for each in (TEXT, "audio_text"):
                if each in rows:
                    there[each][number], rows[each][number] = False, 0.0
        cluster = int(clusters[number]) if isinstance(clusters, Tensor) else -1
        topic = labels[number] if labels is not None else -1
        clip = {"id": name} | {key: about[key] for key in ("video", "split", "start", "end", "text")}
        clip |= {"cluster": cluster if cluster >= 0 else None, "topic": topic if topic >= 0 else None}
        has = {each for each, mask in there.items() if mask[number]}
        clip |= {
            "has_video": int("video" in has),
            "has_audio": int(bool({"audio", "audio_text"} & has)),
            "has_text": int(bool({"text", "audio_text"} & has)),
        }
        clips.append(clip)
    return {"clips": clips, "tensors": rows}


def _mask(found: object, size: int) -> list[bool]:
    return found.tolist() if isinstance(found, Tensor) else [True] * size
