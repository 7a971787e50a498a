"""Where the captions of a video are: beside it, inside it, in a folder, or in one table of all videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from mcn_lightning.data.files.caption_files import open_table
from mcn_lightning.errors import InputError
from mcn_lightning.extract.captions.cleaning import CaptionCleaning
from mcn_lightning.extract.captions.embedded import read_embedded
from mcn_lightning.extract.captions.forms import SUFFIXES, TABLES, read_captions_file
from mcn_lightning.extract.captions.rows import VideoCaptions, cleaned_captions
from mcn_lightning.extract.captions.transcripts import rows_of_columns
from mcn_lightning.extract.videos import walk

_LANGUAGE = re.compile(r"(.+)\.([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]+)*)")

Files = dict[str, list[tuple[str, Path]]]
"""Caption files by the name of their video, each with the language that its name has: empty for none."""


class CaptionSource:
    """The captions of many videos. Folders are listed once, and a table is opened once.

    Args:
        source: a folder, and those below it, with a file for each video; or a table of all videos: see
            ``data.files.caption_files`` for its forms. ``None`` looks beside each video, then inside it.
        language: of the captions, as in the file names: ``en`` takes ``id.en.vtt``, else ``id.en-US.vtt`` and the
            like, else ``id.vtt``. ``None`` takes any language, first files that name none, then English.
        cleaning: what is taken out of captions.

    Raises:
        InputError: if the source is missing, damaged or has no captions.
    """

    def __init__(
        self, source: Path | None = None, language: str | None = "en", cleaning: CaptionCleaning | None = None
    ) -> None:
        self.source, self.language, self.cleaning = source, language, cleaning or CaptionCleaning()
        self._folders: dict[Path, Files] = {}
        self._files = _list_files(walk(source)) if source is not None and source.is_dir() else None
        self._table = open_table(source) if source is not None and self._files is None else None
        if self._files is not None and not self._files:
            raise InputError(f"{source}: expected files <video id>{', '.join(SUFFIXES)}, found none: check the path")

    def find(self, video: Path, video_id: str, otherwise: Callable[[], VideoCaptions] | None = None) -> VideoCaptions:
        """Return the captions of a video.

        A file that cannot be read gives no captions and is named in ``problems``, so that other videos go on.

        Args:
            video: its file.
            video_id: its id, by which a folder or a table knows it.
            otherwise: gives the captions of a video that has none here, as by speech recognition.
        """
        try:
            found = self._in_table(video_id) if self._table is not None else self._in_file(video, video_id)
        except InputError as error:
            found = VideoCaptions(problems=(str(error),))
        if found or otherwise is None:
            return found
        other = otherwise()
        return replace(other, problems=(*found.problems, *other.problems))

    def _in_table(self, video_id: str) -> VideoCaptions:
        if self.source is None or self._table is None or (entry := self._table(video_id)) is None:
            return VideoCaptions()
        rows = rows_of_columns(entry, f"{self.source}: captions of {video_id}")
        return cleaned_captions(rows, self.source, self.cleaning, video=video_id)

    def _in_file(self, video: Path, video_id: str) -> VideoCaptions:
        files = self._files_of(video, video_id)
        if (path := _preferred(files, self.language)) is not None:
            rows, problems = read_captions_file(path)
            return cleaned_captions(rows, path, self.cleaning, problems)
        if self.source is None and (inside := read_embedded(video, self.language)):
            return cleaned_captions(inside, video, self.cleaning)
        if files:
            others = ", ".join(sorted({code for code, _ in files}))
            raise InputError(f"{files[0][1]}: expected captions in {self.language}, found those in {others}; not used")
        return VideoCaptions()

    def without_video(self, videos: Iterable[tuple[Path, str]]) -> list[Path]:
        """Return the caption files of no video, among those in the folder, or beside the videos.

        JSON and tables beside videos are not counted, as they may hold anything. Nor are the videos of a table.

        Args:
            videos: the file and the id of each video.
        """
        if self._table is not None:
            return []
        known = {path for video, video_id in videos for _, path in self._files_of(video, video_id)}
        folders = [*self._folders.values()] if self._files is None else [self._files]
        every = {path for files in folders for each in files.values() for _, path in each}
        anything = () if self._files is not None else (".json", *TABLES)
        return sorted(path for path in every - known if path.suffix.lower() not in anything)

    def _files_of(self, video: Path, video_id: str) -> list[tuple[str, Path]]:
        return self._beside(video).get(video.stem, []) if self._files is None else self._files.get(video_id, [])

    def _beside(self, video: Path) -> Files:
        if video.parent not in self._folders:
            self._folders[video.parent] = _list_files(video.parent.iterdir())
        return self._folders[video.parent]


def find_captions(
    video: Path,
    video_id: str,
    source: Path | None = None,
    language: str | None = "en",
    cleaning: CaptionCleaning | None = None,
) -> VideoCaptions:
    """Return the captions of one video; see ``CaptionSource``, which is made once for many videos."""
    return CaptionSource(source, language, cleaning).find(video, video_id)


def _list_files(paths: Iterable[Path]) -> Files:
    found: Files = {}
    for path in sorted(path for path in paths if path.suffix.lower() in SUFFIXES):
        # also under its whole name: "talk.no" may be a video without a language in its name
        found.setdefault(path.stem, []).append(("", path))
        if (match := _LANGUAGE.fullmatch(path.stem)) is not None:
            found.setdefault(match[1], []).append((match[2].lower().replace("_", "-"), path))
    return found


def _preferred(files: list[tuple[str, Path]], language: str | None) -> Path | None:
    """Return the file to read; ``None`` if all are in other languages."""
    wanted = None if language is None else language.lower().replace("_", "-")

    def rank(file: tuple[str, Path]) -> tuple[bool, bool, int, int]:
        code, path = file
        first = (code != "", not code.startswith("en")) if wanted is None else (code != wanted, code == "")
        return *first, SUFFIXES.index(path.suffix.lower()), len(code)

    # en takes en-US, and en-US does not take en
    fitting = [file for file in files if wanted is None or file[0] in ("", wanted) or file[0].startswith(f"{wanted}-")]
    return min(fitting, key=rank)[1] if fitting else None
