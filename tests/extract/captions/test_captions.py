"""Captions of the photo shows are their narrations; captions are found by name and language, and cleaned."""

from __future__ import annotations

import json
import pickle
import re
from itertools import pairwise

import pandas as pd
import pytest

from extract.caption_files import found, rows, video, words_of
from mcn_lightning.data.captions import read_captions
from mcn_lightning.errors import InputError
from mcn_lightning.extract.captions import CaptionCleaning, CaptionSource, find_captions
from mcn_lightning.extract.captions.cleaning import clean_text

TOLERANCE = 0.05
"""Seconds between a caption and its narration."""


# --- the photo shows -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shows(shared):
    return shared / "videos" / "photo_shows"


@pytest.fixture(scope="module")
def truth(shows):
    return json.loads((shows / "truth.json").read_text())


def film(shows, show):
    return next(path for path in shows.glob(f"{show}.*") if path.suffix in (".mp4", ".webm"))


@pytest.mark.shared
@pytest.mark.parametrize("number", range(10))
def test_captions_are_the_narrations_each_word_once_in_order_at_its_time(shows, truth, number):
    show = f"show_{number:02}"
    captions = find_captions(film(shows, show), show)
    assert captions.dropped == {} and captions.problems == ()
    spoken = [word for narration in truth[show] for word in words_of(narration["spoken"])]
    assert words_of(" ".join(caption.text for caption in captions.captions)) == spoken
    for narration in truth[show]:
        inside = [c for c in captions.captions if narration["start"] - 0.01 <= c.start < narration["end"]]
        assert words_of(" ".join(c.text for c in inside)) == words_of(narration["spoken"])
        assert inside[0].start == pytest.approx(narration["start"], abs=TOLERANCE)
        assert inside[-1].end == pytest.approx(narration["end"], abs=TOLERANCE)


@pytest.mark.shared
@pytest.mark.parametrize("number", range(6))
def test_words_of_automatic_captions_have_the_times_of_the_narration(shows, truth, number):
    show = f"show_{number:02}"
    words = [word for caption in find_captions(film(shows, show), show).captions for word in caption.words]
    for narration in truth[show]:
        inside = [word for word in words if narration["start"] - 0.01 <= word[0] < narration["end"]]
        assert words_of(" ".join(word for *_, word in inside)) == words_of(narration["spoken"])
        assert inside[0][0] == pytest.approx(narration["start"], abs=TOLERANCE)
        assert inside[-1][1] == pytest.approx(narration["end"], abs=TOLERANCE)
        assert all(first < last for first, last, _ in inside)
        assert all(before[1] == pytest.approx(after[0], abs=0.002) for before, after in pairwise(inside))


@pytest.mark.shared
def test_the_entry_of_a_show_trains_and_is_read_again_the_same(shows, tmp_path):
    captions = find_captions(film(shows, "show_00"), "show_00")
    (tmp_path / "captions.json").write_text(json.dumps({"show_00": captions.entry()}))
    trained = read_captions(tmp_path / "captions.json", ["show_00"])["show_00"]  # the column of words is ignored
    assert list(zip(trained.start, trained.end, trained.text, strict=True)) == rows(captions)
    again = find_captions(video(tmp_path, "show_00.mp4"), "show_00", tmp_path / "captions.json")
    assert again.captions == captions.captions


# --- where captions are looked for -----------------------------------------------------------------------------------


def srt(text):
    return f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n"


