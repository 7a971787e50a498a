"""Captions in every form: each word once, at its time, with what is not spoken taken out, and what is damaged named."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from mcn_lightning.data.captions import read_captions
from mcn_lightning.errors import InputError
from mcn_lightning.extract.captions import CaptionCleaning, CaptionSource, find_captions
from mcn_lightning.extract.captions.cleaning import clean_text

TOLERANCE = 0.05
"""Seconds between a caption and its narration."""


def words_of(text):
    return re.sub(r"[^\w' -]", " ", text.lower()).split()


def video(folder, name="show.mp4"):
    path = folder / name
    path.touch()
    return path


def found(tmp_path, name, content, **options):
    """Return the captions of the video ``show``, beside which a file is written."""
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return find_captions(video(tmp_path), "show", **options)


def rows(captions):
    return [(caption.start, caption.end, caption.text) for caption in captions.captions]


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


# --- forms -----------------------------------------------------------------------------------------------------------

LINES = [
    [(0.0, "mix"), (0.5, "the"), (1.0, "flour")],
    [(1.51, "okay")],
    [(2.51, "mix"), (3.0, "the"), (3.5, "flour")],
    [(9.0, "salt"), (9.5, "&"), (9.7, "pepper")],
]
ENDS = [1.5, 2.5, 4.0, 10.0]


def expected(ends):
    texts = [" ".join(word for _, word in line) for line in LINES]
    return [(line[0][0], end, text) for line, end, text in zip(LINES, ends, texts, strict=True)]


def expected_words(ends):
    for line, end in zip(LINES, ends, strict=True):
        begins = [*(begin for begin, _ in line), end]
        yield tuple((first, last, word) for (first, last), (_, word) in zip(pairwise(begins), line, strict=True))


def clock(seconds):
    return f"00:00:{int(seconds):02}.{round(seconds * 1000) % 1000:03}"


def rolling_vtt():
    """The lines as YouTube writes them: each below the one before, held for 10 ms, then above the next one."""
    cues, before = [], " "
    for line, end in zip(LINES, ENDS, strict=True):
        words = [word.replace("&", "&amp;") for _, word in line]
        timed = words[0] + "".join(
            f"<{clock(begin)}><c> {word}</c>" for (begin, _), word in zip(line[1:], words[1:], strict=True)
        )
        plain = " ".join(words)
        cues.append(f"{clock(line[0][0])} --> {clock(end)} align:start position:0%\n{before}\n{timed}\n")
        cues.append(f"{clock(end)} --> {clock(end + 0.01)} align:start position:0%\n{plain}\n \n")
        before = plain
    return "WEBVTT\nKind: captions\nLanguage: en\n\n" + "\n".join(cues)


def json3():
    """The same in YouTube's json3: a line stays while the next one is spoken, and an event breaks the line."""
    events = [{"tStartMs": 0, "dDurationMs": 12000, "id": 1, "wpWinPosId": 1, "wsWinStyleId": 1}]
    for line in LINES:
        start = round(line[0][0] * 1000)
        segments = [{"utf8": line[0][1], "acAsrConf": 0}]
        segments += [{"utf8": f" {word}", "tOffsetMs": round(begin * 1000) - start} for begin, word in line[1:]]
        events.append({"tStartMs": start, "dDurationMs": 2000, "wWinId": 1, "segs": segments})
        events.append({"tStartMs": start + 900, "dDurationMs": 9, "wWinId": 1, "aAppend": 1, "segs": [{"utf8": "\n"}]})
    return {"wireMagic": "pb3", "events": events}


@pytest.mark.parametrize(
    ("name", "content", "ends"),
    [
        ("show.en.vtt", rolling_vtt(), ENDS),
        ("show.en.json3", json3(), [1.51, 2.51, 4.51, 11.0]),
        ("show.json", json3(), [1.51, 2.51, 4.51, 11.0]),
    ],
)
def test_automatic_captions_of_youtube(tmp_path, name, content, ends):
    captions = found(tmp_path, name, content)
    assert rows(captions) == expected(ends)
    assert [caption.words for caption in captions.captions] == list(expected_words(ends))
    assert captions.problems == () and captions.dropped == {}


def test_json3_of_written_captions_keeps_their_ends_and_has_no_word_times(tmp_path):
    events = [
        {"tStartMs": 1000, "dDurationMs": 3000, "segs": [{"utf8": "one\ntwo"}]},
        {"tStartMs": 2000, "dDurationMs": 3000, "segs": [{"utf8": "three"}]},
    ]
    captions = found(tmp_path, "show.json3", {"events": events})
    assert rows(captions) == [(1.0, 4.0, "one two"), (2.0, 5.0, "three")]
    assert "words" not in captions.entry()


