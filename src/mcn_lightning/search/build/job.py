"""Making of an index: embed what is new, then write embeddings, table and search indexes, and the manifest last."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mcn_lightning.data.datamodule import NarratedVideos
from mcn_lightning.data.text import WordVectorText
from mcn_lightning.errors import InputError
from mcn_lightning.files import replacing
from mcn_lightning.inference import Inputs, load
from mcn_lightning.inference.words import StoredWords, write_words
from mcn_lightning.search import neighbours
from mcn_lightning.search.clips import Clips, Row, write_clips
from mcn_lightning.search.build.columns import MEDIA, find_records, media_of, read_columns
from mcn_lightning.search.build.embed import Block, embed, plan
from mcn_lightning.search.build.export import check_export, write_export
from mcn_lightning.search.build.parts import join_parts, read_part, stored_column
from mcn_lightning.search.manifest import (
    CLUSTERS,
    FUSED,
    MANIFEST,
    MODEL,
    PARTS,
    WORDS,
    Manifest,
    check_same,
    gallery_names,
    hash_model,
    network_options,
    read_manifest,
)
from mcn_lightning.search.options import LETTERS, IndexConfig, modalities_of
from mcn_lightning.search.vectors import Vectors, write_shard

MOST_SKIPPED = 3  # videos named in a message


class Build:
    """One run of ``lightning index``.

    Args:
        config: options of the command.
        data: the data set, not yet opened.

    Raises:
        InputError: if the model does not fit the data, or the folder holds an index of another model or other options.
    """

    def __init__(self, config: IndexConfig, data: NarratedVideos) -> None:
        self.config, self.data, self.folder = config, data, Path(config.output)
        check_export(config.export)
        self.model = load(config.ckpt_path)
        self.own, self.values = read_columns(Path(config.columns)) if config.columns else ({}, {})
        data.predict_split = config.split
        data.prepare_data()
        data.setup("predict")
        self._check_sizes()
        reading = data.splits.reading
        self.inputs = Inputs.of_files(data.root, reading.streams, reading.audio, reading.text)
        self.options = {"clips": config.clips, "modalities": list(reading.modalities), "span": reading.clips.span,
                        "eval_min_time": reading.clips.eval_min_time}  # fmt: skip
        if config.clips != "captions":
            self.options["window"] = config.window
        if reading.clips.kind == "windows" or reading.allow_missing:  # videos without captions have such windows
            self.options["min_time"] = reading.clips.min_time
        self.hash = hash_model(self.model)
        self.parts = self.folder / PARTS
        self.refresh()

    def refresh(self) -> None:
        """Read what the folder holds, which another command may have changed, and plan what is missing.

        Raises:
            InputError: if it holds an index of another model or other options.
        """
        self.before = _read_if_there(self.folder)
        for kept in (self.before, _read_if_there(self.parts)):
            if kept is not None:
                self._check_same(kept)
        self.blocks = plan(self.config, self.data, self._known())

    def begin(self) -> None:
        """Make the folder of the finished blocks, and write there by which model and options they are made."""
        # blocks without their manifest do not tell which model made them
        if not (self.parts / MANIFEST).is_file():
            shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir(parents=True, exist_ok=True)
        self._manifest("", []).write(self.parts)

    def _manifest(self, table: str, shards: list[tuple[str, int]], **more: Any) -> Manifest:
        names = self._names() if self.before is None else self.before.embeddings
        options = self.inputs.as_dict(), network_options(self.model)
        return Manifest(self.hash, self.options, *options, table, shards, names, **more)

    def _check_sizes(self) -> None:
        network = self.model.network_config
        for name, value in self.data.input_sizes().items():
            own, modality = getattr(network, name), {"video_dim": "video", "audio_bands": "audio", "text_dim": "text"}
            needed = name in modality and {modality[name]} <= {*network.modalities} & {*self.data.modalities}
            if needed and own != value:
                raise InputError(f"--ckpt_path: expected a model of {name} {value}, which the data have, found {own}")
        if not {*network.modalities} & {*self.data.modalities}:
            found = ", ".join(network.modalities)
            raise InputError(
                f"--ckpt_path: expected a model of {', '.join(self.data.modalities)}, found one of {found}"
            )

    def _check_same(self, kept: Manifest) -> None:
        if kept.model != self.hash:
            raise InputError(
                f"--output {self.folder}: expected the model that the index was made with ({kept.model[:12]}), found "
                f"another ({self.hash[:12]}); give another folder, or the checkpoint of the index"
            )
        check_same(self.folder, kept.options, self.options)
        check_same(self.folder, _shared(kept.inputs), _shared(self.inputs.as_dict()))

    def _known(self) -> set[tuple[str, str]]:
        """Return the videos of the index, with the kind of their clips."""
        if self.before is None:
            return set()
        return {(video, f"{kind}s") for video, kind in Clips(self.folder / self.before.table).kinds()}

    def todo(self) -> list[Block]:
        """Return the blocks that are not embedded yet."""
        return [block for block in self.blocks if not (self.parts / block.file).is_file()]

    def embed(self, device: torch.device, share: int = 0, shares: int = 1) -> None:
        """Embed a share of the blocks.

        Args:
            device: of the model.
            share: number of the share, from 0.
            shares: number of shares.
        """
        module = self.model.to(device).eval()
        # shares of all blocks, not of those that are left: another process may finish some in between
        mine = {block.file for block in self.blocks[share::shares]}
        blocks = [block for block in self.todo() if block.file in mine]
        if blocks:
            embed(module, self.data, self.config, blocks, self.parts, share == 0)

    def finish(self) -> str:
        """Write the index.

        Returns:
            Lines on what there is now.

        Raises:
            InputError: if no clip could be embedded.
        """
        before, choices = self.before, self._choices()
        changed = self._changed()
        if before is not None and not self.blocks and not changed and before.choices == choices:
            shutil.rmtree(self.parts, ignore_errors=True)
            return self._report(before, 0)
        generation = 1 if before is None else before.generation + 1
        shards, skipped = [] if before is None else list(before.shards), dict[str, str]()
        old, names = 0 if before is None else before.clips, self._names() if before is None else before.embeddings
        for tensors in join_parts(self._parts(skipped, names)):
            shards.append((f"vectors-{len(shards):05d}.safetensors", len(next(iter(tensors.values())))))
            write_shard(self.folder / shards[-1][0], tensors)
        new = sum(rows for _, rows in shards) - old
        if not new and before is None:
            reason = next(iter(skipped.items()), ("the lists", "they name no video"))
            raise InputError(f"--config: expected clips to index, found none; first: {reason[0]}: {reason[1]}")
        # a new name: a search that is open goes on with the old file
        table, own = f"clips-{generation}.sqlite", self.own if before is None else before.own | self.own
        write_clips(self.folder / table, chain(self._old_clips(changed), self._new_clips(old)), own)
        if before is None:
            self._write_model()
        self._write_words()
        same = before is not None and not new and before.choices == choices
        galleries = before.galleries if before is not None and same else self._galleries(table, shards, names, generation)
        manifest = self._manifest(
            table, shards, galleries=galleries, choices=choices, own=own, generation=generation, skipped=skipped
        )
        # last: until then an index that is read is the one of before
        manifest.write(self.folder)
        self._tidy(manifest)
        return self._report(manifest, new, len(changed))

    def _changed(self) -> dict[str, Row]:
        """Return the user's columns of the videos of the index where they differ from those that it has."""
        if self.before is None or not self.values:
            return {}
        table = Clips(self.folder / self.before.table)
        kept = table.by_video([name for name in (*self.own, MEDIA) if name in table.columns])
        return {
            video: values
            for video, values in self.values.items()
            if video in kept and any(kept[video].get(name) != value for name, value in values.items())
        }

    def _old_clips(self, changed: Mapping[str, Row]) -> Iterator[Row]:
        """Return the clips of the index before, with the columns that the user has changed."""
        if self.before is not None:
            for clip in Clips(self.folder / self.before.table).all():
                yield clip | changed.get(clip["video"], {})

    def _new_clips(self, first: int) -> Iterator[Row]:
        """Return the clips of the finished blocks, in the order of their embeddings."""
        records = find_records(self.data.layout.features)
        for block in self.blocks:
            clips = read_part(self.parts / block.file).clips
            media = {video: media_of(records, video) for video in dict.fromkeys(clip["video"] for clip in clips)}
            for row, clip in enumerate(clips, first):
                yield {"row": row, MEDIA: media[clip["video"]]} | clip | self.values.get(clip["video"], {})
            first += len(clips)

    def _choices(self) -> dict[str, Any]:
        config = self.config
        return {"galleries": self._letters(), "memory": config.memory, "recall": config.recall,
                "flat_clips": config.flat_clips, "faiss": neighbours.has_faiss()}  # fmt: skip

    def _names(self) -> list[str]:
        """Return the names of the embeddings that are stored."""
        given = {*self.data.modalities}
        found = [name for name in self.model.network_config.embeddings
                 if name in given or (name == "audio_text" and {"audio", "text"} <= given)]  # fmt: skip
        return [*found, FUSED] if {"video", "audio"} <= {*found} else found

    def _letters(self) -> list[str]:
        """Return the letters of the galleries that get a search index.

        Raises:
            InputError: if a gallery needs a modality that the model or the data lack.
        """
        names = self._names()
        joint = "audio_text" in names
        if self.config.galleries is None:
            single = [letter for letter, name in LETTERS.items() if name in names]
            return [*single, *(["va"] if FUSED in names else []), *(["at"] if joint else [])]
        for letters in self.config.galleries:
            gallery_names(letters, names, "--galleries")
        return list(self.config.galleries)

    def _parts(self, skipped: dict[str, str], names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Return the embeddings of the finished blocks in order, and collect the videos that could not be used."""
        for block in self.blocks:
            part = read_part(self.parts / block.file)
            skipped |= part.skipped
            if part.clips:
                yield {name: stored_column(part.tensors, name, len(part.clips)) for name in names}

    def _write_model(self) -> None:
        """Write the network and its clusters, so that a search needs no checkpoint."""
        model = self.model
        state = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
        clusters: dict[str, Tensor] = {}
        for name in model.network_config.embeddings:
            if (found := model.clusters_of([name])) is not None:
                clusters[f"{name}.centroids"], clusters[f"{name}.sizes"] = (each.cpu().clone() for each in found)
        with replacing(self.folder / MODEL) as partial:
            save_file(state, partial)
        with replacing(self.folder / CLUSTERS) as partial:
            save_file(clusters, partial)

    def _write_words(self) -> None:
        """Write the vectors of the captions' words, those of earlier captions too."""
        if isinstance(text := self.data.text, WordVectorText):
            path, words = self.folder / WORDS, list(text.vocabulary)
            if self.before is not None and path.is_file():
                words += StoredWords(self.inputs.text, path).vocabulary
            write_words(path, Path(self.inputs.text.source), words)

    def _galleries(
        self, table: str, shards: Sequence[tuple[str, int]], names: Sequence[str], generation: int
    ) -> dict[str, dict[str, Any]]:
        """Build the search index of each gallery."""
        if not neighbours.has_faiss():
            print("faiss is not installed: every search compares all clips; pip install faiss-cpu", file=sys.stderr)
            return {}
        vectors, clips, found = Vectors(self.folder, shards), Clips(self.folder / table), dict[str, dict[str, Any]]()
        asking = ["text"] if "text" in names else []
        for letters in self._letters():
            summed = gallery_names(letters, names, "--galleries")
            there = clips.having(modalities_of(letters, "--galleries"))
            if not len(there):
                continue
            choice = neighbours.choose(len(there), vectors.width, self.config.memory, self.config.flat_clips)
            path = self.folder / f"neighbours-{letters}-{generation}.faiss"
            # recall is measured with sentences, as users ask with them; text as gallery is asked by itself
            queries = [name for name in asking if name not in summed]
            found[letters] = neighbours.build(path, vectors, summed, there, choice, self.config.recall, queries)
        return found

    def _tidy(self, manifest: Manifest) -> None:
        """Remove files of earlier generations and of interrupted runs."""
        shutil.rmtree(self.parts, ignore_errors=True)
        kept = {manifest.table, *(name for name, _ in manifest.shards),
                *(each["file"] for each in manifest.galleries.values())}  # fmt: skip
        for pattern in ("clips-*", "vectors-*", "neighbours-*"):
            for path in self.folder.glob(pattern):
                if path.name not in kept:
                    path.unlink()

    def _report(self, manifest: Manifest, new: int, changed: int = 0) -> str:
        table = Clips(self.folder / manifest.table)
        videos = {*table.videos()}
        lines = [f"{self.folder}: {manifest.clips} clips of {len(videos)} videos, {new} new"]
        for letters, about in manifest.galleries.items():
            probes = f", {about['probes']} searched" if about["probes"] else ""
            recall = f"recall@10 {about['recall']:.3f}" + (f" on {about['sample']} queries" if about["probes"] else "")
            lines.append(f"  {letters:<3}{about['what']}{probes}, {about['bytes'] / 1e6:.1f} MB, {recall}")
        if skipped := manifest.skipped:
            some = "; ".join(list(skipped.values())[:MOST_SKIPPED])
            more = f"; and {len(skipped) - MOST_SKIPPED} more" if len(skipped) > MOST_SKIPPED else ""
            lines.append(f"warning: {len(skipped)} videos left out: {some}{more}")
        if changed:
            lines.append(f"--columns: new values for {changed} videos")
        if unmatched := [video for video in self.values if video not in videos]:
            lines.append(f"warning: --columns: {len(unmatched)} videos are not in the index, such as {unmatched[0]}")
        if self.config.export:
            write_export(Path(self.config.export), table, manifest.own)
            lines.append(f"table of clips: {self.config.export}")
        return "\n".join(lines)


def _read_if_there(folder: Path) -> Manifest | None:
    return read_manifest(folder) if (folder / MANIFEST).is_file() else None


def _shared(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs that change embeddings; others, such as those of augmentation, may differ."""
    names = {"audio": ("suffix", "bands", "num_frames", "pad_value", "clamp_start"),
             "text": ("kind", "source", "dim", "max_words", "lowercase", "eval_column")}  # fmt: skip
    found = {f"{group}.{name}": inputs[group][name] for group, own in names.items() for name in own}
    return found | {"streams": inputs["streams"]}