@pytest.mark.parametrize(
    ("language", "names", "taken"),
    [
        ("en", ["show.de.srt", "show.srt", "show.en-US.srt", "show.en.srt", "show.vtt"], "show.en.srt"),
        ("en", ["show.de.srt", "show.srt", "show.en-US.srt", "show.en-orig.vtt"], "show.en-orig.vtt"),
        ("en", ["show.de.srt", "show.srt", "show.json", "show.json3"], "show.srt"),
        ("de", ["show.de_AT.srt", "show.en.srt"], "show.de_AT.srt"),
        ("en", ["show.json3", "show.json"], "show.json3"),
        ("en", ["show.en.json", "show.vtt"], "show.en.json"),
        (None, ["show.fr.vtt", "show.en.srt"], "show.en.srt"),
        (None, ["show.fr.vtt", "show.json"], "show.json"),
        ("en", ["show.info.json", "show2.vtt", "show.live_chat.json", "other.en.vtt", "show.txt"], None),
        ("en", [], None),
    ],
)
@pytest.mark.parametrize("in_folder", [False, True])
def test_the_file_of_a_name_and_a_language(tmp_path, language, names, taken, in_folder):
    folder = tmp_path / "captions" / "deeper" if in_folder else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "other.vtt").write_text(srt("other"))
    for name in names:
        segments = {"events": [{"tStartMs": 0, "dDurationMs": 1000, "segs": [{"utf8": name}]}]}
        (folder / name).write_text(json.dumps(segments) if "json" in name else srt(name))
    captions = find_captions(video(tmp_path), "show", tmp_path / "captions" if in_folder else None, language)
    assert captions.path == (taken and folder / taken) and captions.problems == ()
    assert [caption.text for caption in captions.captions] == ([taken] if taken else [])
    assert bool(captions) is bool(taken)


def test_captions_in_other_languages_are_named_and_not_used(tmp_path):
    for code in ("fr", "de"):
        (tmp_path / f"show.{code}.srt").write_text(srt(code))
    captions = find_captions(video(tmp_path), "show")
    assert not captions and captions.path is None
    assert "expected captions in en, found those in de, fr" in captions.problems[0]


def test_an_id_with_dots(tmp_path):
    (tmp_path / "b-b_b.bbb.en.vtt").write_text(srt("one"))
    (tmp_path / "talk.en.srt").write_text(srt("two"))
    source = CaptionSource(tmp_path)
    assert rows(source.find(tmp_path / "x.mp4", "b-b_b.bbb")) == [(0.0, 1.0, "one")]
    assert rows(source.find(tmp_path / "x.mp4", "talk.en")) == [(0.0, 1.0, "two")]


@pytest.mark.parametrize("name", ["captions.json", "captions.csv", "segments.json", "frames.pickle"])
def test_one_table_of_all_videos(tmp_path, name):
    entry = {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "[Music]"]}
    segments = [dict(zip(entry, row, strict=True)) for row in zip(*entry.values(), strict=True)]
    content = {
        "captions.json": json.dumps({"show": entry, "other": entry}).encode(),
        "captions.csv": b"video,start,end,text\nshow,2.0,3.0,[Music]\nshow,0.0,00:00:01.0,one\nother,0,1,x\n",
        "segments.json": json.dumps({"show": {"segments": segments}, "other": {"segments": segments}}).encode(),
        "frames.pickle": pickle.dumps({"show": pd.DataFrame(entry), "other": pd.DataFrame(entry)}),
    }[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "show.en.vtt").write_text(srt("beside"))
    source = CaptionSource(tmp_path / name)
    captions = source.find(video(tmp_path), "show")
    assert rows(captions) == [(0.0, 1.0, "one")] and captions.dropped == {"without words": 1}
    assert captions.path == tmp_path / name
    nothing = source.find(video(tmp_path, "absent.mp4"), "absent")
    assert not nothing and nothing.path is None


def test_a_damaged_caption_in_a_table_is_named_with_its_video(tmp_path):
    entry = {"start": [0.0, 5.0], "end": [1.0, 3.0], "text": ["one", "two"]}
    (tmp_path / "captions.json").write_text(json.dumps({"show": entry, "bad": {"start": [1.0]}}))
    source = CaptionSource(tmp_path / "captions.json")
    assert "captions.json, show, caption 2: expected a start" in source.find(tmp_path / "x.mp4", "show").problems[0]
    (problem,) = source.find(tmp_path / "x.mp4", "bad").problems
    assert "captions.json: captions of bad: expected the columns start, end and text" in problem


def test_a_damaged_line_of_a_csv_is_named_by_its_number(tmp_path):
    (tmp_path / "captions.csv").write_text(
        'video,start,end,text\nshow,soon,3,two\n\na,0,1,"x\ny"\nshow,9,8,z\nshow,0,1,one\n'
    )
    captions = find_captions(video(tmp_path), "show", tmp_path / "captions.csv")
    assert rows(captions) == [(0.0, 1.0, "one")]
    assert [re.search(r"line \d", problem)[0] for problem in captions.problems] == ["line 6", "line 2"]


