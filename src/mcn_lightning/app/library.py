"""What the pages ask of an index: searches, clips, their media and pictures, the map and the clusters."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mcn_lightning.app.queries import Asked, condition_of
from mcn_lightning.app.uploads import Uploads
from mcn_lightning.data.text import split_words
from mcn_lightning.errors import InputError
from mcn_lightning.search.explore.clusters import Cluster, describe_clusters
from mcn_lightning.search.explore.decoder import MediaProcess
from mcn_lightning.search.explore.groups import Groups, read_groups
from mcn_lightning.search.explore.moments import score_moments
from mcn_lightning.search.explore.points import points_of
from mcn_lightning.search.explore.stills import KeptStills, take_still
from mcn_lightning.search.index import Index
from mcn_lightning.search.options import SearchConfig, modalities_of
from mcn_lightning.search.query import Query

STILLS = 500
"""Pictures that are kept, some 10 kB each."""
COLUMNS = ("cluster", "topic", "video")
LISTED = 2_000  # videos that the filter suggests
Found = TypeVar("Found")


class Library:
    """An index, asked by several threads.

    Args:
        index: the index.
        uploads: files that queries may use.
        stills: process that takes pictures from videos.
    """

    def __init__(self, index: Index, uploads: Uploads, stills: MediaProcess) -> None:
        self.index, self.uploads = index, uploads
        self._stills_process = stills
        self._stills: OrderedDict[int, bytes] = OrderedDict()
        self._kept_stills = KeptStills(index.folder)
        self._kept: dict[str, Any] = {}
        # a lock for each thing that is made, so that a slow map keeps no list waiting
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()  # of the index

    def warm_up(self) -> None:
        """Make the first search as fast as the others: load the model, search once, and read the list of videos.

        Raises:
            InputError: if the model or the search index is damaged.
        """
        self.index.model.eval()  # which loads it
        self.index.warm_up()
        self._groups("video")

    def start_pictures(self) -> None:
        """Start the process that takes pictures, so that the first one need not wait for it."""
        self._stills_process.start()

    def about(self) -> dict[str, Any]:
        """Return what the pages need to know of the index."""
        index = self.index
        videos = self._groups("video").labels
        with self._lock:
            asking = index.model.network_config.embeddings  # of a query: an index may lack captions
            return {
                "name": index.folder.resolve().name,
                "clips": len(index),
                "videos": [videos[code] for code in range(min(len(videos), LISTED))],
                "video_count": len(videos),
                "modalities": self._letters(),
                "gallery": index.default_gallery,
                "text": "text" in asking,
                "files": {"picture": "video" in asking and bool(index.inputs.encoders), "sound": "audio" in asking},
                "columns": [each for each in COLUMNS if each in index.clips.columns],
                "max_upload": self.uploads.most,
            }  # fmt: skip

    def _letters(self) -> str:
        return "".join(letter for letter in "vat" if modalities_of(letter, "")[0] in self.index.manifest.embeddings)

    def search(self, asked: Asked) -> dict[str, Any]:
        """Search, and return the answers for the page, with a notice about words that the model does not know.

        Without a query, clips at equal distances are shown of those that fit the filters.
        """
        if asked.empty:
            return self._browse(asked)
        query = self._query(asked)
        config = SearchConfig(
            k=asked.k, modality=asked.modality or None, per_video=asked.per_video, where=condition_of(asked),
            merge=asked.merge,
        )  # fmt: skip
        notice = None
        with self._lock:
            if query.text is not None:
                unknown = self.index.model.unknown_words(query.text)
                notice = f"The model does not know: {', '.join(unknown)}." if unknown else None
                if unknown and len(unknown) == len({*split_words(query.text)}):
                    if query.words is None:
                        return {"clips": [], "notice": f"{notice} Try other words, or filter by the captions' words."}
                    query = Query(words=query.words)
            answers = self.index.answers(query, config)
        return {"clips": [self._card(answer) for answer in answers], "notice": notice}

    def _browse(self, asked: Asked) -> dict[str, Any]:
        condition = condition_of(asked)
        with self._lock:
            rows = range(len(self.index)) if condition is None else self.index.clips.where(condition)
        # at equal distances: the first clips would all be of one video
        some = [rows[number * len(rows) // asked.k] for number in range(asked.k)] if len(rows) > asked.k else [*rows]
        clips = "clip" if len(rows) == 1 else "clips"
        notice = f"{len(rows):,} {clips}{' fit the filters' if condition else ''}. {len(some)} of them:"
        return {"clips": self.clips(some), "notice": notice if len(some) < len(rows) else None}

    def _query(self, asked: Asked) -> Query:
        upload = self.uploads.find(asked.file) if asked.file else None
        parts: dict[str, Any] = {}
        if upload is not None:
            if "v" in asked.use and upload.picture:
                parts["video"] = str(upload.path)
            if "a" in asked.use and upload.sound:
                parts["audio"] = str(upload.path)
            if not parts:
                raise InputError("The file has nothing that is searched by. Choose its picture or its sound.")
        if asked.text and asked.by in ("meaning", "both"):
            parts["text"] = asked.text
        if asked.text and asked.by in ("words", "both"):
            parts["words"] = asked.text
        if asked.like:
            parts["like"] = asked.like
        return Query(**parts)

    def moments(self, row: int, asked: Asked) -> list[dict[str, Any]]:
        """Return the score of a query along the time of a clip's video: id, start, end and score of its clips.

        Args:
            row: of the clip.
            asked: the query; its words are searched by meaning.

        Raises:
            InputError: if there is no such clip, the query is empty, or the video has no clips with times.
        """
        video = str(self._take([row])[0]["video"])
        query = self._query(replace(asked, by="meaning"))
        with self._lock:
            found = score_moments(self.index, video, query, asked.modality or None)
        shown: list[dict[str, Any]] = found[["id", "start", "end", "score"]].to_dict("records")
        return shown

    def suggest(self, beginning: str) -> list[str]:
        """Return captions with words that begin as typed."""
        with self._lock:
            return self.index.clips.suggestions(beginning, 8)

    def clips(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return clips for the page.

        Raises:
            InputError: if there is no such clip.
        """
        return [self._card(clip) for clip in self._take(rows)]

    def named(self, name: str) -> dict[str, Any]:
        """Return a clip by its id.

        Raises:
            InputError: if there is no such clip.
        """
        with self._lock:
            row = self.index.clips.row_of(name)
        return self.clips([row])[0]

    def _take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        if any(not 0 <= row < len(self.index) for row in rows):
            raise InputError("There is no such clip.")
        with self._lock:
            return self.index.clips.take(rows)

    def _card(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        scores = {key.removeprefix("score_"): value for key, value in clip.items() if key.startswith("score_")}
        own = {name: clip[name] for name in self.index.manifest.own if clip.get(name) is not None}
        kept = ("row", "id", "video", "start", "end", "text", "cluster", "topic", "score", "merged")
        media = self._media(str(clip["id"])) is not None
        return {key: clip.get(key) for key in kept} | {
            "scores": scores,
            "own": own,
            "has": "".join(letter for letter in "vat" if clip[f"has_{modalities_of(letter, '')[0]}"]),
            "media": media,
            "still": media or self._kept_stills.has(str(clip["id"])),
        }

    def media(self, row: int) -> Path | None:
        """Return the file of a clip's video, ``None`` where there is none.

        Args:
            row: of the clip.

        Raises:
            InputError: if there is no such clip.
        """
        return self._media(str(self._take([row])[0]["id"]))

    def _media(self, name: str) -> Path | None:
        try:
            with self._lock:
                return self.index.media(name)
        except InputError:  # not known, or moved; the page shows the caption
            return None

    def still(self, row: int) -> bytes | None:
        """Return a picture of a clip as JPEG, from its middle; ``None`` if neither it nor the video is at hand.

        Args:
            row: of the clip.

        Raises:
            InputError: if there is no such clip, or its file has no picture.
        """
        if row in self._stills:
            return self._stills[row]
        clip = self._take([row])[0]
        found = self._kept_stills.get(str(clip["id"]))
        if found is None:
            path = self._media(str(clip["id"]))
            if path is None:
                return None
            found = take_still(self._stills_process, path, clip)
        with self._lock:
            self._stills[row] = found
            while len(self._stills) > STILLS:
                self._stills.popitem(last=False)
        return found

    def points(self, letters: str) -> tuple[np.ndarray, bool]:
        """Return the coordinates of the map ``(N, 2)`` float32, and whether the map of the index was too old for it.

        Args:
            letters: of the modalities.

        Raises:
            InputError: if the index lacks one, or its map cannot be read.
        """
        return self._once(f"map {letters}", lambda: points_of(self.index.folder, self.index.vectors, letters))

    def groups(self, column: str) -> Groups:
        """Return how a column divides the clips.

        Raises:
            InputError: if it is none of cluster, topic and video.
        """
        if column not in COLUMNS:
            raise InputError(f"The map is coloured by {', '.join(COLUMNS)}.")
        return self._groups(column)

    def _groups(self, column: str) -> Groups:
        return self._once(column, lambda: read_groups(self.index.clips, column))

    def clusters(self) -> dict[int, Cluster]:
        """Return what the page shows of each cluster."""
        codes = self._groups("cluster").codes
        return self._once("clusters", lambda: describe_clusters(self.index.vectors, codes))

    def _once(self, key: str, make: Callable[[], Found]) -> Found:
        """Make something at its first use; a second thread waits for it."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            if key not in self._kept:
                self._kept[key] = make()
            found: Found = self._kept[key]
            return found
