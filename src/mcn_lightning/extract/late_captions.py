"""Captions of videos that were extracted without any: files, or recognised speech, that came later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mcn_lightning.extract.captions import CaptionSource, VideoCaptions
from mcn_lightning.extract.options import ExtractConfig, Layout
from mcn_lightning.extract.speech import SUFFIX, SpeechRecognizer
from mcn_lightning.extract.videos import VideoFile
from mcn_lightning.extract.writing import reported, write_json
from mcn_lightning.files import read_json


def caption_source(config: ExtractConfig) -> CaptionSource:
    """Return where the captions of a data set come from."""
    return CaptionSource(Path(config.captions) if config.captions else None, config.language, config.cleaning)


def caption_fields(captions: VideoCaptions) -> dict[str, Any]:
    """Return the fields of a video's record that tell its captions."""
    return {
        "captions": captions.entry() if captions else None,
        "dropped_captions": dict(captions.dropped),
        "caption_problems": list(captions.problems),
    }


def add_captions(config: ExtractConfig, layout: Layout, videos: Sequence[VideoFile]) -> int:
    """Look again for captions of extracted videos that have none, and write them into their records.

    Args:
        config: options of the command.
        layout: of the data set.
        videos: that are extracted.

    Returns:
        The number of videos that have captions now.
    """
    source = caption_source(config)
    speech: SpeechRecognizer | None = None
    count = 0
    for video in videos:
        path = layout.record(video.name)
        record = read_json(path, "the record of a video")
        if record["captions"]:
            continue
        with reported(layout.root):
            lock = FileLock(layout.lock(video.name))
            try:
                lock.acquire(timeout=0)
            except Timeout:  # another job does it
                continue
        try:
            found = source.find(video.path, video.id)
            if not found and record["sound"] and config.speech is not None:
                if speech is None:
                    speech = SpeechRecognizer(config.speech)
                    speech.load()
                found = speech.captions(video.path, layout.file(video.name, SUFFIX), config.cleaning)
            if found:
                write_json(path, record | caption_fields(found))
                count += 1
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    return count
