"""Looking again at videos that are extracted: those that were replaced since, and captions that came later."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mcn_lightning.extract.captions import CaptionSource
from mcn_lightning.extract.options import ExtractConfig, Layout
from mcn_lightning.extract.speech import SUFFIX, SpeechRecognizer
from mcn_lightning.extract.videos import VideoFile, is_replaced
from mcn_lightning.extract.writing import reported, write_json
from mcn_lightning.files import read_json

Record = dict[str, Any]
"""What ``<id>_record.json`` holds."""


def look_again(config: ExtractConfig, layout: Layout, videos: Sequence[VideoFile], source: CaptionSource) -> None:
    """Remove the files of videos that were replaced, and add captions that came later to the records of the others.

    Args:
        config: options of the command.
        layout: of the data set.
        videos: that are extracted.
        source: of captions.
    """
    speech = None if config.speech is None else SpeechRecognizer(config.speech)
    replaced = list[VideoFile]()
    for video in videos:
        path = layout.record(video.name)
        record: Record = read_json(path, "the record of a video")
        if is_replaced(video.path, record.get("source", {})):
            replaced.append(video)
            with _locked(layout, video) as own:
                if own:
                    _remove(layout, video)
        elif not record["captions"]:
            with _locked(layout, video) as own:
                if own:
                    stored = layout.file(video.name, SUFFIX)
                    heard = partial(speech.captions, video.path, stored, config.cleaning) if speech else None
                    found = source.find(video.path, video.id, heard if record["sound"] else None)
                    # mostly there are none still, and the record stays as it is
                    if found.record() != {key: record[key] for key in found.record()}:
                        write_json(path, record | found.record())
                        if found.problems:
                            print(found.told(video.name), file=sys.stderr)
    if replaced:
        more = f" and {len(replaced) - 1} more" if len(replaced) > 1 else ""
        print(f"{replaced[0].path}{more} changed after extraction: extracted again", file=sys.stderr)


@contextmanager
def _locked(layout: Layout, video: VideoFile) -> Iterator[bool]:
    """Lock a video, and tell whether no other job has it."""
    try:
        with reported(layout.root):
            lock = FileLock(layout.lock(video.name))
            lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _remove(layout: Layout, video: VideoFile) -> None:
    """Remove the files of a video, its record first: what is left does not count as done."""
    record = layout.record(video.name)
    with reported(layout.root):
        record.unlink(missing_ok=True)
        # after the record: if this is interrupted, the video is extracted again all the same
        for path in record.parent.iterdir():
            if path.is_file():
                path.unlink()