def test_parts_of_json3_without_a_time_belong_to_the_word_before(tmp_path):
    segments = [{"utf8": "New"}, {"utf8": " York"}, {"utf8": " it", "tOffsetMs": 500}, {"utf8": "'s", "tOffsetMs": 700}]
    captions = found(tmp_path, "show.json3", {"events": [{"tStartMs": 0, "dDurationMs": 1000, "segs": segments}]})
    assert captions.captions[0].text == "New York it's"
    assert captions.captions[0].words == ((0.0, 0.5, "New York"), (0.5, 1.0, "it's"))


def spoken(word, start=None, end=None, space=""):
    times = {} if start is None else {"start": start, "end": end}
    return {"word": space + word, **times, "score": 0.9}


SEGMENT = {"start": 1.0, "end": 3.0, "text": " In 2014 it was."}
WORDS = (("In", 1.0, 1.2), ("2014", 1.2, 2.0), ("it", 2.0, 2.5), ("was.", 2.5, 3.0))


def whisper():
    words = [spoken(word, start, end, " ") for word, start, end in WORDS]
    return {"text": "all", "segments": [{"id": 0, "seek": 0, **SEGMENT, "words": words}], "language": "en"}


def whisperx():
    words = [spoken(word, *(() if word.isdecimal() else (start, end))) for word, start, end in WORDS]
    return {"segments": [{**SEGMENT, "words": words, "speaker": "SPEAKER_00"}], "word_segments": words}


@pytest.mark.parametrize("content", [whisper(), whisperx(), [whisperx()["segments"][0]]])
def test_segments_of_whisper_and_whisperx(tmp_path, content):
    captions = found(tmp_path, "show.json", content)
    assert rows(captions) == [(1.0, 3.0, "In 2014 it was.")]
    # WhisperX gives no time to a number: it has the time between its neighbours
    assert captions.captions[0].words == tuple((start, end, word) for word, start, end in WORDS)
    assert captions.entry()["words"] == [[[start, end, word] for word, start, end in WORDS]]


def test_several_words_without_times_share_the_time_between_their_neighbours(tmp_path):
    words = [spoken("1"), spoken("2"), spoken("so", 2.0, 2.2), spoken("3"), spoken("4")]
    captions = found(tmp_path, "show.json", {"segments": [{**SEGMENT, "text": "1 2 so 3 4", "words": words}]})
    times = [(1.0, 1.5), (1.5, 2.0), (2.0, 2.2), (2.2, 2.6), (2.6, 3.0)]
    assert [word[:2] for word in captions.captions[0].words] == times


@pytest.mark.parametrize(
    "content",
    [
        {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "two"]},
        {"show": {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "two"]}},
        {"timestamps": [[0.0, 1.0], [2.0, 3.0]], "sentences": ["one", "two"]},
        [{"start": 2.0, "end": 3.0, "caption": "two"}, {"start": 0.0, "end": 1.0, "caption": "one"}],
    ],
)
def test_plain_json(tmp_path, content):
    assert rows(found(tmp_path, "show.json", content)) == [(0.0, 1.0, "one"), (2.0, 3.0, "two")]


def test_plain_subtitles(tmp_path):
    content = "1\n00:00:00,000 --> 00:00:01,000\n<i>one</i>\n\n2\n00:00:02,000 --> 00:00:03,000\ntwo\n&amp; three\n"
    assert rows(found(tmp_path, "show.srt", content)) == [(0.0, 1.0, "one"), (2.0, 3.0, "two & three")]


ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.00,0:00:01.00,Default,,0,0,0,,{\\an8}one
Comment: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,note
Dialogue: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,two,\\N{\\i1}three{\\i0}
"""
SAMI = "<SAMI><BODY><SYNC Start=0><P>one<SYNC Start=1000><P>&nbsp;<SYNC Start=2000><P>two,<br>three"
SAMI += "<SYNC Start=3000><P>&nbsp;</BODY></SAMI>"
TTML = """<tt xmlns="http://www.w3.org/ns/ttml"><body><div><p begin="00:00:00.000" end="00:00:01.000">one</p>
<p begin="00:00:02.000" end="00:00:03.000">two,<br/>three</p></div></body></tt>"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("show.ass", ASS),
        ("show.sub", "{1}{1}25\n{0}{25}one\n{50}{75}two,|three\n"),
        ("show.smi", SAMI),
        ("show.ttml", TTML),
    ],
)
def test_forms_of_pysubs2(tmp_path, name, content):
    pytest.importorskip("pysubs2")
    captions = found(tmp_path, name, content)
    starts_and_texts = [(caption.start, caption.text) for caption in captions.captions]
    assert starts_and_texts == [(0.0, "one"), (2.0, "two, three")]
    if name != "show.smi":  # it has no ends: pysubs2 guesses them
        assert [caption.end for caption in captions.captions] == [1.0, 3.0]


