"""Text tracks inside videos are captions where there is no file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the extra `extract` is not installed")

import av

from extract.films import Film, Sound, write
from extract.making import write_captions, write_video
from mcn_lightning.extract.captions.embedded import _rank
from mcn_lightning.extract.captions.find import CaptionSource

TRACKS = {
    "eng": [(1.5, 3.0, "hello <i>big</i> world\nsecond &amp; line"), (4.0, 5.25, "♪ la ♪")],
    "fra": [(1.5, 3.0, "bonjour")],
}


def add_tracks(video: Path, target: Path, folder: Path, **codes: str) -> Path:
    """Copy a video with text tracks: the name of each is a language, and its value the language that it names."""
    out = av.open(str(target), "w")
    sources = [av.open(str(video))]
    for name in codes:
        lines = [f"{n}\n{clock(a)} --> {clock(b)}\n{text}\n" for n, (a, b, text) in enumerate(TRACKS[name], 1)]
        path = folder / f"{name}.srt"
        path.write_text("\n".join(lines))
        sources.append(av.open(str(path)))
    packets = []
    for source, code in zip(sources, ("", *codes.values()), strict=True):
        for stream in source.streams:
            copy = out.add_stream_from_template(stream)
            if code:
                copy.metadata["language"] = code
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packets.append((packet.dts * packet.time_base, packet, copy))
    for _, packet, copy in sorted(packets, key=lambda each: each[0]):
        packet.stream = copy
        out.mux(packet)
    out.close()
    return target


def clock(seconds: float) -> str:
    return f"00:00:{int(seconds):02d},{round(Fraction(seconds) % 1 * 1000):03d}"


def found(video: Path, language: str | None = "en", source: Path | None = None) -> list[tuple[float, float, str]]:
    captions = CaptionSource(source, language).find(video, video.stem)
    assert not captions.problems
    return [(each.start, each.end, each.text) for each in captions.captions]


ENGLISH = [(1.5, 3.0, "hello big world second & line"), (4.0, 5.25, "la")]


def test_the_track_of_the_language_is_read(tmp_path):
    write_video(tmp_path / "plain.mp4", 6.0)
    video = add_tracks(tmp_path / "plain.mp4", tmp_path / "film.mkv", tmp_path, fra="fre", eng="eng")
    assert found(video) == ENGLISH
    assert found(video, "fr") == [(1.5, 3.0, "bonjour")] and found(video, None) == [(1.5, 3.0, "bonjour")]
    told = CaptionSource(None, "de").find(video, "film")
    assert not told and told.problems == (
        f"{video}: expected text tracks in de, found fre (srt), eng (srt); they are not used",
    )
    unnamed = add_tracks(tmp_path / "plain.mp4", tmp_path / "other.mkv", tmp_path, eng="und")
    assert found(unnamed) == found(unnamed, "de") == ENGLISH


@pytest.mark.parametrize(("tag", "language", "fits"), [
    ("eng", "en", True), ("en", "en", True), ("eng", "en-GB", True), ("eng", "en_US", True), ("ger", "de", True),
    ("deu", "de", True), ("nor", "no", True), ("nob", "no", True), ("chi", "zh-Hans", True), ("eng", "de", False),
    ("dut", "da", False), ("xxx", "xx", False), ("xxx", "xxx", True), ("fra", None, True),
])  # fmt: skip
def test_languages_of_two_and_of_three_letters(tag, language, fits):
    assert (_rank(tag, language) == 0) == fits and _rank("und", "en") == _rank("", "de") == 1


def test_times_count_from_the_start_of_the_container(tmp_path):
    write(tmp_path / "plain.mkv", Film("mpeg4", start=1.0, sound=Sound("flac", start=1.0)))
    video = add_tracks(tmp_path / "plain.mkv", tmp_path / "film.mkv", tmp_path, eng="eng")
    assert [each[:2] for each in found(video)] == [(0.5, 2.0), (3.0, 4.25)]


def test_a_file_goes_before_a_track_and_a_folder_of_captions_leaves_tracks_out(tmp_path):
    write_video(tmp_path / "plain.mp4", 6.0)
    (tmp_path / "captions").mkdir()
    video = add_tracks(tmp_path / "plain.mp4", tmp_path / "film.mkv", tmp_path, eng="eng")
    write_captions(tmp_path / "captions" / "other.srt", (0.0, 1.0, "of another"))
    assert found(video, source=tmp_path / "captions") == []
    write_captions(tmp_path / "film.srt", (0.0, 1.0, "beside"))
    assert found(video) == [(0.0, 1.0, "beside")]


def test_a_video_without_tracks_or_that_cannot_be_read_has_no_captions(tmp_path):
    write_video(tmp_path / "plain.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert found(tmp_path / "plain.mp4") == found(tmp_path / "broken.mp4") == found(tmp_path / "missing.mp4") == []
