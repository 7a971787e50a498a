"""The index of clips: open it, and search it by words, sound, picture or another clip."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mcn_lightning.errors import InputError
from mcn_lightning.files import reading
from mcn_lightning.inference import Inputs, Model
from mcn_lightning.models.options import NetworkConfig
from mcn_lightning.options.config import as_config
from mcn_lightning.search.answers import group_duplicates, limit_per_video, merge_overlaps
from mcn_lightning.search.clips import Clips, Row
from mcn_lightning.search.explore.labels import classify
from mcn_lightning.search.explore.moments import score_moments
from mcn_lightning.search.manifest import MODEL, WORDS, gallery_names, hash_model, read_manifest
from mcn_lightning.search.options import LETTERS, IndexConfig, SearchConfig, SearchOptions
from mcn_lightning.search.query import Query
from mcn_lightning.search.ranking import Ranking
from mcn_lightning.search.vectors import Vectors

if TYPE_CHECKING:
    import pandas as pd
    from typing_extensions import Unpack

    from mcn_lightning.data.datamodule import NarratedVideos
    from mcn_lightning.inference.model import Features

DEEPEST = 5_000
"""Clips that are looked at to fill the answers of ``per_video``, ``merge`` and ``duplicates``; 4 k if that is more."""


class Index:
    """An index that ``lightning index`` made. ``Index.open`` opens one.

    Attributes:
        folder: of the index.
        manifest: what the index holds.
        clips: the table of clips.
        vectors: the embeddings of all clips, memory-mapped.
        ranking: what finds the best rows for a query.
    """

    def __init__(self, folder: str | Path, model: Model | None = None, media_root: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.clips = Clips(self.folder / self.manifest.table)
        self.vectors = Vectors(self.folder, self.manifest.shards)
        if self.clips.count != len(self.vectors):
            raise InputError(
                f"{self.clips.path}: expected {len(self.vectors)} clips, found {self.clips.count}; make the index again"
            )
        self.media_root = None if media_root is None else Path(media_root)
        if self.media_root is not None and not self.media_root.is_dir():
            raise InputError(f"--media_root {media_root}: expected the folder of the videos, found none")
        self.ranking = Ranking(self.folder, self.manifest, self.clips, self.vectors)
        if model is not None:
            if (found := hash_model(model)) != (own := self.manifest.model):
                raise InputError(
                    f"{self.folder}: expected the model that the index was made with ({own[:12]}), found another "
                    f"({found[:12]}); leave it out, as the index has its own"
                )
            if model.inputs is None:
                model.inputs = self.inputs
            self.model = model

    @classmethod
    def open(cls, folder: str | Path, model: Model | None = None, media_root: str | Path | None = None) -> Index:
        """Open an index. Embeddings and search indexes are memory-mapped, and the model is loaded when it is needed.

        Args:
            folder: of the index.
            model: the model of the index, if it is loaded already.
            media_root: folder of the media, if they have moved.

        Raises:
            InputError: if it is no index, damaged, of another version, or of another model than the one given.
        """
        return cls(folder, model, media_root)

    @classmethod
    def make(cls, folder: str | Path, checkpoint: str | Path, data: NarratedVideos, **options: Any) -> Index:
        """Make an index as ``lightning index`` does, or add what is new, and open it.

        Args:
            folder: of the index.
            checkpoint: a checkpoint, or the folder of a run.
            data: the data set.
            **options: of ``IndexConfig``: split, clips, window, columns, galleries, memory, recall, flat_clips, export,
                stills.

        Raises:
            InputError: if an option is wrong, the model does not fit the data, or the folder holds something else.
        """
        from mcn_lightning.search.build.folder import making  # a search needs none of it
        from mcn_lightning.search.explore.stills import keep_stills

        config = as_config(IndexConfig, {"ckpt_path": str(checkpoint), "output": str(folder), **options}, "index")
        split = data.predict_split
        try:
            with making(config, data) as build:
                build.embed(torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu"))
                build.finish()
        finally:
            data.predict_split = split
        index = cls.open(folder)
        if config.stills:
            keep_stills(index)
        return index

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def modalities(self) -> list[str]:
        """Modalities that can be searched: video, audio, text."""
        names = {*self.manifest.embeddings}
        return [name for name in LETTERS.values() if name in names or (name != "video" and "audio_text" in names)]

    @property
    def default_gallery(self) -> str:
        """Letters of the modalities that a search compares by default: video and audio, as far as there are any."""
        letters = "".join(letter for letter, name in LETTERS.items() if name in self.manifest.embeddings)
        return letters.replace("t", "") or letters

    @cached_property
    def inputs(self) -> Inputs:
        """What a query needs: streams, spectrograms, text and encoders."""
        words = self.folder / WORDS
        return Inputs.from_dict(self.manifest.inputs, words if words.is_file() else None)

    @cached_property
    def model(self) -> Model:
        """The model of the index, on the CPU.

        Raises:
            InputError: if its file is damaged.
        """
        network = as_config(NetworkConfig, self.manifest.network, "network")
        model = Model(network, clustering={"kind": "none"})  # type: ignore[arg-type]  # a dict of the options
        path = self.folder / MODEL
        with reading(path, "the model of the index", RuntimeError, SafetensorError, advice="make the index again"):
            model.network.load_state_dict(load_file(path))
        model.inputs = self.inputs
        return model.eval()

    def search(
        self,
        text: str | None = None,
        *,
        audio: str | Path | Features | None = None,
        rate: float | None = None,
        video: str | Path | Features | Sequence[Features] | None = None,
        start: float = 0.0,
        end: float | None = None,
        like: str | None = None,
        words: str | None = None,
        vector: Tensor | None = None,
        **options: Unpack[SearchOptions],
    ) -> pd.DataFrame:
        """Find clips. Several kinds of query are one: their embeddings are summed, and ``words`` are mixed in by rank.

        Args:
            text: a sentence.
            audio: a sound or video file, or samples ``(n,)`` with their ``rate``.
            rate: samples a second.
            video: a video or picture file, or the rows of each visual stream.
            start: first second of the file that counts.
            end: last second of the file that counts.
            like: id of a clip of this index.
            words: words that captions have, by full-text search.
            vector: an embedding ``(D,)``.
            **options: of ``SearchConfig``: k, modality, per_video, where, merge, duplicates, calibrate.

        Returns:
            The best first, with the columns of the clips and ``score``. ``score_v``, ``score_a`` and ``score_t`` are
            the scores by modality, empty where a clip lacks it. With ``merge`` there is ``merged``, the number of clips
            of an answer. With ``duplicates`` there are the ids of the other clips of its group.

        Raises:
            InputError: if the query or an option is wrong.
        """
        import pandas as pd

        config = as_config(SearchConfig, options, "search")
        query = Query(text, audio, rate, video, start, end, like, words, vector)
        answers = self.answers(query, config)
        columns = [*self.clips.columns, "score", *(f"score_{letter}" for letter in self._letters)]
        columns += ["merged"] * config.merge + ["duplicates"] * (config.duplicates is not None)
        # Int64 of pandas, since some clips have no cluster
        frame = pd.DataFrame(answers, columns=columns).astype({"cluster": "Int64", "topic": "Int64"})
        hidden = ["row", "has_video", "has_audio", "has_text"]
        first = ["id", "video", "start", "end", "text", "score"]
        return frame[[*first, *(name for name in columns if name not in {*hidden, *first})]]

    def warm_up(self, modality: str | None = None) -> None:
        """Load the model and read the search index, so that the first search is as fast as the others.

        Args:
            modality: letters of the modalities that will be searched; by default those that a search compares.

        Raises:
            InputError: if the search index is damaged, or there is no such modality.
        """
        letters = modality or self.default_gallery
        self.ranking.warm_up(letters)
        self.search(vector=torch.ones(self.vectors.width), modality=letters, k=1)
        with suppress(InputError):  # the model may have no text, or not know the word
            self.model.embed_text("the")

    def moments(self, video: str, text: str | None = None, modality: str | None = None, **query: Any) -> pd.DataFrame:
        """Return the score of a query along the time of a video.

        Args:
            video: name of the video.
            text: a sentence.
            modality: letters of the modalities that are compared; by default those that a search compares.
            **query: other kinds of query, as in ``search``: audio, rate, video, start, end, like, vector. The file
                ``video`` is called ``picture`` here.

        Returns:
            A row for each window of the video, or each caption if there are no windows, in the order of time, with the
            columns ``id``, ``video``, ``start``, ``end`` (seconds), ``text`` and ``score``, a dot product.

        Raises:
            InputError: if the query is wrong, or the video is unknown or has no clip with times.
        """
        parts = {"video" if name == "picture" else name: value for name, value in query.items()}
        return score_moments(self, video, Query(text, **parts), modality)

    def classify(self, labels: Sequence[str], modality: str | None = None, where: str | None = None) -> pd.DataFrame:
        """Give each clip the label whose embedding has the highest dot product with its own (zero-shot).

        Args:
            labels: L labels.
            modality: letters of the modalities that are compared; by default those that a search compares.
            where: condition on the table of clips, in SQL.

        Returns:
            A row for each clip that has the modality, in the order of the index, with the columns ``id``, ``video``,
            ``start``, ``end``, ``text``, ``label``, its ``score``, and ``score_<label>`` for each label.

        Raises:
            InputError: if a label is empty, there twice or has no known word, or an option is wrong.
        """
        import pandas as pd

        blocks = [*classify(self, labels, modality, where)]
        return pd.concat(blocks, ignore_index=True) if blocks else pd.DataFrame(columns=["id", "label", "score"])

    def answers(self, query: Query, config: SearchConfig) -> list[Row]:
        """Find clips, as ``search`` does.

        Args:
            query: what is looked for.
            config: how answers are chosen.

        Returns:
            A dict of the columns of each answer, with ``row`` and the scores, best first.

        Raises:
            InputError: if the query or an option is wrong.
        """
        query.check()
        letters = config.modality or self.default_gallery
        names = gallery_names(letters, self.manifest.embeddings, "--modality")
        grouping = config.merge or config.per_video is not None or config.duplicates is not None
        own = None if query.like is None else self.clips.row_of(query.like)
        # more candidates than answers, as grouping joins some
        depth = (4 * config.k if grouping else config.k) + (own is not None)
        # sqlite leaves Python free: the table is read while the model embeds and faiss searches
        beside = ThreadPoolExecutor(1)
        try:
            matching = beside.submit(self.ranking.matching, query.words, depth, config.where)
            vector = query.embed(self, names)
            while True:
                ranked = self.ranking.rank(query, vector, letters, depth, matching, config)
                last = len(ranked) < depth or depth >= max(DEEPEST, 4 * config.k)
                ranked = {row: score for row, score in ranked.items() if row != own}  # a clip is no answer to itself
                answers = self._group(self._rows(ranked), names, config)
                if len(answers) >= config.k or last:
                    return self._with_scores(answers[: config.k], vector)
                depth *= 4
                matching = beside.submit(self.ranking.matching, query.words, depth, config.where)
        finally:
            beside.shutdown(wait=False, cancel_futures=True)  # an error need not wait for the table

    def _rows(self, ranked: dict[int, float]) -> list[Row]:
        rows = self.clips.take(list(ranked))
        return [{**row, "media": self._moved(row["media"]), "score": score}
                for row, score in zip(rows, ranked.values(), strict=True)]  # fmt: skip

    def _group(self, found: list[Row], names: Sequence[str], config: SearchConfig) -> list[Row]:
        if config.merge:
            found = merge_overlaps(found)
        if config.duplicates is not None:
            found = group_duplicates(found, lambda rows: self.vectors.rows(names, rows), config.duplicates)
        return found if config.per_video is None else limit_per_video(found, config.per_video)

    @property
    def _letters(self) -> list[str]:
        return [letter for letter, name in LETTERS.items() if name in self.manifest.embeddings]

    def _with_scores(self, answers: list[Row], vector: Tensor | None) -> list[Row]:
        """Add the score of each modality alone."""
        rows = [answer["row"] for answer in answers]
        for letter in self._letters:
            name = LETTERS[letter]
            alone = [None] * len(rows) if vector is None else (self.vectors.rows([name], rows) @ vector).tolist()
            for answer, score in zip(answers, alone, strict=True):
                answer[f"score_{letter}"] = score if answer[f"has_{name}"] else None
        return answers

    def embedding(self, clip: str, modality: str | None = None) -> Tensor:
        """Return the embedding ``(D,)`` float32 of a clip.

        Args:
            clip: its id.
            modality: letters; by default those that a search compares.

        Raises:
            InputError: if there is no such clip or modality.
        """
        names = gallery_names(modality or self.default_gallery, self.manifest.embeddings, "--modality")
        return self.vectors.rows(names, [self.clips.row_of(clip)])[0]

    def media(self, clip: str) -> Path:
        """Return the file of a clip's video.

        Args:
            clip: its id.

        Raises:
            InputError: if there is no such clip, its media are not known, or the file has moved.
        """
        recorded = self.clips.take([self.clips.row_of(clip)])[0]["media"]
        if recorded is None:
            raise InputError(
                f"{clip}: expected a clip whose video file is known, found none; give --columns with media"
            )
        path = Path(self._moved(recorded) or recorded)
        if not path.is_file():
            raise InputError(f"{path}: expected the video of {clip}, found no file; give its folder with --media_root")
        return path

    def _moved(self, recorded: str | None) -> str | None:
        """Return where a file lies below ``media_root``: at the longest end of its recorded path that exists there."""
        if recorded is None or self.media_root is None:
            return recorded
        parts = PurePosixPath(recorded).parts
        # from the longest end on: names of files alone may occur in several folders
        for first in range(1, len(parts)):
            path = self.media_root.joinpath(*parts[first:])
            if path.is_file():
                return str(path)
        return str(self.media_root / parts[-1])
