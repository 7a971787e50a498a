"""Caption files beside a video, for tests."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mcn_lightning.extract.captions import VideoCaptions, find_captions


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, without marks."""
    return re.sub(r"[^\w' -]", " ", text.lower()).split()


def video(folder: Path, name: str = "show.mp4") -> Path:
    """Make an empty file in the place of a video, whose contents nobody reads."""
    path = folder / name
    path.touch()
    return path


def found(folder: Path, name: str, content: object) -> VideoCaptions:
    """Write a file beside the video ``show``, and return its captions."""
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return find_captions(video(folder), "show")


def rows(captions: VideoCaptions) -> list[tuple[float, float, str]]:
    """Return start, end and text of each caption."""
    return [(caption.start, caption.end, caption.text) for caption in captions.captions]
