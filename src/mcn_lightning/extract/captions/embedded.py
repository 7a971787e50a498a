"""Captions inside a video file: text tracks of MP4, Matroska and WebM, by PyAV."""

from __future__ import annotations

import re
from pathlib import Path

from mcn_lightning.errors import InputError
from mcn_lightning.extract.captions.rows import RawCaption

TEXT = ("mov_text", "srt", "subrip", "ssa", "ass", "webvtt", "text")
"""Codecs of tracks with text. Those of DVD and Blu-ray hold pictures."""
LONG = {"en": "eng", "fr": "fra fre", "de": "deu ger", "es": "spa", "it": "ita", "pt": "por", "nl": "nld dut",
        "ru": "rus", "ja": "jpn", "zh": "zho chi", "ko": "kor", "ar": "ara", "hi": "hin", "pl": "pol",
        "sv": "swe", "da": "dan", "no": "nor nob", "fi": "fin", "cs": "cze ces", "el": "gre ell", "tr": "tur",
        "uk": "ukr", "he": "heb", "hu": "hun", "ro": "rum ron", "th": "tha", "vi": "vie", "id": "ind"}  # fmt: skip
"""Containers name languages by three letters."""


def read_embedded(video: Path, language: str | None) -> list[RawCaption]:
    """Return the captions of the text track in a language, else of one that names none; empty without any track.

    Args:
        video: the file. One that cannot be read has no captions, as decoding says what is wrong with it.
        language: as in ``en``; ``None`` for the first text track.

    Raises:
        InputError: if all tracks are in other languages, or hold pictures of text.
    """
    try:
        import av
    except ImportError:
        return []
    found: list[RawCaption] = []
    try:
        options = {"protocol_whitelist": "file"}
        with av.open(f"file:{video}", metadata_errors="ignore", options=options) as container:
            tracks = container.streams.subtitles
            kinds = [each.codec_context.name if each.codec_context else "unknown" for each in tracks]
            codes = [each.metadata.get("language", "und") for each in tracks]
            ranks = [_rank(code, language) if kind in TEXT else 2 for code, kind in zip(codes, kinds, strict=True)]
            if not ranks:
                return []
            if min(ranks) == 2:
                there = ", ".join(f"{code} ({kind})" for code, kind in zip(codes, kinds, strict=True))
                wanted = language or "any language"
                raise InputError(f"{video}: expected text tracks in {wanted}, found {there}; they are not used")
            # times from the start of the container, as those of frames and sound
            start = (container.start_time or 0) / av.time_base
            for packet in container.demux(tracks[ranks.index(min(ranks))]):
                if packet.pts is not None and packet.time_base is not None:
                    begin = float(packet.pts * packet.time_base) - start
                    end = begin + float((packet.duration or 0) * packet.time_base)
                    for each in packet.decode():
                        text = re.sub(r"\{[^}]*\}", "", each.dialogue.decode("utf-8", "replace"))  # styles of ASS
                        found.append(RawCaption(begin, end, text, where=f"caption {len(found) + 1}"))
    except av.FFmpegError:
        pass  # what came before is used
    return found


def _rank(tag: str, language: str | None) -> int:
    """Return 0 for a track in the language, 1 for one that names none, 2 for others."""
    code = language.lower().replace("_", "-").partition("-")[0] if language else tag
    return 0 if tag == code or tag in LONG.get(code, "").split() else 1 if tag in ("und", "") else 2