def test_pysubs2_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysubs2", None)
    (problem,) = found(tmp_path, "show.ass", ASS).problems
    assert "show.ass: expected the package pysubs2 to read .ass files" in problem
    assert problem.endswith("found none; pip install 'mcn-lightning[extract]'")


# --- what is damaged -------------------------------------------------------------------------------------------------


def test_a_damaged_line_of_times_is_named_and_its_words_join_no_other_caption(tmp_path):
    content = """WEBVTT

00:00.000 --> 00:01.000
one

00:01.000 -> 00:02.000
lost

NOTE no --> times

00:0x.000 --> 00:03.000
lost too

name
00:05.000 --> 00:04.000
backwards

00:06.000 --> 00:07.000
last
"""
    captions = found(tmp_path, "show.vtt", content)
    assert rows(captions) == [(0.0, 1.0, "one"), (6.0, 7.0, "last")]
    assert [problem.partition(": ")[0] for problem in captions.problems] == [
        f"{tmp_path / 'show.vtt'}, line {number}" for number in (6, 11, 15)
    ]
    assert "expected lines of times such as" in captions.problems[0]
    assert "found 00:01.000 -> 00:02.000" in captions.problems[0]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("show.ass", ASS + "Dialogue: 0,0:00:0x.00,0:00:05.00,Default,,0,0,0,,bad\n", 9),
        ("show.sub", "{1}{1}25\n{0}{25}one\n50}{75}bad\n{50}{75}two, three", 3),
    ],
)
def test_a_damaged_line_costs_its_caption_alone(tmp_path, name, content, line):
    pytest.importorskip("pysubs2")
    captions = found(tmp_path, name, content)
    assert [caption.text for caption in captions.captions] == ["one", "two, three"]
    assert captions.problems[0].startswith(f"{tmp_path / name}, line {line}: expected the times of a caption, found ")


def test_a_damaged_caption_in_json_is_named_by_its_number(tmp_path):
    segments = [
        {"start": 0, "end": 1, "text": "one"},
        {"start": None, "end": 2, "text": "two"},
        {"start": 3, "end": 2, "text": "three"},
        "four",
        {"start": 4, "end": 5, "text": None},
        {"start": -1, "end": 5, "text": "six"},
    ]
    captions = found(tmp_path, "show.json", {"segments": segments})
    assert rows(captions) == [(0.0, 1.0, "one")]
    assert [re.match(r"(.*), caption (\d):", problem)[2] for problem in captions.problems] == ["2", "3", "4", "5", "6"]
    assert "found None and 2" in captions.problems[0] and "found 3 s and 2 s" in captions.problems[1]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("show.vtt", "WEBVTT\n", "expected subtitles with lines of times such as 00:01:02.345"),
        ("show.srt", b"1\n00:00:01,000 --> 00:00:02,000\ncaf\xe9\n", "Latin-1"),
        ("show.json", "{\n  1\n}", "no whole JSON (Expecting property name enclosed in double quotes: line 2 column 3"),
        ("show.json", "{}", "expected the columns start, end and text"),
        ("show.json3", "3", "expected the captions of a video, found 3"),
        ("show.json3", "{}", "expected the columns start, end and text"),
        ("show.sub", "{0}{25}one\n", "line 1: expected the frame rate of MicroDVD subtitles"),
        ("show.ttml", "<tt><bo", "expected ttml subtitles, found unclosed token: line 1, column 4"),
        ("show.ass", "[Script Info]\n", "expected ass subtitles, found no captions"),
    ],
)
def test_a_file_that_is_not_understood_is_named_in_one_line(tmp_path, name, content, part):
    pytest.importorskip("pysubs2")
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    captions = find_captions(video(tmp_path), "show")
    assert not captions
    (problem,) = captions.problems
    assert problem.startswith(str(tmp_path / name)) and part in problem and "\n" not in problem


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


@pytest.mark.parametrize("name", ["captions.json", "captions.csv", "segments.json"])
def test_one_table_of_all_videos(tmp_path, name):
    entry = {"start": [0.0, 2.0], "end": [1.0, 3.0], "text": ["one", "[Music]"]}
    segments = [dict(zip(entry, row, strict=True)) for row in zip(*entry.values(), strict=True)]
    content = {
        "captions.json": json.dumps({"show": entry, "other": entry}),
        "captions.csv": "video,start,end,text\nshow,2.0,3.0,[Music]\nshow,0.0,00:00:01.0,one\nother,0,1,x\n",
        "segments.json": json.dumps({"show": {"segments": segments}, "other": {"segments": segments}}),
    }[name]
    (tmp_path / name).write_text(content)
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