def test_a_source_that_is_missing_or_has_no_captions(tmp_path):
    with pytest.raises(InputError, match="found no file"):
        CaptionSource(tmp_path / "absent.json")
    with pytest.raises(InputError, match=r"expected files <video id>.*found none: check the path"):
        CaptionSource(tmp_path)


def test_captions_without_a_video(tmp_path):
    for name in ("a.en.vtt", "a.vtt", "b.srt", "c.json", "d.mp4"):
        (tmp_path / name).write_text(srt("one"))
    videos = [(tmp_path / "a.mp4", "a"), (tmp_path / "d.mp4", "d")]
    assert CaptionSource().without_video(videos) == [tmp_path / "b.srt"]  # JSON beside videos may be anything
    assert CaptionSource(tmp_path).without_video(videos) == [tmp_path / "b.srt", tmp_path / "c.json"]


# --- cleaning --------------------------------------------------------------------------------------------------------

CLEANED = [
    ("it&#39;s <i>H</i>ot &amp;amp; <font color='red'>new</font>", "it's Hot & new"),
    ("<v Roger>hi</v> <c.colorE5E5E5>you</c><br>there\u200b", "hi you there"),
    ("{\\an8}up 3 < 5 and 7 > 2 <unknown>", "up 3 < 5 and 7 > 2 <unknown>"),
    ("♪ la la ♪ # and # C#", "la la and C#"),
    ("[Music] so [door\nslams] (Loud applause) ok\n(drops it) add it (about 5 g)", "so ok add it (about 5 g)"),
    (">> hi >>> you", "hi you"),
    ("- One.\n-Two. well-done\n-5 degrees\nJOHN: see\n>> DR. WHO 2: who\nNote: 2:30 AM: x", None),
    ("- JOHN: [sighs] hi", "hi"),
    ("注意: 火", "注意: 火"),
    ("LOOK AT THIS: IT WORKS", "LOOK AT THIS: IT WORKS"),
    ("STEP 1: ADD 2 CUPS", "STEP 1: ADD 2 CUPS"),
]


@pytest.mark.parametrize(("text", "clean"), CLEANED)
def test_cleaning(text, clean):
    clean = clean or "One. Two. well-done -5 degrees see who Note: 2:30 AM: x"
    assert clean_text(text, CaptionCleaning()) == clean


@pytest.mark.parametrize(
    ("options", "clean"),
    [
        ({"music": False}, "♪ la so"),
        ({"sounds": False}, "la [Music] (sigh) so"),
        ({"speakers": False}, "- la >> JOHN: so"),
    ],
)
def test_each_cleaning_is_an_option(options, clean):
    text = "- ♪ la [Music]\n(sigh)\n>> JOHN: so"
    assert clean_text(text, CaptionCleaning(**options)) == clean


def test_words_are_cleaned_as_their_text(tmp_path):
    texts = [">> so", " [sound", " of", " music]", " ♪", " it&#39;s", " in"]
    segments = [{"utf8": text, "tOffsetMs": 100 * number} for number, text in enumerate(texts)]
    captions = found(tmp_path, "show.json3", {"events": [{"tStartMs": 1000, "dDurationMs": 700, "segs": segments}]})
    assert rows(captions) == [(1.0, 1.7, "so it's in")]
    assert captions.captions[0].words == ((1.0, 1.1, "so"), (1.5, 1.6, "it's"), (1.6, 1.7, "in"))


def test_captions_without_words_are_dropped_and_counted(tmp_path):
    texts = ["[Music]", "♪ ♪", "...", "JOHN:", "one"]
    cues = [f"00:0{n}.000 --> 00:0{n}.500\n{text}\n" for n, text in enumerate(texts)]
    captions = found(tmp_path, "show.vtt", "WEBVTT\n\n" + "\n".join(cues))
    assert rows(captions) == [(4.0, 4.5, "one")] and captions.dropped == {"without words": 4}
