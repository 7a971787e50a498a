"""Where the videos of every split are: in the layout's files, in shards, or in pickles of clips."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mcn_lightning.batch import BadVideo
from mcn_lightning.data.captions import Captions, read_captions
from mcn_lightning.data.checks.first_look import look_at
from mcn_lightning.data.checks.first_words import check_words, overlaps, repeated_names
from mcn_lightning.data.clips import ClipConfig
from mcn_lightning.data.files.caption_files import caption_files
from mcn_lightning.data.shards.files import ShardIndex, check_options
from mcn_lightning.data.shards.header import checksum
from mcn_lightning.data.shards.pack import PackConfig, PackReport, pack
from mcn_lightning.data.shards.read import ShardVideos
from mcn_lightning.data.shards.streaming import StreamingVideos, is_streaming, pack_streaming
from mcn_lightning.data.shards.writer import Split
from mcn_lightning.data.sources.clip_pickles import PickledClips, is_pickle
from mcn_lightning.data.sources.howto100m import LayoutVideos, VideoLayout, read_video_list, video_id
from mcn_lightning.data.text import TextConfig, TextSource, open_text
from mcn_lightning.data.videos import NarratedVideoDataset, VideoSource
from mcn_lightning.errors import InputError


class Splits:
    """The data set of every split, and the text source that all of them share.

    Args:
        root: folder of the data set.
        lists: name of the list, or pickle, of each split; none for no such split.
        captions: file of the captions.
        layout: where the features are, and which are read.
        text: how captions become vectors.
        clips: how clips are chosen.
        seed: of every draw.
        allow_missing: a video may lack a modality.

    Attributes:
        notes: lines about the captions, once they are opened: how many words are known.
        warnings: lines about videos that are in several lists, or more than once in one.
    """

    def __init__(
        self,
        root: Path,
        lists: Mapping[str, str | None],
        captions: Path,
        layout: VideoLayout,
        text: TextConfig,
        clips: ClipConfig,
        seed: int,
        allow_missing: bool = False,
    ) -> None:
        self.allow_missing = allow_missing
        self.root, self.lists, self.captions, self.layout = root, dict(lists), captions, layout
        self.text_config, self.clips, self.seed = text, clips, seed
        self.text: TextSource | None = None
        self.datasets: dict[str, NarratedVideoDataset] = {}
        self._lost: Sequence[BadVideo] = ()
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def lost(self) -> Sequence[BadVideo]:
        """Return the training videos that are known to be unusable before any is read."""
        return self._lost

    def open(self, needed: Sequence[str]) -> None:
        """Read the lists, the captions and the vectors of their words.

        The word indices of every split belong to one table, so all lists that exist are read at the first call.

        Args:
            needed: splits that must exist.

        Raises:
            InputError: if the folder or a file is missing or unusable.
        """
        self._check_root()
        if not self.datasets:
            videos = {split: self._videos(split, split in needed) for split in self.lists}
            self._open_layout(videos, self._pickled(needed))
        for split in needed:
            if not self.datasets.get(split):
                self._videos(split, required=True)

    def _check_root(self) -> None:
        if not self.root.is_dir():
            raise InputError(f"--data.root {self.root}: expected a folder, found none")

    def _pickled(self, needed: Sequence[str]) -> dict[str, PickledClips]:
        """Open the splits that are pickles of clips, and that are needed or there; a file of two held-out splits once.

        Training visits every row. Evaluation takes rows of one name as one clip with several captions.
        """
        layout, opened = self.layout, dict[tuple[str, bool], PickledClips]()
        streams = layout.streams if "video" in layout.modalities else ()
        audio = layout.audio if "audio" in layout.modalities else None
        text, found = "text" in layout.modalities, {}
        for split, name in self.lists.items():
            if name is None or not is_pickle(name) or not (split in needed or (self.root / name).is_file()):
                continue
            key = name, split != "train"
            if key not in opened:
                try:
                    opened[key] = PickledClips(
                        self.root / name, streams, audio, text, merge=split != "train", allow_missing=self.allow_missing
                    )
                except InputError as error:
                    raise InputError(f"--data.{split}_csv: {error}") from None
            found[split] = opened[key]
        return found

    def open_shards(self, where: str) -> None:
        """Take the splits from shards, or from LitData records.

        Args:
            where: folder, or address.

        Raises:
            InputError: if they cannot be read, or were packed in another way than this run needs.
        """
        self._check_eval_column()
        layout, captions = self.layout, self.clips.kind == "captions"
        streams = layout.streams if "video" in layout.modalities else ()
        audio = layout.audio if "audio" in layout.modalities else None
        streaming, words = is_streaming(where), set[str]()
        sources: dict[str, ShardVideos | StreamingVideos] = {}
        index = None if streaming else ShardIndex(Path(where))
        for split, name in self._split_names().items():
            if index is not None and name in index.splits:
                sources[split] = ShardVideos(index, name, streams, audio, captions, allow_missing=self.allow_missing)
            elif streaming and (name == "train" or self.lists[split] is not None):
                address = f"{where.rstrip('/')}/{name}"
                sources[split] = found = StreamingVideos(
                    address, streams, audio, captions, allow_missing=self.allow_missing
                )
                words.update(found.words)
        pickled = self._pickled(())
        for source in sources.values():
            self._check_packed(source.options, where)
            check_options(source.options, where, self._shard_options(), layout.streams, self._min_times(), captions)
        if "text" in layout.modalities:
            known = list(index.words()) if index is not None else sorted(words)
            texts = [text for clips in pickled.values() for text in clips.texts()]
            self.text = open_text(self.text_config, self.root / self.text_config.source, [*known, *texts])
        for source in sources.values():
            source.set_text(self.text)
        self.datasets = {split: self._dataset(split, source) for split, source in {**sources, **pickled}.items()}
        if not streaming:  # a look at a record fetches a whole chunk from its store
            self._look()
        self._note()
        self._lost = sources["train"].lost() if "train" in sources else []

    def _check_eval_column(self) -> None:
        if self.text_config.eval_column != "text":
            raise InputError(
                "--data.text.eval_column: expected text with shards, which hold one text a caption for evaluation, "
                f"found {self.text_config.eval_column}; evaluate from the files, without --data.shards"
            )

    def _check_packed(self, packed: dict[str, Any], where: str) -> None:
        """Refuse what was not packed at all."""
        if absent := [name for name in self.layout.modalities if name not in packed["modalities"]]:
            raise InputError(
                f"--data.modalities: expected some of {', '.join(packed['modalities'])}, which {where} was packed "
                f"with, found {absent[0]}; pack again to add it"
            )
        kind = self.clips.kind
        if kind != packed["kind"] and not (kind == "windows" and packed["keep_frames"]):
            raise InputError(
                f"--data.clips.kind: expected {packed['kind']}, which {where} was packed with, found {kind}; "
                "pack again, captions with --pack.keep_frames true to serve windows too"
            )
        if kind == "captions" and not packed["keep_frames"] and self.clips.span != packed.get("span", "widest"):
            raise InputError(
                f"--data.clips.span: expected {packed.get('span', 'widest')}, which {where} was packed with, "
                f"found {self.clips.span}; pack again, or once with --pack.keep_frames true"
            )
        if kind == "captions" and self.clips.overrun > packed["overrun"]:
            raise InputError(
                f"--data.clips.overrun: expected at most {packed['overrun']:g}, which {where} was packed with, "
                f"found {self.clips.overrun:g}; pack again to take more videos"
            )

    def _split_names(self) -> dict[str, str]:
        """Return under which name each split is packed: a test list that is the validation list is packed once."""
        same = self.lists["test"] == self.lists["val"]
        return {split: "val" if split == "test" and same else split for split in self.lists}

    def _min_times(self) -> dict[str, float]:
        clips = self.clips
        return {split: clips.min_time if split == "train" else clips.eval_min_time for split in self.lists}

    def _shard_options(self) -> dict[str, Any]:
        """Return what shards are packed with besides streams and clips, and a run must not change."""
        return {"bands": self.layout.audio.bands, "train_column": self.text_config.train_column}

    def pack(self, config: PackConfig) -> PackReport:
        """Pack every split that has a list into shards.

        Args:
            config: where to, and how.

        Returns:
            What was done.

        Raises:
            InputError: if the data set cannot be read, or the folder holds something else.
        """
        self._check_root()
        self._check_eval_column()
        if self.clips.kind == "windows" and not config.keep_frames and "video" in self.layout.modalities:
            raise InputError("--pack.keep_frames: expected true for --data.clips.kind windows, found false")
        if (name := self.lists["train"]) is not None and is_pickle(name):
            raise InputError(
                f"--data.train_csv: expected a list of videos to pack, found the pickle {name}, which is packed"
            )
        names = set(self._split_names().values())
        videos = {split: self._videos(split, split == "train") for split in self.lists if split in names}
        captions = self._read_captions(videos)
        splits = {
            split: Split(LayoutVideos(paths, captions, self.layout, self.allow_missing), self._min_times()[split])
            for split, paths in videos.items()
            if paths
        }
        streams = self.layout.streams if "video" in self.layout.modalities else ()
        for split, part in splits.items():
            look_at(part.source, self.clips.overrun, f"--data.{split}_csv {self.lists[split]}")
        options = self._shard_options() | {
            "modalities": list(self.layout.modalities),
            "kind": self.clips.kind,
            "overrun": self.clips.overrun,
            "captions": self._captions_checksum() if captions is not None else None,
        }
        if self.clips.span != "widest":  # older shards do not know of it
            options["span"] = self.clips.span
        if self.allow_missing:  # shards without it stay what they were
            options["allow_missing"] = True
        pack_as = pack if config.format == "safetensors" else pack_streaming
        return pack_as(splits, options, streams, self.clips, config)

    def _captions_checksum(self) -> str:
        """Return the checksum of the captions; of a folder, that of the checksums of its files."""
        if not self.captions.is_dir():
            return checksum(self.captions)
        each = (f"{video} {checksum(path)}" for video, path in caption_files(self.captions).items())
        return hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()

    def _videos(self, split: str, required: bool) -> list[str]:
        """Read the list of a split; an empty one where there is none and none is required."""
        name = self.lists[split]
        if name is None or is_pickle(name) or not (required or (self.root / name).is_file()):
            return []
        try:
            return read_video_list(self.root / name)
        except InputError as error:
            raise InputError(f"--data.{split}_csv: {error}") from None

    def _open_layout(self, videos: dict[str, list[str]], pickled: dict[str, PickledClips]) -> None:
        if not any(videos.values()) and not pickled:
            return
        captions = self._read_captions(videos)
        if "text" in self.layout.modalities:
            entries = (captions or {}).values()
            texts = [text for entry in entries if isinstance(entry, Captions) for text in entry.all_texts()]
            texts += [text for clips in pickled.values() for text in clips.texts()]
            self.text = open_text(self.text_config, self.root / self.text_config.source, texts)
        sources: dict[str, VideoSource] = {
            split: LayoutVideos(paths, captions, self.layout, self.allow_missing)
            for split, paths in videos.items()
            if paths
        }
        self.datasets = {split: self._dataset(split, source) for split, source in {**sources, **pickled}.items()}
        self._look()
        self._note()

    def _note(self) -> None:
        """Count known words, refuse captions of too few, and find videos that several lists have."""
        sources = {split: dataset.source for split, dataset in self.datasets.items()}
        same = self.lists["test"] == self.lists["val"]
        for split, source in sources.items():
            where = f"--data.{split}_csv {self.lists[split]}"
            if not (split == "test" and same):
                self.warnings += repeated_names(source, where)
                note = check_words(self.text, source, where, self.root / self.text_config.source)
                self.notes += [note] if note else []
        self.warnings += overlaps(sources, self.lists)

    def _look(self) -> None:
        """Compare rates and units over some videos of every split."""
        for split, dataset in self.datasets.items():
            look_at(dataset.source, self.clips.overrun, f"--data.{split}_csv {self.lists[split]}")

    def _dataset(self, split: str, source: VideoSource) -> NarratedVideoDataset:
        training = split == "train"
        may_lack = self.layout.modalities if self.allow_missing else ()
        return NarratedVideoDataset(source, self.clips, self.layout.audio, self.text, self.seed, training, may_lack)

    def _read_captions(self, videos: dict[str, list[str]]) -> dict[str, Captions | BadVideo] | None:
        """Read the captions of the videos of all splits; nothing where clips are windows."""
        if self.clips.kind != "captions" or not any(videos.values()):
            return None
        try:
            wanted = {video_id(path) for paths in videos.values() for path in paths}
            columns = self.text_config.train_column, self.text_config.eval_column
            captions = read_captions(self.captions, wanted, *columns)
        except InputError as error:
            raise InputError(f"--data.captions: {error}") from None
        unusable = [entry for entry in captions.values() if isinstance(entry, BadVideo)]
        if len(unusable) == len(captions):
            raise InputError(f"--data.captions: no video has captions that can be used; first: {unusable[0].reason}")
        return captions
