"""Captions of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mcn_lightning.data.files.caption_files import caption_files, open_table
from mcn_lightning.errors import InputError
from mcn_lightning.extract.videos import VideoFile


class CaptionFiles:
    """Captions beside the videos, in a folder or in a table."""

    def __init__(self, source: str | None, language: str) -> None:
        self.table = None if source is None else open_table(Path(source))

    def read(self, video: VideoFile) -> dict[str, Any] | None:
        """Return start, end and text of the captions of a video; ``None`` without."""
        if self.table is not None:
            return self.table(video.id)
        try:
            beside = caption_files(video.path.parent).get(video.id)
        except InputError:  # the folder has none
            return None
        return None if beside is None else open_table(beside)(video.id)
